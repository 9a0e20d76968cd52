"""FedEx-LoRA: average both factors, and put what averaging got wrong into the frozen weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli.config.schema import INSIDE_CLIENTS
from ffalora_cli.methods.base import AggregateContext, Method
from ffalora_cli.types import Merge, ServerState, ServerUpdate, Site, Stack, Tensors

if TYPE_CHECKING:
    import torch


class FedExLoRA(Method):
    """Means of A and B, and ``W += scale * (mean(B A) - mean(B) mean(A))`` at every site.

    The residual is sent by exact factors of rank (K - 1) r, where the paper bounds the rank by
    K r: the deviations ``w_k (A_k - mean(A))`` add up to zero, so the last client's can be left
    out once its B is subtracted from all others.
    """

    name = "fedex_lora"
    title = "FedEx-LoRA (exact aggregation)"
    reference = (
        "Singhal, Ponkshe, Vepakomma: FedEx-LoRA: Exact Aggregation for Federated and Efficient "
        "Fine-Tuning of Large Language Models. ACL 2025, arXiv 2410.09432"
    )
    travels = "Both factors up; both means and the residual merge down (all merges missed, later)."
    uplink_formula = "r (d_in + d_out) b"
    downlink_formula = "min(K r (d_in + d_out), r (d_in + d_out) + d_out d_in) b"
    linear = False
    units = frozenset({"none", *INSIDE_CLIENTS})
    refusal = (
        "its residual is a product of two clients' uploads, so one client's influence on the "
        "result is not bounded by clipping its upload"
    )
    needs_plain_averaging = True  # the residual is relative to the plain means
    exact = True
    merges = True

    def aggregate(
        self,
        state: ServerState,
        mean: Tensors,
        uploads: Stack | None,
        weights: torch.Tensor,
        context: AggregateContext,
    ) -> ServerUpdate:
        """Plain means, and one residual merge per site (none for a single client)."""
        if uploads is None:
            raise ValueError("fedex_lora needs every client's upload, not only their mean")
        if len(weights) == 1:
            return ServerUpdate(mean)
        merges = tuple(_residual(site, mean, uploads, weights) for site in context.sites)
        return ServerUpdate(mean, merges)

    def downlink_elements(self, site: Site, rank: int, round: int, clients: int) -> int:
        """Both means and the cheaper of the residual's factors and the dense change."""
        both = rank * (site.d_in + site.d_out)
        if round == 1:
            return 0
        return both + min((clients - 1) * both, site.d_in * site.d_out)


def _residual(site: Site, mean: Tensors, uploads: Stack, weights: torch.Tensor) -> Merge:
    """Exact factors of ``sum w_k B_k A_k - (sum w_k B_k)(sum w_k A_k)``."""
    a = uploads[f"{site.name}.lora_a"]  # [clients, rank, d_in]
    b = uploads[f"{site.name}.lora_b"]  # [clients, d_out, rank]
    share = weights.to(a)[:-1, None, None]
    left = b[:-1] - b[-1]  # [clients - 1, d_out, rank]
    right = share * (a[:-1] - mean[f"{site.name}.lora_a"])  # [clients - 1, rank, d_in]
    return Merge(
        site.name,
        left.transpose(0, 1).reshape(site.d_out, -1),  # [d_out, (clients - 1) rank]
        right.reshape(-1, site.d_in),  # [(clients - 1) rank, d_in]
    )


METHOD = FedExLoRA()
