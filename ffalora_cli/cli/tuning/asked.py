"""Reads what a tune is asked for: the keys that are tuned, the cells, the grid, the seeds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ffalora_cli.compose.jobs import plan
from ffalora_cli.compose.overrides import Axis, Interval, split_space
from ffalora_cli.config.build import is_known, unknown_key
from ffalora_cli.config.documentation import key_type
from ffalora_cli.config.errors import ConfigError, brief, listed
from ffalora_cli.config.job import Job
from ffalora_cli.methods.registry import headline
from ffalora_cli.report.names import PAPER
from ffalora_cli.report.runs.selection import spelled, value_at
from ffalora_cli.sweep.tuning import TUNED, Cell, Setting, around
from ffalora_cli.tasks.registry import higher_is_better

_FIRST_SEED = 1000  # of tuning; a table's seeds are small
_EVAL_ON = "task.eval_on"
_WIDE = 10.0  # a search about a recommended value goes so far, down and up


@dataclass(frozen=True)
class Asked:
    """A tune as it was typed.

    Attributes:
        common: overrides of every job, but seed and evaluated split.
        keys: that are tuned.
        cells: what is tuned, each by itself.
        seeds: of the final runs.
        tuning_seeds: of the trials; none of the others.
        eval_on: what the final runs are scored on.
        refine: steps after the grid, each of them one trial a key and cell.
        trials: settings each cell is given in all.
        searched: whether Optuna proposes them.
        metric: that settings are chosen by, full name.
    """

    common: tuple[str, ...]
    keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[str, ...]
    tuning_seeds: tuple[str, ...]
    eval_on: str
    refine: int
    trials: int
    searched: bool
    metric: str

    @property
    def higher(self) -> bool:
        """Whether more of the metric is better."""
        return higher_is_better(self.metric)

    @property
    def compared(self) -> tuple[str, ...]:
        """Keys that make the cells."""
        return tuple(self.cells[0].settings)

    @property
    def whole(self) -> list[int]:
        """Keys, by place, whose values are whole numbers."""
        words = [key_type(key).words for key in self.keys]
        return [place for place, said in enumerate(words) if said.startswith("whole number")]

    @property
    def runs(self) -> int:
        """Trials and final runs of all cells."""
        return len(self.cells) * (self.trials * len(self.tuning_seeds) + len(self.seeds))

    def set_to(self, setting: Setting) -> dict[str, str]:
        """Tuned key to value."""
        return dict(zip(self.keys, setting, strict=True))

    def typed(self, setting: Setting) -> list[str]:
        """Its overrides."""
        return [f"{key}={value}" for key, value in self.set_to(setting).items()]

    def trial(self, cell: Cell, setting: Setting, seed: str) -> Job:
        """One trial, checked.

        Raises:
            ConfigError: the setting is none that a run can have.
        """
        return self._job(cell, setting, seed, "tune")

    def final(self, cell: Cell, setting: Setting, seed: str, *more: str) -> Job:
        """One final run, checked, with further overrides."""
        return self._job(cell, setting, seed, self.eval_on, *more)

    def chosen(self, cell: Cell, setting: Setting) -> tuple[str, ...]:
        """Overrides of a cell's final runs, but their seed and trials."""
        eval_on = () if self.eval_on == "eval" else (f"{_EVAL_ON}={self.eval_on}",)
        return (*self.common, *eval_on, *cell.fixed, *self.typed(setting))

    def _job(self, cell: Cell, setting: Setting, seed: str, eval_on: str, *more: str) -> Job:
        own = (*cell.fixed, *self.typed(setting))
        (job,) = plan([*self.common, *own, f"{_EVAL_ON}={eval_on}", *more, f"seed={seed}"])
        return job


