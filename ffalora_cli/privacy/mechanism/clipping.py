"""Clips per-example gradients so that one example moves a step's sum by at most C.

Three rules over the tensors trained in a round, each with joint sensitivity ``max_grad_norm``:

- ``flat``: one norm over everything, factor ``min(1, C / (norm + 1e-6))``, as Opacus;
- ``per_layer``: every layer (all factors of a site together, each head layer) on its own, to
  ``C / sqrt(layers)``: the squares of the layers' bounds add up to C^2;
- ``automatic``: one norm, factor ``C / (norm + 0.01)``: every example is brought to nearly the same
  norm, below C (AUTO-S of Bu, Wang, Zha, Karypis 2023, arXiv 2206.07136).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

ClipKind = Literal["flat", "per_layer", "automatic"]

SLACK = 1e-6  # of flat and per_layer, as Opacus
STABILITY = 0.01  # of automatic: the constant Bu et al. recommend


@dataclass(frozen=True)
class ClipRule:
    """A clip rule over named tensors.

    Attributes:
        kind: which of the three.
        max_grad_norm: C > 0, the joint sensitivity.
        groups: tensor name -> index of the group that shares a norm, in the tensors' order.
    """

    kind: ClipKind
    max_grad_norm: float | torch.Tensor
    groups: Mapping[str, int]

    @property
    def group_bound(self) -> float | torch.Tensor:
        """Largest norm one group of an example keeps."""
        return self.max_grad_norm / math.sqrt(1 + max(self.groups.values(), default=0))


def clip_rule(
    kind: ClipKind, max_grad_norm: float | torch.Tensor, names: Sequence[str]
) -> ClipRule:
    """The rule over the tensors trained now; ``names`` in the order of their gradients.

    A tensor's layer is its name without the last part: all factors of a site are one layer, as
    are weight and bias of a head layer.
    """
    layers = [name.rpartition(".")[0] if kind == "per_layer" else "" for name in names]
    index = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    return ClipRule(kind, max_grad_norm, {n: index[x] for n, x in zip(names, layers, strict=True)})


def factors(square_norms: torch.Tensor, rule: ClipRule) -> torch.Tensor:
    """Factor of each example and tensor.

    Args:
        square_norms: squared norm of each example's gradient ``[examples, tensors]``.
        rule: over these tensors, in this order.

    Returns:
        ``[examples, tensors]`` fp32; 0 for an example with any norm that is not finite. The caller
        replaces those rows by zeros (``torch.where``): zero times NaN is NaN.
    """
    import torch

    squares = square_norms.float()
    # Columns by number, no index tensor: nothing to copy to a GPU in the middle of a step.
    group = list(rule.groups.values())
    sums: dict[int, torch.Tensor] = {}
    for column, index in enumerate(group):
        sums[index] = squares[:, column] + sums.get(index, 0.0)
    summed = torch.stack([sums[index] for index in sorted(sums)], 1)
    norms = summed.sqrt()  # [examples, groups]
    if rule.kind == "automatic":
        cut = rule.group_bound / (norms + STABILITY)
    else:
        cut = (rule.group_bound / (norms + SLACK)).clamp(max=1.0)
    finite = torch.isfinite(squares.sum(1, keepdim=True))
    kept = torch.where(finite, cut, 0.0)
    return torch.stack([kept[:, index] for index in group], 1)


def was_cut(factors: torch.Tensor) -> torch.Tensor:
    """Which examples a rule made smaller in any tensor, bool ``[examples]``."""
    return (factors < 1.0).any(1)
