"""Rows that several clients hold, or one client holds several times (rule A13).

Clients are told apart, so disjoint rows compose in parallel and the largest epsilon is the claim. A
row on several clients is released by each of them: their epsilons and their deltas add up. Rows are
the same where their texts are (``Encoded.hashes``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _none() -> Ints:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class SharedRows:
    """Texts on more than one client, and copies within one.

    Attributes:
        clients: of all shared texts end to end, ascending within a text ``[memberships]``.
        starts: where each text's clients begin ``[texts]``.
        repeated: rows whose text stands more than once on the same client.
        copies: most often one text stands on one client.
    """

    clients: Ints = field(default_factory=_none)
    starts: Ints = field(default_factory=_none)
    repeated: int = 0
    copies: int = 1

    @property
    def texts(self) -> int:
        """Distinct texts on more than one client."""
        return len(self.starts)

    @property
    def most_clients(self) -> int:
        """Clients of the text that is on most of them; 1 without shared texts."""
        if not self.texts:
            return 1
        return int(np.diff(np.append(self.starts, len(self.clients))).max())

    def largest_sum(self, epsilons: Floats) -> float:
        """Largest sum of epsilons over the clients of one shared text; 0 without such.

        Args:
            epsilons: of each client ``[num_clients]``.
        """
        if not self.texts:
            return 0.0
        return float(np.add.reduceat(epsilons[self.clients], self.starts).max())


def find_shared_rows(hashes: npt.NDArray[np.uint64], rows: Ints, offsets: Ints) -> SharedRows:
    """Find the texts that are not on exactly one client exactly once.

    Args:
        hashes: of all training rows, equal for equal texts ``[n]``.
        rows: row numbers, client by client ``[total]``.
        offsets: client k has ``rows[offsets[k]:offsets[k + 1]]`` ``[num_clients + 1]``.
    """
    if not len(rows):
        return SharedRows()
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    texts = np.asarray(hashes)[rows]
    order = np.lexsort((owner, texts))
    texts, owner = texts[order], owner[order]
    new_text = np.append(True, texts[1:] != texts[:-1])
    new_pair = new_text | np.append(True, owner[1:] != owner[:-1])  # another (text, client)
    pairs = np.flatnonzero(new_pair)
    copies = np.diff(np.append(pairs, len(texts)))  # rows of each pair
    first = np.flatnonzero(new_text[pairs])  # first pair of each text
    holders = np.diff(np.append(first, len(pairs)))  # clients of each text
    several = holders > 1
    clients = owner[pairs][np.repeat(several, holders)]
    ends = np.cumsum(holders[several])
    return SharedRows(
        clients=clients.astype(np.int64),
        starts=(ends - holders[several]).astype(np.int64),
        repeated=int(copies[copies > 1].sum()),
        copies=int(copies.max()),
    )
