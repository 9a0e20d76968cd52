"""RoLoRA: the factors take turns, one trained and averaged per round, the other frozen."""

from __future__ import annotations

from ffalora_cli.methods.base import Exchange, Method


class RoLoRA(Method):
    """Alternating minimisation; each round is exact because one factor is common to all clients.

    Odd rounds train B, even rounds A. B comes first because it starts at zero, where A's gradient
    is zero as well: a first round on A would learn nothing (and, privately, be noise only).
    """

    name = "rolora"
    title = "RoLoRA (alternating optimisation of LoRA)"
    reference = (
        "Chen, Guo, Ju, Dalal, Zhu, Khisti: Robust Federated Finetuning of LLMs via Alternating "
        "Optimization of LoRA. NeurIPS 2025, arXiv 2502.01755"
    )
    travels = "B (odd rounds) or A (even rounds) up; the mean of the one that changed down."
    uplink_formula = "r d_out b (odd rounds) | r d_in b (even rounds)"
    downlink_formula = "r d_in b (odd rounds) | r d_out b (even rounds)"
    cycle = ((Exchange(("lora_b",)),), (Exchange(("lora_a",)),))
    exact = True


METHOD = RoLoRA()
