"""Counts communication: every byte that was packed, by round, direction, client and kind.

``comm/uplink_bytes`` and ``comm/downlink_bytes`` are everything sent in that direction: adapters,
heads, merges, indices, seeds and framing. The other keys break the same bytes down by what they
were spent on, both directions together, so that

    uplink + downlink = adapter + head + merge + index + setup + framing

where ``setup`` counts the kinds ``seed`` and ``setup``, whenever they were sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ffalora_cli.metric_keys import bytes_of
from ffalora_cli.types import Kind

Direction = Literal["uplink", "downlink"]

_BREAKDOWN: dict[str, tuple[Kind, ...]] = {
    "adapter": ("adapter",),
    "head": ("head",),
    "merge": ("merge",),
    "index": ("index",),
    "setup": ("seed", "setup"),
    "framing": ("framing",),
}


@dataclass(frozen=True)
class Transfer:
    """Payloads of one round, direction and size: one to or from each of ``clients``."""

    round: int
    direction: Direction
    clients: np.ndarray  # int64 [transfers], each client once
    lines: Mapping[Kind, int]  # bytes per client
    exchange: int = 0  # within the round


class CommunicationLedger:
    """Counts what was sent; everything else is a sum over its transfers.

    Args:
        num_clients: of the federation.
    """

    def __init__(self, num_clients: int) -> None:
        self._transfers: dict[int, list[Transfer]] = {}  # by round
        self._sums: dict[int, dict[tuple[Direction, Kind], int]] = {}  # round -> bytes
        self._all: dict[tuple[Direction, Kind], int] = {}  # the same of all rounds so far
        self._more: dict[int, int] = {}  # round -> how many others it stands for
        self._per_client: dict[Direction, np.ndarray] = {
            "uplink": np.zeros(num_clients, dtype=np.int64),
            "downlink": np.zeros(num_clients, dtype=np.int64),
        }

    def add(
        self,
        round: int,
        direction: Direction,
        clients: np.ndarray,
        lines: Mapping[Kind, int],
        exchange: int = 0,
    ) -> None:
        """Count one payload for each of ``clients``; costs O(kinds) and one numpy addition.

        Args:
            round: from 1.
            direction: from the clients (``uplink``) or to them (``downlink``).
            clients: int ids ``[transfers]``, each once.
            lines: bytes per client by kind, as ``Packed.lines`` has them.
            exchange: within the round.
        """
        clients = np.asarray(clients, dtype=np.int64)
        if len(clients) == 0:
            return
        if len(np.unique(clients)) != len(clients):
            raise ValueError("a client occurs twice in one transfer")
        transfer = Transfer(round, direction, clients, dict(lines), exchange)
        self._transfers.setdefault(round, []).append(transfer)
        sums = self._sums.setdefault(round, {})
        for kind, size in lines.items():
            sums[direction, kind] = sums.get((direction, kind), 0) + size * len(clients)
            self._all[direction, kind] = self._all.get((direction, kind), 0) + size * len(clients)
        self._per_client[direction][clients] += sum(lines.values())

    def repeat(self, rounds: range, times: int) -> None:
        """Count what was sent in these rounds ``times`` more, as a rehearsal that skips rounds.

        Totals and clients count them; ``rows`` has each round once.
        """
        for round in rounds:
            for transfer in self._transfers.get(round, ()):
                sizes = self._per_client[transfer.direction]
                sizes[transfer.clients] += times * sum(transfer.lines.values())
            for key, size in self._sums.get(round, {}).items():
                self._all[key] += times * size
            self._more[round] = self._more.get(round, 0) + times

    def by_round(self, direction: Direction, rounds: int) -> np.ndarray:
        """Bytes of each of so many rounds in one direction, int64 ``[rounds]``, in no order."""
        sizes = [self.total(direction, rounds=[number]) for number in self._sums]
        times = [1 + self._more.get(number, 0) for number in self._sums]
        sent = np.repeat(np.array(sizes, dtype=np.int64), times)
        return np.pad(sent, (0, rounds - len(sent)))  # in the others nothing was sent

    def total(
        self,
        direction: Direction | None = None,
        kinds: Iterable[Kind] | None = None,
        rounds: Iterable[int] | None = None,
    ) -> int:
        """Bytes over all clients, limited to a direction, kinds, and rounds where given."""
        wanted = None if kinds is None else set(kinds)
        sums = [self._all] if rounds is None else [self._sums.get(round, {}) for round in rounds]
        return sum(
            size
            for part in sums
            for (way, kind), size in part.items()
            if direction in (None, way) and (wanted is None or kind in wanted)
        )

    def round_totals(self, round: int) -> dict[str, int]:
        """Metrics of a round: bytes over all clients in it, and ``*_total`` up to and with it."""
        newest = next(reversed(self._sums), 0) <= round  # as a run asks: nothing to leave out
        past = None if newest else [r for r in self._sums if r <= round]
        metrics: dict[str, int] = {}
        for up_to, rounds in ((False, [round]), (True, past)):
            for direction in self._per_client:
                metrics[bytes_of(direction, up_to)] = self.total(direction, None, rounds)
            for name, kinds in _BREAKDOWN.items():
                metrics[bytes_of(name, up_to)] = self.total(None, kinds, rounds)
        return metrics

    def per_client(self) -> dict[Direction, np.ndarray]:
        """Bytes of every client so far by direction: int64 ``[num_clients]`` copies."""
        return {direction: sizes.copy() for direction, sizes in self._per_client.items()}

    def rows(self, round: int | None = None) -> list[dict[str, Any]]:
        """JSON-able rows of a round, or of all; ``clients: null`` stands for every client.

        ``bytes`` is what one client of the row sent or was sent, by kind; ``exchange`` is there
        from the second one of a round on.
        """
        everybody = np.arange(len(self._per_client["uplink"]))
        chosen = self._transfers if round is None else [round]
        return [
            {
                "round": transfer.round,
                "direction": transfer.direction,
                "clients": None
                if np.array_equal(transfer.clients, everybody)
                else transfer.clients.tolist(),
                "bytes": dict(transfer.lines),
            }
            | ({"exchange": transfer.exchange} if transfer.exchange else {})
            for number in chosen
            for transfer in self._transfers.get(number, ())
        ]

    @classmethod
    def restore(cls, num_clients: int, rows: Iterable[Mapping[str, Any]]) -> CommunicationLedger:
        """The ledger that wrote ``rows``."""
        ledger = cls(num_clients)
        everybody = np.arange(num_clients)
        for row in rows:
            clients = everybody if row["clients"] is None else np.array(row["clients"])
            place = row.get("exchange", 0)
            ledger.add(row["round"], row["direction"], clients, row["bytes"], place)
        return ledger
