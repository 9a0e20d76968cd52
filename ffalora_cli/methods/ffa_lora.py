"""FFA-LoRA: A is drawn once and frozen everywhere; B alone is trained and sent."""

from __future__ import annotations

from ffalora_cli.methods.base import Exchange, Method


class FFALoRA(Method):
    """``B = sum w_k B_k`` under one common A, so ``B A`` is the mean of the ``B_k A``: exact."""

    name = "ffa_lora"
    title = "FFA-LoRA (Federated Freeze-A LoRA)"
    reference = (
        "Sun, Li, Li, Ding: Improving LoRA in Privacy-preserving Federated Learning. "
        "ICLR 2024, arXiv 2403.12313"
    )
    travels = "B up, its mean down; A never, only its 8-byte seed, once."
    uplink_formula = "r d_out b"
    downlink_formula = "r d_out b"
    cycle = ((Exchange(("lora_b",)),),)
    exact = True


METHOD = FFALoRA()
