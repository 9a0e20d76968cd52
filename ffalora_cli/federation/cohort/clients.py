"""Keeps what stays with the clients: personal tensors, and when each last took part."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ffalora_cli.types import Stack, Tensors


class ClientStates:
    """State of a federation's clients without an object per client.

    Personal tensors are kept on the CPU, one row for each client that ever stored one; clients
    that never did cost one array entry.

    Attributes:
        last_round: round in which each client last took part, int64 ``[num_clients]``; 0 = never.
    """

    def __init__(self, num_clients: int) -> None:
        self.last_round = np.zeros(num_clients, dtype=np.int64)
        self._row = np.full(num_clients, -1, dtype=np.int64)  # client -> row of the tensors below
        self._tensors: Stack = {}  # [capacity, ...]; capacity doubles when it is used up
        self._used = 0

    def gather(self, clients: np.ndarray, names: Iterable[str], initial: Tensors) -> Stack:
        """Personal tensors of ``clients``, for those without any the ``initial`` ones.

        Args:
            clients: ids ``[cohort]``.
            names: of personal tensors.
            initial: values every client starts from, by name.

        Returns:
            ``[cohort, ...]`` by name: copies, in the dtype of ``initial``.
        """
        rows = torch.from_numpy(self._row[clients])
        known = rows >= 0
        gathered: Stack = {}
        for name in names:
            start = initial[name]
            stack = start.expand(len(rows), *start.shape).clone()
            if name in self._tensors and bool(known.any()):
                stored = self._tensors[name][rows[known]]
                stack[known] = stored.to(start.dtype)
            gathered[name] = stack
        return gathered

    def scatter(self, clients: np.ndarray, stack: Stack) -> None:
        """Store personal tensors ``[cohort, ...]``; the same names every time.

        Raises:
            ValueError: other names than those stored before, or a client that occurs twice.
        """
        if self._tensors and self._tensors.keys() != stack.keys():
            raise ValueError("personal tensors change their names between rounds")
        if len(np.unique(clients)) != len(clients):
            raise ValueError("a client occurs twice in one cohort")
        new = clients[self._row[clients] < 0]
        self._row[new] = np.arange(self._used, self._used + len(new))
        self._used += len(new)
        rows = torch.from_numpy(self._row[clients])
        for name, values in stack.items():
            values = values.detach()
            table = self._grown(self._tensors.get(name, values[:0]))
            table[rows] = values
            self._tensors[name] = table

    def _grown(self, table: torch.Tensor) -> torch.Tensor:
        """``table`` with room for every used row."""
        if len(table) >= self._used:
            return table
        capacity = min(max(self._used, 2 * len(table)), len(self._row))
        grown = table.new_zeros(capacity, *table.shape[1:])
        grown[: len(table)] = table
        return grown

    def took_part(self, clients: np.ndarray, round: int) -> None:
        """Note that ``clients`` took part in ``round``: they hold the state before it."""
        self.last_round[clients] = round

    def to_tensors(self) -> Tensors:
        """Flat named tensors for a checkpoint; ``from_tensors`` gives the same states back."""
        stored = {
            f"personal/{name}": table[: self._used].clone() for name, table in self._tensors.items()
        }
        arrays = {"last_round": self.last_round, "row": self._row}
        return stored | {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> ClientStates:
        """The states that ``to_tensors`` wrote."""
        states = cls(len(tensors["last_round"]))
        states.last_round = tensors["last_round"].numpy().copy()
        states._row = tensors["row"].numpy().copy()
        states._used = int((states._row >= 0).sum())
        prefix = "personal/"
        states._tensors = {
            name.removeprefix(prefix): table.clone()
            for name, table in tensors.items()
            if name.startswith(prefix)
        }
        return states
