"""Gives every line its colour, its dash and its panel: colour says the method, dash what else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ffalora_cli.report.figures.series import Grouping
from ffalora_cli.report.figures.style import PENS, Pen, pen

if TYPE_CHECKING:
    from matplotlib.artist import Artist

FEW = 4  # lines that one panel bears; from five on they are shared out among several
MAIN = "method"


@dataclass(frozen=True)
class Place:
    """Where a line stands in ``Places.titles``, ``colours`` and ``dashes``."""

    panel: int
    colour: int
    dash: int

    @property
    def pen(self) -> Pen:
        """Colour and marker of its colour, dash of its dash."""
        look = pen(self.colour)
        return Pen(look.colour, PENS[self.dash % len(PENS)].dash, look.marker)


@dataclass(frozen=True)
class Places:
    """What panels, colours and dashes mean, in words; and each line's place."""

    titles: tuple[str, ...]
    colours: tuple[str, ...]
    dashes: tuple[str, ...]
    of: tuple[Place, ...]

    def legend(self) -> tuple[list[Artist], list[str]]:
        """Handles and words: colours where no title says them, then dashes where there are two."""
        from matplotlib.lines import Line2D

        handles: list[Artist] = []
        names: list[str] = []
        if len(self.colours) > 1 and self.colours != self.titles:
            for slot, name in enumerate(self.colours):
                handles.append(Line2D([], [], color=pen(slot).colour, marker=pen(slot).marker))
                names.append(name)
        if len(self.dashes) > 1:
            for slot, name in enumerate(self.dashes):
                dash = PENS[slot % len(PENS)].dash
                handles.append(Line2D([], [], color="#555555", linestyle=dash))
                names.append(name)
        return handles, names


def arranged(grouping: Grouping) -> tuple[Places, dict[str, Place]]:
    """``places`` of all groups, drawn or not, so that a line keeps its looks; those by label."""
    found = places([group.told for group in grouping.groups])
    return found, dict(zip([group.label for group in grouping.groups], found.of, strict=True))


def places(told: Sequence[Mapping[str, str]], apart: Collection[str] | None = None) -> Places:
    """Share lines out among panels, colours and dashes.

    The method (else the first key) has the colours. Up to four lines stand in one panel and the
    other keys have the dashes. From five on, as many of the other keys as it takes make panels;
    where even those leave five, or there is none, each colour has a panel of its own.

    Args:
        told: of each line, in order, what tells it from the others: words by key, of the same keys.
        apart: keys that make panels, however few lines there are; none: as above.
    """
    keys = list(told[0])
    main = [MAIN] if MAIN in keys else keys[:1]
    rest = [key for key in keys if key not in main]
    taken = _panel_keys(told, main, rest) if apart is None else [k for k in keys if k in apart]
    parts = (taken, main, [key for key in rest if key not in taken])
    words = [[", ".join(line[key] for key in part) for line in told] for part in parts]
    named = [tuple(dict.fromkeys(column)) for column in words]
    of = [
        Place(*(names.index(word) for names, word in zip(named, line, strict=True)))
        for line in zip(*words, strict=True)
    ]
    return Places(*named, tuple(of))


def _panel_keys(
    told: Sequence[Mapping[str, str]], main: Sequence[str], rest: Sequence[str]
) -> Sequence[str]:
    """The fewest keys whose panels have few lines each."""
    if len(told) <= FEW:
        return []
    for count in range(1, len(rest) + 1):
        if _fullest(told, rest[:count]) <= FEW:
            return rest[:count]
    return main if _fullest(told, main) <= FEW or not rest else rest


def _fullest(told: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    """Lines in the fullest panel."""
    return max(Counter(tuple(line[key] for key in keys) for line in told).values())
