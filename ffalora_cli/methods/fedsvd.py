"""FedSVD: train B; after each round an SVD of ``B A`` gives A orthonormal rows again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.methods.base import AggregateContext, Exchange, Method
from ffalora_cli.types import ServerState, ServerUpdate, Site, Stack, Tensors

if TYPE_CHECKING:
    import torch


class FedSVD(Method):
    """FFA-LoRA whose A follows the data: ``B A = U S V^T``, then ``B = U S`` and ``A = V^T``.

    The product is unchanged, so the round is as exact as FFA-LoRA's; the SVD is post-processing
    of the mean and costs no privacy.
    """

    name = "fedsvd"
    title = "FedSVD (re-orthogonalised A)"
    reference = (
        "Lee, Park, Lee, Wagner, Seong, Bocklet, Lee, Hwang: FedSVD: Adaptive Orthogonalization "
        "for Private Federated Learning with LoRA. NeurIPS 2025, arXiv 2505.12805"
    )
    travels = "B up; the re-factored A and B down."
    uplink_formula = "r d_out b"
    downlink_formula = "r (d_in + d_out) b"
    needs_plain_averaging = True  # moments of B would live in the basis the SVD replaces
    cycle = ((Exchange(("lora_b",)),),)
    exact = True

    def aggregate(
        self,
        state: ServerState,
        mean: Tensors,
        uploads: Stack | None,
        weights: torch.Tensor,
        context: AggregateContext,
    ) -> ServerUpdate:
        """The mean of B, re-factored with the A it was trained on; both factors change."""
        tensors = dict(mean)
        for site in context.sites:
            names = f"{site.name}.lora_a", f"{site.name}.lora_b"
            factors = _refactor(site, state.tensors[names[0]], mean[names[1]])
            tensors.update(zip(names, factors, strict=True))
        return ServerUpdate(tensors)

    def downlink_elements(self, site: Site, rank: int, round: int, clients: int) -> int:
        """Both factors, once there has been an SVD."""
        if round == 1:
            return 0
        return rank * (site.d_in + site.d_out)


def _refactor(site: Site, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(V^T, U S)`` of ``b @ a`` from its small core; the dense product is never formed.

    With QR decompositions ``b = Q_b R_b`` and ``a^T = Q_a R_a`` the product is
    ``Q_b (R_b R_a^T) Q_a^T``: an SVD of the rank x rank core is all that is left. Where ``b`` is
    rank-deficient (zero before any training) the missing rows of A complete the basis of the old
    A's rows and the missing columns of B are zero.
    """
    import torch

    rank = a.shape[0]
    if rank > min(site.d_in, site.d_out):
        raise ConfigError(
            f"adapter.rank={rank} exceeds the width of {site.name} ({site.d_in} in, {site.d_out} "
            f"out): fedsvd needs {rank} orthonormal rows; set adapter.rank to at most "
            f"{min(site.d_in, site.d_out)}"
        )
    basis_b, small_b = torch.linalg.qr(b)  # [d_out, rank], [rank, rank]
    basis_a, small_a = torch.linalg.qr(a.T)  # [d_in, rank], [rank, rank]
    u, s, vt = torch.linalg.svd(small_b @ small_a.T)
    rows = vt @ basis_a.T  # [rank, d_in]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))  # [rank, 1]
    sign = largest.sign()  # SVD fixes A's rows up to sign only: the largest entry is positive
    return sign * rows, (basis_b @ (u * s)) * sign.T


METHOD = FedSVD()
