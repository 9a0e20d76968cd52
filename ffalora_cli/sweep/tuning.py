"""Chooses settings by what trials of them were worth: which to try, which is best, which is next.

A *setting* has a value, as text, for every tuned key; a *cell* is what is compared (a method, a
budget), and each cell is tuned by itself. What a setting is worth is the mean over the tuning
seeds; None where a trial of it failed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ffalora_cli.compose.overrides import Axis
from ffalora_cli.sweep.search import values_of

Setting = tuple[str, ...]  # values of the tuned keys, in their order
Worth = Mapping[Setting, float | None]

TUNED = (
    "federation.local_lr", "federation.local_momentum", "federation.local_weight_decay",
    "federation.lr_schedule", "federation.warmup_rounds", "federation.lr_end",
    "federation.server_optimizer.lr", "federation.server_optimizer.momentum",
    "privacy.max_grad_norm", "privacy.clip_quantile", "privacy.clip_lr",
)  # fmt: skip
"""Keys that are tuned wherever they have several values; any other key is compared by its own."""
_FACTORS = {"privacy.max_grad_norm": 2.0}
_ROOT_OF_TEN = math.sqrt(10.0)


@dataclass
class Cell:
    """One thing that is tuned by itself.

    Attributes:
        fixed: ``key=value`` texts that make it what it is.
        axes: what each tuned key may be: values to begin with, or what a search proposes from.
        worth: of every setting that was tried, in the order of trying.
    """

    fixed: tuple[str, ...]
    axes: Mapping[str, Axis]
    worth: dict[Setting, float | None] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """What makes it what it is: key to value."""
        return dict(text.split("=", 1) for text in self.fixed)  # type: ignore[misc]

    @property
    def grid(self) -> list[Setting]:
        """Every combination of the values to begin with; the last key varies fastest."""
        return list(itertools.product(*(a for a in self.axes.values() if isinstance(a, tuple))))

    @property
    def ends(self) -> list[Setting]:
        """Each axis at its ends, or at every choice, the others at their first values."""
        values = list(map(values_of, self.axes.values()))
        first = tuple(texts[0] for texts in values)
        found = [_with(first, i, text) for i, texts in enumerate(values) for text in texts]
        return list(dict.fromkeys(found))


def around(key: str, value: float) -> tuple[str, str, str]:
    """Three values of a key about a recommended one: factors of root ten, of two for a clip."""
    factor = _FACTORS.get(key, _ROOT_OF_TEN)
    return _text(value / factor), repr(value), _text(value * factor)


def best(worth: Worth, higher: bool) -> Setting | None:
    """The setting that is worth most, the smaller one of two alike; None where every one failed.

    Args:
        worth: by setting.
        higher: whether more is better.
    """
    sign = -1.0 if higher else 1.0
    known = [(sign * value, place(one), one) for one, value in worth.items() if value is not None]
    return min(known)[2] if known else None


def best_for_all(cells: Sequence[Worth], higher: bool) -> tuple[Setting, tuple[float, ...]] | None:
    """The one setting that is best for all cells together, by its mean over them.

    Returns:
        It and what it is worth in each; None where no setting was tried with success in all.
    """
    shared: dict[Setting, tuple[float, ...]] = {}
    for setting in cells[0]:
        values = [worth.get(setting) for worth in cells]
        known = tuple(value for value in values if value is not None)
        if len(known) == len(cells):
            shared[setting] = known
    chosen = best({one: math.fsum(found) for one, found in shared.items()}, higher)
    return None if chosen is None else (chosen, shared[chosen])


def next_settings(worth: Worth, higher: bool, whole: Collection[int] = ()) -> list[list[Setting]]:
    """What to try next about the best setting: a list for each numeric key, best idea first.

    At an edge of what was tried along a key the next value outward by the same factor; inside, the
    geometric mean in the wider gap beside it, of two alike that of the better neighbour. Ideas that
    were tried are left out.

    Args:
        worth: by setting.
        higher: whether more is better.
        whole: keys, by place, whose values are whole numbers.
    """
    chosen = best(worth, higher)
    if chosen is None:
        return []
    found = []
    for axis in range(len(chosen)):
        numbers = _ideas(_profile(worth, axis, higher), chosen[axis], higher)
        ideas = [_with(chosen, axis, _text(number, axis in whole)) for number in numbers]
        found.append([idea for idea in ideas if place(idea) not in map(place, worth)])
    return [ideas for ideas in found if ideas]


def at_edge(worth: Worth, chosen: Setting) -> list[int]:
    """Keys, by place, along which a setting has the smallest or largest value that was tried."""
    found = []
    for axis in range(len(chosen)):
        tried = {number for one in worth if (number := _number(one[axis])) is not None}
        if len(tried) > 1 and _number(chosen[axis]) in (min(tried), max(tried)):
            found.append(axis)
    return found


def place(setting: Setting) -> tuple[tuple[float, str], ...]:
    """Where a setting stands among others: numbers by size, before words."""
    numbers = [_number(text) for text in setting]
    return tuple(
        (math.inf, text) if number is None else (number, "")
        for text, number in zip(setting, numbers, strict=True)
    )


def _ideas(profile: Mapping[float, float | None], chosen: str, higher: bool) -> Iterator[float]:
    here = _number(chosen)
    if len(profile) < 2 or here is None:
        return
    places = sorted(profile)
    i = places.index(here)
    beside = [places[k] for k in (i - 1, i + 1) if 0 <= k < len(places)]
    if len(beside) == 1 and beside[0] > 0 and here > 0:
        yield here * here / beside[0]

    def order(other: float) -> tuple[float, float]:
        value = profile[other]
        gap = abs(math.log(other / here)) if here > 0 and other > 0 else abs(other - here)
        loss = math.inf if value is None else -value if higher else value
        return -round(gap, 2), loss

    for other in sorted(beside, key=order):
        both = here > 0 and other > 0
        yield math.sqrt(here * other) if both else (here + other) / 2


def _profile(worth: Worth, axis: int, higher: bool) -> dict[float, float | None]:
    """What each number along an axis was worth at the best values of the other keys."""
    found: dict[float, dict[Setting, float | None]] = {}
    for setting, value in worth.items():
        number = _number(setting[axis])
        if number is not None:
            found.setdefault(number, {})[setting] = value
    tops = {number: best(there, higher) for number, there in found.items()}
    return {number: None if top is None else worth[top] for number, top in tops.items()}


def _with(setting: Setting, axis: int, text: str) -> Setting:
    return (*setting[:axis], text, *setting[axis + 1 :])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: float, whole: bool = False) -> str:
    """A value with three digits, as it would be typed."""
    return str(round(value)) if whole else repr(float(f"{value:.3g}"))