def read(
    overrides: Sequence[str],
    more_keys: Sequence[str],
    tuning_seeds: Sequence[str],
    refine: int,
    n_trials: int | None,
) -> Asked:
    """Sort overrides into what is tuned, what is compared and what is common.

    Args:
        overrides: as typed, without the sweep's own.
        more_keys: to be tuned beside those of ``TUNED``; without values about what is recommended.
        tuning_seeds: empty for one that no final run has.
        refine: steps after a grid.
        n_trials: settings that a search proposes a cell; None for a grid.

    Raises:
        ConfigError: what cannot be tuned, or compared, or is not a run.
    """
    fixed, space = split_space(overrides)
    said = dict(text.partition("=")[::2] for text in fixed)
    for key in more_keys:
        if not is_known(key):
            raise unknown_key(key)
        if key in ("seed", _EVAL_ON):
            raise ConfigError(f"--keys {key}: it says what is reported and cannot be tuned")
    keys = [key for key in space if key in TUNED or key in more_keys]
    keys += [key for key in more_keys if key not in keys]
    keys = keys or ["federation.local_lr"]
    seeds = _values(space.get("seed", (said.get("seed", "0"),)), "seed")
    compared = {k: _values(v, k) for k, v in space.items() if k not in keys and k != "seed"}
    if _EVAL_ON in compared or said.get(_EVAL_ON) == "tune":
        raise ConfigError(f"{_EVAL_ON}: trials look at tune by themselves; give eval or test")
    common = [t for t in fixed if t.partition("=")[0] not in (_EVAL_ON, "seed", *keys)]
    cells = []
    for values in itertools.product(*compared.values()):
        own = tuple(f"{key}={value}" for key, value in zip(compared, values, strict=True))
        base = plan([*common, *own])[0]
        axes = {key: _axis(key, space.get(key), said.get(key), base, n_trials) for key in keys}
        cells.append(Cell(own, axes))
    metrics = {headline(plan([*common, *cell.fixed])[0].config) for cell in cells}
    if len(metrics) > 1:
        raise ConfigError(f"tune: cells are judged by different metrics ({listed(metrics)})")
    if n_trials is not None:
        refine = 0
    more = refine * sum(map(_numeric, cells[0].axes.values()))
    return Asked(
        common=tuple(common),
        keys=tuple(keys),
        cells=tuple(cells),
        seeds=seeds,
        tuning_seeds=_tuning(tuning_seeds, seeds),
        eval_on=said.get(_EVAL_ON, "eval"),
        refine=refine,
        trials=n_trials or len(cells[0].grid) + more,
        searched=n_trials is not None,
        metric=metrics.pop(),
    )


def _axis(key: str, typed: Axis | None, fixed: str | None, base: Job, n_trials: int | None) -> Axis:
    """The values of a key in a cell: as typed, or about what is recommended there."""
    if isinstance(typed, Interval) and n_trials is None:
        raise ConfigError(
            f"{key}: a grid has no interval; list values, or add hydra/sweeper=optuna"
        )
    if typed is not None:
        return _distinct(typed) if isinstance(typed, tuple) else typed
    value = value_at(base.resolved, key) if fixed is None else fixed
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(
            f"--keys {key}: {brief(spelled(value))} has no multiples to try; give values, {key}=A,B"
        )
    if n_trials is not None:
        return Interval(number / _WIDE, number * _WIDE, log=True)
    return around(key, number)


def _values(axis: Axis, key: str) -> tuple[str, ...]:
    if isinstance(axis, Interval):
        raise ConfigError(
            f"{key}: compared keys have values, no interval; add --keys {key} to tune"
        )
    return _distinct(axis)


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    """Values without those that stand there already, however they are written: 0.1 and 0.10."""
    found: dict[object, str] = {}
    for text in values:
        try:
            found.setdefault(float(text), text)
        except ValueError:
            found.setdefault(text, text)
    return tuple(found.values())


def _tuning(typed: Sequence[str], seeds: Sequence[str]) -> tuple[str, ...]:
    """Seeds of trials.

    Raises:
        ConfigError: one that is reported, or no number.
    """
    free = next(str(n) for n in itertools.count(_FIRST_SEED) if str(n) not in seeds)
    for seed in typed:
        if not seed.isdecimal():
            raise ConfigError(f"--tuning-seeds {brief(seed)} is no seed; give whole numbers")
        if seed in seeds:
            raise ConfigError(
                f"--tuning-seeds {seed} is one of the reported seeds; choose another, as {free}"
            )
    return tuple(dict.fromkeys(typed)) or (free,)


def _numeric(axis: Axis) -> bool:
    """Whether refining can find a value that was not typed."""
    if isinstance(axis, Interval):
        return True
    try:
        return len({float(text) for text in axis}) > 1
    except ValueError:
        return False


def names(asked: Asked) -> list[str]:
    """A file name for each cell: its values, or numbers where these are not all different."""
    values = ["_".join(cell.settings.values()) for cell in asked.cells]
    found = [re.sub(r"[^\w.-]+", "-", value) or "tuned" for value in values]
    if len(set(found)) < len(found):
        return [f"cell-{n}" for n in range(1, len(found) + 1)]
    return found


def label(cell: Cell) -> str:
    """What a cell is, as tables write it: ``FFA-LoRA, Dirichlet α = 0.3``."""
    return PAPER.label([*cell.settings], [*cell.settings.values()])
