"""The privacy ledger: what each client has been charged, on disk before the release it pays for.

``privacy_ledger.jsonl`` starts with one line that fixes the mechanism of every client (noise
multiplier, sample rate) and goes on with one line a charge; ``clients: null`` is everybody. A
charge is flushed to the disk before ``charge`` returns, so a crash can only over-count; the replay
of a recorded charge (same round, client and steps, hence the same keys and the same bits) is not
charged again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.planning.plan import Floats, Ints

SEAMS = ("PrivacyLedger.charge",)
"""What an audit may replace; whoever calls it looks it up in this module."""
SCHEMA = 1


class PrivacyLedger:
    """Run-length coded history of every client, as arrays ``[num_clients]``.

    Attributes:
        steps_taken: steps charged to each client, int64.
        rounds_taken: rounds each client was charged for, int64.
    """

    def __init__(
        self,
        noise_multiplier: Floats,
        sample_rate: Floats,
        path: Path | None = None,
        count_noise: Floats | None = None,
    ) -> None:
        """Open or create a ledger.

        Args:
            noise_multiplier: of each client's steps ``[num_clients]``.
            sample_rate: rate each client is accounted for ``[num_clients]``.
            path: of the file; None keeps the ledger in memory.
            count_noise: of an adaptive clip, paid out of ``noise_multiplier``: for the reader.

        Raises:
            ConfigError: for a file that is damaged or belongs to another plan.
        """
        self.noise_multiplier = np.asarray(noise_multiplier, dtype=np.float64)
        self.sample_rate = np.asarray(sample_rate, dtype=np.float64)
        self.steps_taken: Ints = np.zeros(len(self.noise_multiplier), dtype=np.int64)
        self.rounds_taken: Ints = np.zeros_like(self.steps_taken)
        self._count_noise = count_noise
        self._path = path
        self._recorded: dict[int, list[tuple[Ints, int]]] = {}  # of the file as it was opened
        if path is not None:
            self._open(path)

    def charge(self, round: int, clients: Sequence[int] | Ints, steps: int) -> None:
        """Charge clients for steps they are about to release; on disk when this returns.

        Args:
            round: from 1.
            clients: ids of the clients.
            steps: of the plan's mechanism, taken by each of them in this round.

        Raises:
            IndexError: for a client that is not in the plan; nothing is charged.
            OSError: when the line cannot be written; nothing may be released then.
        """
        ids = np.asarray(clients, dtype=np.int64)
        if (ids[1:] <= ids[:-1]).any():  # sorting a million sorted ids takes longer than the rest
            ids = np.unique(ids)
        if len(ids) and not 0 <= ids[0] <= ids[-1] < len(self.steps_taken):
            raise IndexError(f"no such client among {len(self.steps_taken)}: {ids.tolist()}")
        known = [who for who, count in self._recorded.get(round, []) if count == steps]
        fresh = np.setdiff1d(ids, np.concatenate(known)) if known else ids
        if len(fresh) == 0 or steps == 0:
            return
        if self._path is not None:
            everybody = len(fresh) == len(self.steps_taken)
            who = None if everybody else fresh.tolist()
            self._append({"round": round, "steps": steps, "clients": who})
        self._add(fresh, steps)

    def steps_before(self, round: int) -> Ints:
        """Steps each client had been charged before this round ``[num_clients]``.

        Differs from ``steps_taken`` only in a resumed run that replays rounds the file already has;
        decisions taken from it (who may still take part) replay, too.
        """
        steps = self.steps_taken.copy()
        for recorded, rows in self._recorded.items():
            if recorded >= round:
                for clients, count in rows:
                    steps[clients] -= count
        return steps

    def history(self, client: int) -> list[tuple[float, float, int]]:
        """(noise_multiplier, sample_rate, steps) of one client, as the accountants read it."""
        return [
            (
                float(self.noise_multiplier[client]),
                float(self.sample_rate[client]),
                int(self.steps_taken[client]),
            )
        ]

    def _add(self, clients: Ints, steps: int) -> None:
        self.steps_taken[clients] += steps
        self.rounds_taken[clients] += 1

    def header(self) -> dict[str, object]:
        """The first line of the file: the mechanism every charge is of."""
        header: dict[str, object] = {
            "schema": SCHEMA,
            "noise_multiplier": _column(self.noise_multiplier),
            "sample_rate": _column(self.sample_rate),
        }
        if self._count_noise is not None:
            header["count_noise"] = _column(self._count_noise)
        return header

    def _open(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a line cut by a crash: its charge never returned, nothing left
            os.truncate(path, whole)
        lines = data[:whole].splitlines()
        if not lines:
            self._append(self.header())
            _flush_folder(path.parent)
            return
        for number, line in enumerate(lines, start=1):
            try:
                self._read(json.loads(line), number)
            except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
                raise ConfigError(
                    f"{path}: line {number} is damaged or of another plan; what was spent is "
                    "unknown: restore the file or start a new run"
                ) from error

    def _read(self, row: dict[str, object], number: int) -> None:
        if number == 1:
            if row != self.header():
                raise ValueError("another plan")
            return
        steps, round, who = row["steps"], row["round"], row["clients"]
        everybody = np.arange(len(self.steps_taken))
        clients = everybody if who is None else np.array(who, np.int64)
        if not isinstance(steps, int) or not isinstance(round, int) or (clients < 0).any():
            raise ValueError("not a charge")
        self._add(clients, steps)
        self._recorded.setdefault(round, []).append((clients, steps))

    def _append(self, row: dict[str, object]) -> None:
        assert self._path is not None
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        handle = os.open(self._path, flags, 0o644)
        try:
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, "no space for a privacy charge", str(self._path))
            os.fsync(handle)
        finally:
            os.close(handle)


def charged(
    rows: Sequence[Mapping[str, Any]], num_clients: int, until: int | None = None
) -> list[tuple[float, float, int]]:
    """What a recorded ledger charged each client: (noise_multiplier, sample_rate, steps).

    Args:
        rows: of the file, the header first.
        num_clients: of the run.
        until: count rounds up to this one; None for all.

    Raises:
        ValueError: rows that are no ledger of so many clients.
    """
    try:
        head, *charges = rows
        shape = (num_clients,)
        noise, rate = (np.broadcast_to(head[k], shape) for k in ("noise_multiplier", "sample_rate"))
        steps = np.zeros(num_clients, dtype=np.int64)
        for row in charges:
            if until is None or row["round"] <= until:
                steps[slice(None) if row["clients"] is None else row["clients"]] += row["steps"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"not a privacy ledger: {error}") from error
    return list(zip(noise.tolist(), rate.tolist(), steps.tolist(), strict=True))


def _column(values: Floats) -> float | list[float]:
    """One number where all clients have the same."""
    first = values[:1].tolist()
    return first[0] if first and bool((values == values[0]).all()) else values.tolist()


def _flush_folder(folder: Path) -> None:
    """Make a new file's name durable (the file's own flush does not cover it)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
