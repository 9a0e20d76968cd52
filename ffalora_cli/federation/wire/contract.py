"""Checks what every upload must satisfy before the server uses it.

Checked on the unpacked payload of a whole group at once: a client that breaks a rule is left out,
named and charged like the others; nothing it sent reaches a sum. How much an upload counts is not
part of it: the weight is the server's own number of the client's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ffalora_cli.federation.wire import header
from ffalora_cli.federation.wire.codecs import describe
from ffalora_cli.federation.wire.header import Entry, PayloadError
from ffalora_cli.federation.wire.norms import NormLimit
from ffalora_cli.federation.wire.payload import Packed, WireDtype, pack, unpack
from ffalora_cli.methods.base import Method
from ffalora_cli.types import PayloadItem, Stack, Tag, Tensors, TensorSpec

Corrupt = Callable[[int, int, bytes], bytes]
"""(round, client, payload as sent) to what arrives: a simulated adversary or a broken line."""

LATE = "late"  # not a rejection: a straggler's upload is not looked at

REASONS: Mapping[str, str] = {
    "unreadable": "its bytes are no payload",
    "names": "tensors are missing, unknown or of another kind",
    "order": "tensors come in another order",
    "shape": "a tensor has another shape, or sends another part of it",
    "dtype": "a tensor has another dtype",
    "round": "it belongs to another round",
    "client": "it names another client",
    "nonfinite": "it holds NaN or infinity",
    "norm": "its update is far longer than the others'",
}


@dataclass(frozen=True)
class Manifest:
    """What an upload holds."""

    round: int
    number: int  # of the exchange, over all rounds: what the tag says
    specs: Sequence[TensorSpec]  # everything that travels, in this order
    wire_dtype: WireDtype
    method: Method  # which item carries a tensor

    def pack(
        self, clients: np.ndarray, trained: Stack, before: Tensors, covered: Sequence[str] | None
    ) -> Packed:
        """The uploads of ``clients`` from their tensors ``[clients, ...]``.

        Args:
            clients: ids.
            trained: by name.
            before: the tensors the clients started from, by name.
            covered: names the privacy plan clips and noises; None without privacy.

        Raises:
            RuntimeError: a tensor would travel that is neither clipped nor noised.
        """
        uncovered = [s.name for s in self.specs if covered is not None and s.name not in covered]
        if uncovered:
            raise RuntimeError(f"upload of {uncovered} is not covered by the privacy plan")
        tag = Tag(np.full(len(clients), self.number), clients)
        leaving = {spec.name: trained[spec.name] for spec in self.specs}
        before = {spec.name: before[spec.name] for spec in self.specs}
        return pack([tag, *self.method.compress(leaving, before)], self.wire_dtype)

    @property
    def entries(self) -> list[Entry]:
        """What the header of an upload says; shapes are all a method needs to know for it."""
        shapes = {s.name: torch.empty(1, *s.shape, device="meta") for s in self.specs}
        before = {name: values[0] for name, values in shapes.items()}
        tag = Tag(np.zeros(1), np.zeros(1))
        return describe([tag, *self.method.compress(shapes, before)], self.wire_dtype)

    def fault(self, found: Sequence[Entry]) -> str:
        """Reason code of the first structural rule that a header breaks; empty for none."""
        expected = self.entries
        known = [(entry.type, entry.name, entry.kind) for entry in expected]
        named = [(entry.type, entry.name, entry.kind) for entry in found]
        if sorted(named) != sorted(known):
            return "names"
        if named != known:
            return "order"
        for entry, right in zip(found, expected, strict=True):
            if entry.shape != right.shape:
                return "shape"
            if entry.dtype != right.dtype:
                return "dtype"
        return ""

    def tensors(
        self, items: Sequence[PayloadItem], before: Tensors, row: int | None = None
    ) -> Stack:
        """What the clients have trained ``[clients, ...]`` in float32, as the server reads it.

        Args:
            items: of their payloads.
            before: the tensors they started from, ``[clients, ...]`` where each has its own.
            row: which of the clients it is, if ``items`` are one client's.
        """
        before = {
            s.name: before[s.name]
            if row is None or before[s.name].dim() == len(s.shape)
            else before[s.name][row : row + 1]
            for s in self.specs
        }
        stack = self.method.restore(items, before)
        return {spec.name: stack[spec.name].float() for spec in self.specs}


@dataclass(frozen=True)
class Receipt:
    """What the server keeps of a group's uploads."""

    uploads: Stack  # float32 [accepted, ...]
    accepted: np.ndarray  # bool [clients]
    norms: np.ndarray  # float64 [accepted], as the norm limit compares them
    rejected: tuple[Mapping[str, Any], ...]  # {"client": id, "reason": code}


