"""Checks, when a network is built, that its forward pass without padding is the model's own.

No list of families would be complete, so three short rows of random tokens decide: every site with
factors of each row's own, without padding against padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.adapters.context import Context
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.config.errors import ConfigError, one_line
from ffalora_cli.models.families import attention, packed, vocabulary
from ffalora_cli.models.reading import quiet_transformers
from ffalora_cli.types import Tensors

LENGTHS, MOST = (7, 4, 3), 256  # the first row goes beyond a sliding window of less than MOST
CLASS_ROWS = 2  # price of a class: the first row has one, the others share one and are filled up
SPREAD = 0.02  # of the factors
TIGHT, LOOSE = 1e-4, 0.1  # relative differences: in fp32, and where products are rounded more


@dataclass(frozen=True)
class _Rows:
    """Rows of random tokens."""

    ids: Tensor  # int64 [tokens]
    lengths: np.ndarray

    @staticmethod
    def of(model: Any) -> _Rows:
        """Three rows for a model; none of their tokens is its padding."""
        window = getattr(model.config, "sliding_window", None) or MOST
        first = window + 2 if window < MOST else LENGTHS[0]
        lengths = np.array([first, *LENGTHS[1:]])
        words = getattr(model.config.get_text_config(), "vocab_size", 100)  # CANINE reads letters
        drawn = np.random.default_rng(0).integers(0, words - 1, lengths.sum())
        padding = getattr(model.config, "pad_token_id", None)
        return _Rows(torch.from_numpy(drawn + (drawn == padding)), lengths)

    def padded(self, pad_id: int) -> Tensors:
        """``input_ids`` and ``attention_mask``, int64 ``[rows, tokens]``."""
        mask = torch.from_numpy(np.arange(self.lengths[0]) < self.lengths[:, None])
        ids = torch.full(mask.shape, pad_id).masked_scatter(mask, self.ids)
        return {"input_ids": ids, "attention_mask": mask.long()}


def refusal(model: Any, reads: str) -> str:
    """Why a model cannot run without padding, as far as its modules tell; empty where it can.

    Args:
        model: on any device; no value is looked at. It is changed: take one that is of no more use.
        reads: as its task does (``Task.reads``).
    """
    attention.install(model, Context())
    return _attempt(model, reads, _Rows.of(model), {})[1]


def why_padded(network: Any, real: bool) -> str:
    """Why a network pads; empty where its outputs without padding are those with it.

    Args:
        network: a ``models.network.Network``, as built.
        real: whether its weights have values to compare.
    """
    rows, generator = _Rows.of(network.model), torch.Generator().manual_seed(0)
    values = {
        name: (value + SPREAD * torch.randn(3, *value.shape, generator=generator))
        for name, value in network.initial.items()
        if name not in network.head_names
    }
    values = {name: value.to(network.device) for name, value in values.items()}
    found, reason = _attempt(network.model, network.task.reads, rows, values)
    if found is None or not real:
        return reason
    pad_id = getattr(network.model.config, "pad_token_id", None) or 0
    inputs = {name: t.to(network.device) for name, t in rows.padded(pad_id).items()}
    with torch.no_grad():
        wanted = network.read(inputs, values, None).float()
    if wanted.dim() == 3:  # every token's: what stands beside them is nobody's
        wanted = wanted[inputs["attention_mask"].bool()]
    network.context.values = {}
    off = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    whole = next(network.model.parameters()).dtype == torch.float32
    limit = TIGHT if whole and torch.get_float32_matmul_precision() == "highest" else LOOSE
    return "" if off <= limit else f"its outputs without padding are off by {off:.0e}"


def check_rows_apart(network: Any) -> None:
    """Refuse, under privacy, a model that pads and whose outputs show beside whom.

    A row more or less would change those of others by the padding it brings, whatever it is clipped
    to. Convolutions and attention by samples or landmarks do not look at masks.

    Args:
        network: a ``models.network.Network`` with values, as built.

    Raises:
        ConfigError: says by how much.
    """
    model = network.plain
    if not network.padding or model.device.type == "meta":
        return
    rows = _Rows.of(model)
    padded = {
        name: values.to(model.device)
        for name, values in rows.padded(getattr(model.config, "pad_token_id", None) or 0).items()
    }
    limit = TIGHT if torch.get_float32_matmul_precision() == "highest" else LOOSE
    try:
        off = _beside(model, padded, rows.lengths)
        said = "" if off <= limit else f"changes by {off:.0e}"
    except RuntimeError as error:  # of a family that takes no rows of these lengths
        said = f"may change ({one_line(str(error))[:80]})"
    if said:
        raise ConfigError(
            f"model.source: what this {model.config.model_type} model says of a text {said} with "
            "the texts that it is padded beside, so no privacy unit holds; use another model, or "
            "privacy=none"
        )


def _beside(model: Any, padded: Tensors, lengths: np.ndarray) -> float:
    """Largest difference of rows' outputs padded and alone, as a share of the largest output."""
    off = 0.0
    with torch.no_grad():
        beside = model(**padded)[0].float()
        for row, length in enumerate(lengths):
            alone = model(**{name: v[row : row + 1, :length] for name, v in padded.items()})[0][0]
            found = beside[row] if alone.dim() == 1 else beside[row, :length]
            off = max(off, float((found - alone).abs().max()))
    return off / max(float(beside.abs().max()), 1e-30)


def _attempt(model: Any, reads: str, rows: _Rows, values: Tensors) -> tuple[Tensor | None, str]:
    """Outputs without padding (of tokens alone), or why there are none."""
    context = model.context
    layout = Layout.of(rows.lengths, CLASS_ROWS)
    inputs = packed.Packed.of(rows.ids, None, layout).to(model.device)
    context.values, context.attended = dict(values), False
    found: Tensor | None = None
    reason = ""
    try:
        with torch.no_grad(), quiet_transformers():
            part = vocabulary.part_read(model, reads)
            found = packed.outputs(part, context, inputs, reads == "example").float()
            if reads != "example":
                found = found[torch.from_numpy(layout.owner >= 0)]
    except Exception as error:  # of a family that nobody has tried
        said = one_line(f"{type(error).__name__}: {error}")
        reason = f"its modules do not take rows end to end ({said})"
    if not context.attended:
        return None, "its attention is not transformers' AttentionInterface"
    if getattr(model.config, "attention_chunk_size", None):  # short rows would not show it
        return None, "its attention is in chunks, which AttentionInterface is not told"
    return found, reason
