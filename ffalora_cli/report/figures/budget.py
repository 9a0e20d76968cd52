"""Draws a budget: epsilon by steps at its noise, and the noise that each epsilon needs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE
from ffalora_cli.privacy.accounting.composition import trajectory
from ffalora_cli.privacy.accounting.curves import round_points
from ffalora_cli.privacy.planning.budget import Budget
from ffalora_cli.report.figures.style import COLOURS, DATE_KEY

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
    from matplotlib.figure import Figure

    if path.suffix not in DATE_KEY:
        raise ConfigError(f"--plot {path.name}: give a file ending in {', '.join(DATE_KEY)}")
    noise, rate = budget.noise_multiplier, budget.sample_rate
    delta, steps = budget.delta, budget.steps
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    figure.suptitle(
        f"rate {rate:.4g}, delta {delta:g}, Poisson, add/remove one", fontsize=12, x=0.01, ha="left"
    )
    left, right = figure.subplots(1, 2)
    counts, rdp = round_points(steps, POINTS), Accountant("rdp", delta)
    spent = (
        trajectory(noise, rate, counts, delta, COARSE),
        [rdp.epsilon([(noise, rate, int(n))]) for n in counts],
    )
    targets, *needed = _needed(rate, delta, steps)
    for index, (name, style) in enumerate((("PLD", "-"), ("RDP", "--"))):
        look = {"color": COLOURS[index], "label": name, "linewidth": 2}
        left.plot(counts, spent[index], style, **look)
        right.plot(targets, needed[index], style, **look)
    left.plot(steps, budget.epsilon, "o", color=COLOURS[5], label="this plan")
    right.plot(budget.epsilon, noise, "o", color=COLOURS[5], label="this plan")
    left.set(xlabel="local steps", ylabel="epsilon", xlim=(0, None), ylim=(0, None))
    left.set_title(f"spent at noise multiplier {noise:.4g}", fontsize=10)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.set(xlabel="epsilon", ylabel="noise multiplier", yscale="log")
    right.set_title(f"noise needed for {steps:,} steps", fontsize=10)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150, metadata={DATE_KEY[path.suffix]: None})
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written ({error.strerror})") from error


def _needed(rate: float, delta: float, steps: int) -> np.ndarray:
    """Targets that both accountants reach, and the noise PLD and RDP need: ``[3, targets]``."""
    pld, rdp = Accountant("pld", delta).coarse, Accountant("rdp", delta)
    found = []
    for target in TARGETS:
        with suppress(ConfigError):  # beyond what any noise gives; the curve ends there
            pair = (one.noise_for(target, rate, steps) for one in (pld, rdp))
            found.append((target, *pair))
    return np.reshape(found, (-1, 3)).T
