"""Holds a split as a model reads it; of texts the token ids, flat, padded row by row as wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.groups import KeyedRows, as_keys, normalised
from ffalora_cli.data.load import Rows
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.targets import Targets

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

BATCH = 8192  # texts handed to the tokenizer at once: enough for its threads, small in memory
TARGET_ARRAYS = {
    "values": "labels",
    "offsets": "target_offsets",
    "positions": "target_positions",
    "weights": "target_weights",
    "strata": "strata",
}
"""Fields of ``Targets`` under the names that a split's hash and files have for them."""
DTYPES = {
    "input_ids": np.int32,
    "token_type_ids": np.int8,
    "positions": np.int32,
    "values": np.int64,
}
"""What ``Task.encode`` gives a list of for each row."""


@dataclass(frozen=True, kw_only=True)
class Split(KeyedRows):
    """The rows of a split, made ready for a model.

    Attributes:
        ARRAYS: fields that files and ``content`` are made of, in this order.
        FACTS: fields that are stored beside them.
        UNHASHED: arrays that ``content`` leaves out, as another one says what is in them.
    """

    ARRAYS: ClassVar[tuple[str, ...]]
    FACTS: ClassVar[tuple[str, ...]] = ("client_names", "fingerprint", "empty_texts", "too_long")
    UNHASHED: ClassVar[tuple[str, ...]] = ()
    fingerprint: str  # of the rows (texts, labels, clients, units), not of what the model reads
    empty_texts: int = 0  # of pairs of the whole split: the other text is there
    too_long: int = 0  # rows of the whole split of which no target fits: they are left out

    @cached_property
    def content(self) -> str:
        """BLAKE2b of every array: tokens, targets, clients and whatever else a row has.

        Unlike ``fingerprint`` it is of what the model reads, to the last token or pixel.
        """
        digest = hashlib.blake2b(digest_size=32)
        for name, value in self.arrays().items():
            if name not in self.UNHASHED:
                digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
                digest.update(np.ascontiguousarray(value))
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that is there, by name; a target's values are called ``labels``."""
        found: dict[str, np.ndarray] = {}
        for part in self.ARRAYS:
            value = getattr(self, part)
            if isinstance(value, Targets):
                found |= {TARGET_ARRAYS[name]: array for name, array in value.arrays().items()}
            elif value is not None:
                found[part] = value
        return found

    def chosen(self, rows: np.ndarray) -> str:
        """Fingerprint of some of the rows, int64 [m]."""
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update(rows.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Encoded(Split):
    """A split as flat token ids: row ``i`` is ``ids[offsets[i]:offsets[i + 1]]``."""

    ARRAYS = ("ids", "type_ids", "offsets", "targets", "clients", "hashes", "text_keys",
              "sequence_keys", "unit_keys")  # fmt: skip
    FACTS = (*Split.FACTS, "pad_id")
    ids: np.ndarray  # int32 [tokens]
    type_ids: np.ndarray | None = None  # int8 [tokens]; None when the model takes none
    offsets: np.ndarray  # int64 [n + 1]
    sequence_keys: np.ndarray  # uint64 [n], equal where these are one sequence to the model
    pad_id: int

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [n]."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def stored_bytes(self) -> int:
        """What the rows take in the cache."""
        return self.ids.nbytes + self.offsets.nbytes + 16 * len(self)

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> dict[str, torch.Tensor]:
        """Model inputs of some rows, padded on the right.

        Args:
            rows: row numbers, [b]; repeats allowed.
            pad_to: width; None means the longest of these rows.

        Returns:
            ``input_ids``, ``attention_mask`` and, where the model takes them, ``token_type_ids``;
            int64 [b, width].

        Raises:
            ValueError: a row is longer than ``pad_to``.
        """
        import torch

        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=0))
        width = longest if pad_to is None else pad_to
        if longest > width:
            raise ValueError(f"pad_to={width} is shorter than the longest row, {longest} tokens")
        columns = np.arange(width)
        mask = columns < lengths[:, None]  # [b, width]
        index = np.where(mask, self.offsets[rows][:, None] + columns, 0)
        arrays = {"input_ids": np.where(mask, self.ids[index], self.pad_id), "attention_mask": mask}
        if self.type_ids is not None:
            arrays["token_type_ids"] = np.where(mask, self.type_ids[index], 0)
        return {name: torch.from_numpy(value.astype(np.int64)) for name, value in arrays.items()}

    def packed(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token and segment ids of some rows end to end, int64 [tokens]; no padding.

        Args:
            rows: row numbers, [b]; repeats allowed.

        Returns:
            Token ids, and segment ids where the model takes them (else None).
        """
        import torch

        index = self._index(np.asarray(rows, dtype=np.int64))
        ids = torch.from_numpy(self.ids[index].astype(np.int64))
        if self.type_ids is None:
            return ids, None
        return ids, torch.from_numpy(self.type_ids[index].astype(np.int64))

    def _index(self, rows: np.ndarray) -> np.ndarray:
        """Positions in ``ids`` of the tokens of ``rows``, int64 [tokens]."""
        lengths = self.lengths[rows].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return np.repeat(self.offsets[rows] - starts[:-1], lengths) + np.arange(starts[-1])

    def take(self, rows: np.ndarray) -> Encoded:
        """Some rows as a split of its own (copied into memory). rows: [m]."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows].astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = self._index(rows)
        return Encoded(
            **vars(self.keyed(rows)),
            ids=self.ids[index],
            type_ids=None if self.type_ids is None else self.type_ids[index],
            offsets=offsets,
            sequence_keys=self.sequence_keys[rows],
            pad_id=self.pad_id,
            fingerprint=self.chosen(rows),
        )


def encode(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, task: TaskConfig
) -> Encoded:
    """Tokenise a split as its kind of task does.

    Normalised texts are tokenised as well, for ``sequence_keys``: what a row's unit of privacy is
    must follow from the row alone, or one row more could join two units.

    Raises:
        ConfigError: targets that are none, or no row of which one fits.
    """
    kind = registry.get(task.kind)
    found: dict[str, list[np.ndarray]] = {}
    keys = []
    for start in range(0, len(rows), BATCH):
        batch = [column[start : start + BATCH] for column in rows.texts]
        tokens = kind.encode(task, batch, tokenizer, max_length)
        alike = [[normalised(text) for text in column] for column in batch]
        same = alike == batch
        keys.append(_sequences(tokens if same else kind.encode(task, alike, tokenizer, max_length)))
        for name, lists in tokens.items():
            counts = np.fromiter(map(len, lists), np.int64, len(lists))
            found.setdefault(f"of_{name}", []).append(counts)
            flat = np.fromiter(chain.from_iterable(lists), DTYPES[name], int(counts.sum()))
            found.setdefault(name, []).append(flat)
    flat = {name: np.concatenate(parts) for name, parts in found.items()}
    targets = _placed(rows.targets, flat, task.loss_reduction)
    targets.check(flat["of_input_ids"], rows.origin)
    encoded = Encoded(
        **{part.name: getattr(rows, part.name) for part in fields(KeyedRows)}
        | {"targets": targets},
        ids=flat["input_ids"],
        type_ids=flat.get("token_type_ids"),
        offsets=np.r_[0, np.cumsum(flat["of_input_ids"])],
        sequence_keys=np.concatenate(keys),
        pad_id=int(tokenizer.pad_token_id or 0),  # a run that pads was refused without one
        fingerprint=rows.fingerprint,
        empty_texts=rows.empty_texts,
    )
    return _fitting(encoded, rows.origin, max_length)


def _placed(targets: Targets, flat: Mapping[str, np.ndarray], reduction: str) -> Targets:
    """Targets where the tokens are, of those that the length leaves; else as the table has them."""
    if "positions" not in flat:
        return targets
    counts = flat["of_positions"]
    owner = np.repeat(np.arange(len(counts)), counts)
    offsets = np.r_[0, np.cumsum(counts)]
    if "values" in flat:
        values = flat["values"]
    else:  # the first ones of each row
        assert targets.offsets is not None
        values = targets.values[targets.offsets[owner] + np.arange(len(owner)) - offsets[owner]]
    weights = 1.0 / counts[owner] if reduction == "mean" else np.ones(len(owner))
    return Targets(values, offsets, flat["positions"], weights.astype(np.float32), targets.strata)


def _fitting(encoded: Encoded, origin: str, max_length: int) -> Encoded:
    """Without the rows that have no target."""
    ends = encoded.targets.offsets
    if ends is None or (np.diff(ends) > 0).all():
        return encoded
    kept = np.flatnonzero(np.diff(ends))
    if not len(kept):
        raise ConfigError(
            f"{origin}: no row's answer fits task.max_length={max_length}; make it larger"
        )
    return replace(
        encoded.take(kept),
        empty_texts=encoded.empty_texts,
        too_long=len(encoded) - len(kept),
    )


def _sequences(tokens: Mapping[str, Any]) -> np.ndarray:
    """A hash of the token and segment ids of each row, uint64 [rows]."""
    types = tokens.get("token_type_ids") or ([] for _ in tokens["input_ids"])
    return as_keys(
        np.array([len(row), *row, *segments], np.int32).tobytes()
        for row, segments in zip(tokens["input_ids"], types, strict=False)
    )
