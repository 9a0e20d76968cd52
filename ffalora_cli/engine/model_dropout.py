"""Dropout of the frozen model itself, with masks of each row's own keys.

A model in training mode drops by ``nn.functional.dropout`` and in its attention, whatever family it
is: a ``TorchFunctionMode`` around its forward pass does both with keyed masks instead. An entry's
mask is a function of (client, round, step, row, place in the model, place in the row): of no other
row, of no padding, of no device. So an example's gradient is its own, and privacy's sensitivity is
what it was. What a family draws in another way (stochastic depth), or drops for all rows at once
(DeBERTa's table of relative positions), is refused before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ffalora_cli import keys
from ffalora_cli.adapters.context import Context
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.job import LocalJob

OTHER_DRAWS = frozenset({"rand", "rand_like", "randn", "randn_like", "bernoulli", "bernoulli_"})
OTHER_DRAWS |= {"uniform_", "normal_", "dropout2d", "alpha_dropout", "feature_alpha_dropout"}
AT_ONCE = 1 << 18  # entries of a mask made at a time: they stay in a processor's cache
AXIS_BITS = 16  # of an entry's place along an axis of its row: no axis is longer


def model_dropout(
    context: Context, job: LocalJob, step: int, slots: np.ndarray, rows: np.ndarray
) -> ModelDropout | None:
    """What to put around the forward pass of some rows; None where the job leaves the model whole.

    Args:
        context: counts the places; new for a model without one.
        job: says the rate and the key.
        step: of the round.
        slots: int64 [examples], each row's client among the job's.
        rows: int64 [examples], of the training set.
    """
    if job.model_dropout is None:
        return None
    drawn = [
        keys.derive(
            job.dropout_key, "model dropout", int(job.clients[slot]), job.round, step, int(row)
        )
        for slot, row in zip(slots, rows, strict=True)
    ]
    return ModelDropout(context, job.model_dropout, np.array([keys.torch_seed(k) for k in drawn]))


class ModelDropout(TorchFunctionMode):
    """Replaces dropout and attention with dropout in the passes it is around."""

    def __init__(self, context: Context, rate: float | Literal["own"], words: np.ndarray) -> None:
        super().__init__()
        self.context = context
        self.rate = rate
        self.words = torch.from_numpy(words)  # int64 [examples]

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """``func`` itself, but for what draws."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if getattr(func, "__name__", "") in OTHER_DRAWS:
            raise self._refused(f"its {func.__name__} is not of single entries (stochastic depth)")
        return func(*args, **kwargs)

    def _dropout(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        rate = p if self.rate == "own" else self.rate
        return self._dropped(x, rate) if training and rate > 0 else x

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:  # [examples, heads, tokens, head_dim]
        """Softmax attention whose weights are dropped."""
        rate = dropout_p if self.rate == "own" else self.rate
        if rate == 0:
            how: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
            return functional.scaled_dot_product_attention(query, key, value, attn_mask, **how)
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        return self._dropped(weights, rate) @ value

    def _dropped(self, x: Tensor, rate: float) -> Tensor:
        """``x [examples * parts, ...]`` without some entries, the others over ``1 - rate``."""
        count = len(self.words)
        if x.shape[0] % count or x.dim() > 4 + (x.shape[0] == count):
            raise self._refused(f"it drops in a tensor of shape {tuple(x.shape)}")
        shape = x.shape[1:] if x.shape[0] == count else (x.shape[0] // count, *x.shape[1:])
        self.context.dropped += 1
        words = keys.mixed(self.words, torch.tensor(self.context.dropped)).to(x.device)
        place = torch.zeros((), dtype=torch.int64, device=x.device)
        for size in shape:
            place = (place << AXIS_BITS)[..., None] + torch.arange(size, device=x.device)
        least = int((2 * rate - 1) * 2.0**63)  # of a whole number that is drawn and kept
        some = max(1, AT_ONCE // max(place.numel(), 1))
        kept = [
            keys.mixed(w.view(-1, *[1] * len(shape)), place) >= least for w in words.split(some)
        ]
        return x * (torch.cat(kept).view(x.shape).to(x.dtype) / (1.0 - rate))

    def _refused(self, what: str) -> ConfigError:
        return ConfigError(
            f"model.dropout={self.rate}: with this model {what}, which no row has for itself; use "
            "model.dropout=null, or adapter.dropout"
        )
