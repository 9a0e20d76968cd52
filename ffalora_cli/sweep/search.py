"""Searches by Optuna: it proposes, runs answer, its journal lies in the sweep's folder.

The sampler (TPE) is made anew for every proposal with a seed of (seed, trial number), so nothing
of a random generator is stored and an interrupted search proposes what it would have proposed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.launchers.base import read_settings

if TYPE_CHECKING:
    import optuna

    from ffalora_cli.compose.overrides import Axis

JOURNAL = "trials.log"


@dataclass(frozen=True)
class Settings:
    """What ``hydra.sweeper.KEY=VALUE`` can set."""

    n_trials: int = 20  # over all resumes, failed ones included
    direction: str = "maximize"  # or minimize; what a metric wants, unless typed
    n_jobs: int = 1  # trials proposed, and given to the launcher, at a time
    seed: int = 0


Proposal = Mapping[str, str]  # key -> value as text
Play = Callable[[Sequence[tuple[int, Proposal]]], Mapping[int, float | None]]
"""Plays numbered proposals; the value of each, None for one that failed. One that is missing was
not finished: it is proposed again, as it was, on resume."""


def search(space: Mapping[str, Axis], settings: Settings, folder: Path, play: Play) -> Any:
    """Ask, play and tell until ``n_trials`` have ended, over all resumes.

    Args:
        space: what may vary, by key.
        settings: of the search.
        folder: where the journal is.
        play: of one batch.

    Returns:
        The Optuna study.

    Raises:
        ConfigError: the journal is damaged.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=folder.name,
            direction=optuna.study.StudyDirection[settings.direction.upper()],
            load_if_exists=True,
        )
    except (ValueError, LookupError, TypeError):  # what Optuna meets in lines that are not its own
        raise ConfigError(
            f"{folder / JOURNAL}: damaged, Optuna cannot read it; move {folder} away to search anew"
        ) from None
    axes = {key: _distribution(axis) for key, axis in space.items()}
    states = optuna.trial.TrialState
    while True:
        batch = study.get_trials(deepcopy=False, states=(states.RUNNING,))  # of a search cut short
        ended = len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.FAIL)))
        room = min(settings.n_jobs, settings.n_trials - ended) - len(batch)
        for _ in range(room):
            batch.append(_ask(study, axes, settings.seed))
        batch = batch[: max(0, settings.n_trials - ended)]
        if not batch:
            return study
        values = play([(trial.number + 1, texts(trial.params, space)) for trial in batch])
        for trial in batch:
            if trial.number + 1 in values:
                _tell(study, trial.number, values[trial.number + 1])
        if len(values) < len(batch):
            return study


def values_of(axis: Axis) -> list[str]:
    """The values of an axis worth checking before the first trial: its ends, or all choices."""
    if isinstance(axis, tuple):
        return list(axis)
    return [_text(axis.low, axis), _text(axis.high, axis)]


def read(typed: Mapping[str, str]) -> Settings:
    """``hydra.sweeper.KEY=VALUE``, by key.

    Raises:
        ConfigError: an unknown key, or a value that means nothing.
    """
    settings: Settings = read_settings("hydra.sweeper", "optuna", Settings, typed)
    if settings.direction not in ("maximize", "minimize"):
        raise ConfigError(
            f"hydra.sweeper.direction={settings.direction!r} should be maximize or minimize"
        )
    for key in ("n_trials", "n_jobs"):
        if getattr(settings, key) < 1:
            raise ConfigError(f"hydra.sweeper.{key}={getattr(settings, key)} should be at least 1")
    return settings


def _ask(study: optuna.Study, axes: Mapping[str, Any], seed: int) -> Any:
    from optuna.samplers import TPESampler

    from ffalora_cli.keys import derive, torch_seed

    number = len(study.get_trials(deepcopy=False))
    study.sampler = TPESampler(seed=torch_seed(derive(seed, "search", number)) % 2**32)
    trial = study.ask(fixed_distributions=dict(axes))
    return study.get_trials(deepcopy=False)[trial.number]


def _tell(study: optuna.Study, number: int, value: float | None) -> None:
    import optuna

    if value is None or not math.isfinite(value):
        study.tell(number, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(number, value)


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(axis, tuple):
        return CategoricalDistribution(axis)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def texts(params: Mapping[str, Any], space: Mapping[str, Axis]) -> dict[str, str]:
    """What Optuna proposed, as it would be typed."""
    return {key: _text(params[key], axis) for key, axis in space.items()}


def _text(value: Any, axis: Axis) -> str:
    if isinstance(axis, tuple):
        return str(value)
    return str(int(value)) if axis.whole else repr(float(value))
