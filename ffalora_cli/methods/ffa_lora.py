"""FFA-LoRA: A is drawn once and frozen everywhere; B alone is trained and sent."""

from __future__ import annotations

from ffalora_cli.methods.base import Factor, Method


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
    exact = True

    def trainable(self, round: int) -> tuple[Factor, ...]:
        """B, in every round."""
        return ("lora_b",)


METHOD = FFALoRA()
