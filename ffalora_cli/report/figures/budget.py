"""Draws a budget: epsilon by steps at its noise, and the noise that each epsilon needs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE
from ffalora_cli.privacy.accounting.composition import trajectory
from ffalora_cli.privacy.accounting.curves import round_points
from ffalora_cli.privacy.planning.budget import Budget
from ffalora_cli.report.figures.files import SUFFIXES, save_one
from ffalora_cli.report.figures.style import (
    COLOURS,
    PAGE,
    legend_below,
    log,
    new_figure,
    plain_x,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DELTA, _EPSILON = "\N{GREEK SMALL LETTER DELTA}", "\N{GREEK SMALL LETTER EPSILON}"
POINTS = 48
TARGETS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)


def draw(budget: Budget, path: Path) -> None:
    """Draw PLD and RDP side by side and save the picture.

    Args:
        budget: solved; its point is marked.
        path: ``.png``, ``.svg`` or ``.pdf`` file.

    Raises:
        ConfigError: another suffix, or a folder that cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path.name}: give a file ending in {', '.join(SUFFIXES)}")
    with styled(width=PAGE):
        save_one(_compose(budget), path, "--plot")


def _compose(budget: Budget) -> Figure:
    noise, rate = budget.noise_multiplier, budget.sample_rate
    delta, steps = budget.delta, budget.steps
    figure = new_figure(2.6)
    figure.suptitle(
        f"rate {rate:.4g}, {_DELTA} = {delta:g}, Poisson, add/remove one", x=0.01, ha="left"
    )
    left, right = figure.subplots(1, 2)
    counts, rdp = round_points(steps, POINTS), Accountant("rdp", delta)
    spent = (
        trajectory(noise, rate, counts, delta, COARSE),
        [rdp.epsilon([(noise, rate, int(n))]) for n in counts],
    )
    targets, *needed = _needed(rate, delta, steps)
    for index, (name, style) in enumerate((("PLD", "-"), ("RDP", "--"))):
        look = {"color": COLOURS[index], "label": name}
        left.plot(counts, spent[index], style, **look)
        right.plot(targets, needed[index], style, **look)
    left.plot(steps, budget.epsilon, "o", color=COLOURS[3], label="this plan")
    right.plot(budget.epsilon, noise, "o", color=COLOURS[3])
    left.set(xlabel="local steps", ylabel=_EPSILON, xlim=(0, None), ylim=(0, None))
    left.set_title(f"spent at noise multiplier {noise:.4g}")
    plain_x(left, whole=True)
    right.set(xlabel=_EPSILON, ylabel="noise multiplier")
    right.set_title(f"noise needed for {steps:,} steps")
    log(right.yaxis)
    legend_below(figure, *left.get_legend_handles_labels())
    return figure


def _needed(rate: float, delta: float, steps: int) -> np.ndarray:
    """Targets that both accountants reach, and the noise PLD and RDP need: ``[3, targets]``."""
    pld, rdp = Accountant("pld", delta).coarse, Accountant("rdp", delta)
    found = []
    for target in TARGETS:
        with suppress(ConfigError):  # beyond what any noise gives; the curve ends there
            pair = (one.noise_for(target, rate, steps) for one in (pld, rdp))
            found.append((target, *pair))
    return np.reshape(found, (-1, 3)).T
