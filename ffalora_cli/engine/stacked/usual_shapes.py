"""Chooses, among few layouts, one that holds a micro-batch: each is a graph to capture.

Random examples of a data set, sorted, have nearly its own lengths. So layouts are made from the
data set: for 8 examples, for 1.12 times as many, and so on, with room to spare at every length.
Which one a micro-batch takes depends on its lengths alone: a run that goes on takes the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from ffalora_cli.adapters.layout import Layout, classes

SMALLEST, GROWTH = 8, 1.12  # examples
SPARE = 2.0  # standard deviations of the number of examples at least as long, at every length
TOKENS = 2  # lengths are multiples of it
CLASS_ROWS = 384  # price of a class: what a GPU computes while it starts the kernels of one more
MOST_ROWS = 2.0  # of those that the micro-batch takes by itself, or it is laid out by itself


@dataclass
class UsualShapes:
    """Layouts for random examples of a data set.

    Attributes:
        lengths: int [rows], tokens of each row of the data set.
    """

    lengths: np.ndarray
    _made: list[Layout] = field(default_factory=list)  # each full of its own longest examples

    def holding(self, lengths: np.ndarray) -> tuple[Layout, bool]:
        """The smallest usual layout with a place for every example, or else one of their own.

        Args:
            lengths: int [examples], longest first.

        Returns:
            The layout, and whether it is a usual one.
        """
        own = Layout.of(lengths, CLASS_ROWS)
        for number in itertools.count():
            shape = self._shape(number)
            if len(shape.owner) > MOST_ROWS * len(own.owner) + CLASS_ROWS:
                return own, False
            room = np.repeat(shape.lengths, shape.counts)
            if len(room) >= len(lengths) and (lengths <= room[: len(lengths)]).all():
                return Layout.within(shape.counts, shape.lengths, lengths), True
        raise AssertionError("shapes grow without end")

    def _shape(self, number: int) -> Layout:
        """The shape of this number; every one has a place for the longest example there is."""
        while len(self._made) <= number:
            longest, first = np.unique(-np.sort(-self.lengths), return_counts=True)
            longest, seen = longest[::-1], np.cumsum(first[::-1])  # rows at least as long
            expected = SMALLEST * GROWTH ** len(self._made) * seen / len(self.lengths)
            places = np.ceil(expected + SPARE * np.sqrt(expected)).astype(int)
            room = np.repeat(longest, np.diff(places, prepend=0))
            room = -(-room // TOKENS) * TOKENS
            cut = classes(room, CLASS_ROWS)
            sizes = tuple(int(room[a]) for a, _ in cut)
            self._made.append(Layout.within(tuple(b - a for a, b in cut), sizes, room[:0]))
        return self._made[number]