def receive(
    packed: Packed,
    clients: np.ndarray,
    manifest: Manifest,
    before: Tensors,
    limit: NormLimit | None,
    late: np.ndarray,
    corrupt: Corrupt | None = None,
) -> Receipt:
    """Unpack a group's uploads and keep those that satisfy the contract.

    Args:
        packed: uploads of the group, tag first.
        clients: their ids ``[clients]``, as the server knows them from the connection.
        manifest: of the round.
        before: the tensors the clients started from, by name (a client's own: ``[clients, ...]``).
        limit: on the norm of ``upload - before``; None where a clip follows anyway.
        late: uploads that came after the round, bool ``[clients]``.
        corrupt: changes single payloads on their way.
    """
    tag, uploads, reasons = _arrivals(packed, clients, manifest, before, corrupt)
    _mark(reasons, tag.round != manifest.number, "round")
    _mark(reasons, tag.client != clients, "client")
    norms = update_norms(uploads, before)
    _mark(reasons, ~np.isfinite(norms), "nonfinite")
    reasons[late] = LATE
    if limit is not None:
        norms = norms / limit.slack[clients]
        good = reasons == ""
        far = np.zeros(len(clients), dtype=bool)
        far[good] = limit.exceeded(norms[good])
        _mark(reasons, far, "norm")
    accepted = reasons == ""
    if not accepted.all():
        rows = torch.from_numpy(accepted)
        uploads = {name: values[rows] for name, values in uploads.items()}
    bad = np.flatnonzero(~accepted & (reasons != LATE))
    rejected = tuple({"client": int(clients[i]), "reason": str(reasons[i])} for i in bad)
    return Receipt(uploads, accepted, norms[accepted], rejected)


def update_norms(uploads: Stack, before: Tensors) -> np.ndarray:
    """Length of each client's whole update, float64 ``[clients]``; not finite where a value is not.

    Sums are float64: no finite float32 upload overflows them.
    """
    squares = [
        torch.linalg.vector_norm(
            (values - before[name]).flatten(1), dim=1, dtype=torch.float64
        ).square()
        for name, values in uploads.items()
    ]
    return torch.stack(squares).sum(0).sqrt().numpy()


def _mark(reasons: np.ndarray, where: np.ndarray, reason: str) -> None:
    """Give ``reason`` to uploads that break a rule and have none yet, in place."""
    reasons[where & (reasons == "")] = reason


def _arrivals(
    packed: Packed,
    clients: np.ndarray,
    manifest: Manifest,
    before: Tensors,
    corrupt: Corrupt | None,
) -> tuple[Tag, Stack, np.ndarray]:
    """Tags, uploads ``[clients, ...]`` and reason codes; payloads are read singly only if changed.

    Rows of payloads without the right structure keep what was sent: their reason leaves them out.
    """
    tag, *items = unpack(packed)
    if fault := manifest.fault(header.read(packed.header)[0]):
        raise RuntimeError(f"the round's own uploads break their contract ({fault})")
    assert isinstance(tag, Tag)
    uploads = manifest.tensors(items, before)
    reasons = np.full(len(clients), "", dtype="<U10")
    if corrupt is None:
        return tag, uploads, reasons
    uploads = {name: values.clone() for name, values in uploads.items()}
    for row, client in enumerate(clients.tolist()):
        sent = packed.client_bytes(row)
        arrived = corrupt(manifest.round, client, sent)
        if arrived != sent:
            reasons[row] = _take(arrived, manifest, before, row, tag, uploads)
    return tag, uploads, reasons


def _take(
    arrived: bytes, manifest: Manifest, before: Tensors, row: int, tag: Tag, uploads: Stack
) -> str:
    """Put one payload's values into ``row`` of the group, in place, or give a reason code."""
    try:
        found = unpack(arrived)
        fault = manifest.fault(header.read(arrived)[0])
    except PayloadError:
        return "unreadable"
    if fault:
        return fault
    own, *items = found
    assert isinstance(own, Tag)
    tag.round[row], tag.client[row] = own.round[0], own.client[0]
    for name, values in manifest.tensors(items, before, row).items():
        uploads[name][row] = values[0]
    return ""
