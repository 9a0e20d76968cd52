"""FedSA-LoRA: both factors are trained, A is averaged, B and the head stay with their client."""

from __future__ import annotations

from ffalora_cli.methods.base import Exchange, Method


class FedSALoRA(Method):
    """``A = sum w_k A_k``; every client keeps its own B.

    There is no common model, so its accuracy is the mean over clients and does not compare with a
    global model's. Under example-level privacy the personal tensors are clipped and noised with A:
    they enter the forward pass from which A's gradient is released.
    """

    name = "fedsa_lora"
    title = "FedSA-LoRA (share A, keep B)"
    reference = (
        "Guo, Zeng, Wang, Fan, Wang, Qu: Selective Aggregation for Low-Rank Adaptation in "
        "Federated Learning. ICLR 2025, arXiv 2410.01463"
    )
    travels = "A up, its mean down; B and a personal head never."
    uplink_formula = "r d_in b"
    downlink_formula = "r d_in b"
    cycle = ((Exchange(("lora_a", "lora_b"), kept=("lora_b",)),),)
    personal_head = True
    exact = None


METHOD = FedSALoRA()
