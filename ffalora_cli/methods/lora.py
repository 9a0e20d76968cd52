"""FedIT: plain federated averaging of both LoRA factors; every default of ``Method``."""

from __future__ import annotations

from ffalora_cli.methods.base import Method


class LoRA(Method):
    """``A = sum w_k A_k`` and ``B = sum w_k B_k``, each for itself.

    Not exact: the product of the means is not the mean of the products (FFA-LoRA's discordance).
    """

    name = "lora"
    title = "FedIT (LoRA with federated averaging)"
    reference = (
        "Zhang, Vahidian, Kuo, Li, Zhang, Yu, Zhou, Wang, Chen: Towards Building the Federated "
        "GPT: Federated Instruction Tuning. ICASSP 2024, arXiv 2305.05644"
    )
    travels = "Both factors up, both means down."
    uplink_formula = "r (d_in + d_out) b"
    downlink_formula = "r (d_in + d_out) b"


METHOD = LoRA()
