"""``hydra/sweeper=optuna``: the space from the command line, each trial a job like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ffalora_cli.cli.screen.sweep_display import SweepDisplay, open_sweep_display
from ffalora_cli.cli.screen.units import score
from ffalora_cli.cli.sweep_end import exit_code, stop_if_asked
from ffalora_cli.compose.hydra_keys import SweepSettings
from ffalora_cli.compose.jobs import plan
from ffalora_cli.compose.overrides import Axis, split_space
from ffalora_cli.config.build import build
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job
from ffalora_cli.config.signature import digest
from ffalora_cli.experiment.inputs import check_done
from ffalora_cli.methods.registry import headline
from ffalora_cli.metric_keys import short_name
from ffalora_cli.records.files import read_json
from ffalora_cli.records.reading import read_config
from ffalora_cli.records.run_directory import SUMMARY, run_folder
from ffalora_cli.stopping import StopFlag
from ffalora_cli.sweep.jobs import FAILED, GOOD, Status, SweepJob
from ffalora_cli.sweep.launchers.base import Launch, read_settings
from ffalora_cli.sweep.play import play_jobs
from ffalora_cli.sweep.progress import result
from ffalora_cli.sweep.record import SWEEP, SweepRecord
from ffalora_cli.sweep.search import Proposal, Settings, check, values_of
from ffalora_cli.sweep.search import search as run_search


def search(
    overrides: Sequence[str],
    about: SweepSettings,
    launch: Launch,
    command: Sequence[str],
    quiet: bool,
    stop: StopFlag,
) -> int:
    """Search the space that the overrides span; the arguments are those of ``sweep``."""
    settings = read_settings("hydra.sweeper", "optuna", Settings, about.sweeper_settings)
    check(settings)
    fixed, space = split_space(overrides)
    base = _check_space(fixed, space)
    judged = headline(base.config)
    # More trials are the same search, so their number is no part of its name.
    name = digest(
        [run_folder(base).name, repr(sorted(space.items())), settings.direction, settings.seed]
    )
    record = SweepRecord(base.config.paths.runs, name)
    notes = _check_earlier(record, base)
    facts = {
        "kind": "search",
        "command": command,
        "launcher": about.launcher,
        "grid": {key: str(axis) for key, axis in space.items()},
        "settings": settings,
        "objective": f"best {judged}",
    }
    with open_sweep_display(quiet, record.path, settings.n_trials) as display:
        display.note(f"objective: the best {judged} of a run on its evaluation rows")
        for note in notes:
            display.note(note)
        if base.config.privacy.unit != "none":
            display.note(
                "every trial spends its own epsilon on the same rows; the best of them costs more "
                "than its own statement says: privacy.trials, docs/privacy.md"
            )
        trials = _Trials(fixed, record, launch, display, stop, facts)
        stop.defer()
        study = run_search(space, settings, record.path, trials.play)
        display.finished()
    stop_if_asked(stop, trials.jobs, trials.statuses, command)
    done = [trial for trial in study.trials if trial.value is not None]
    if done:
        best = study.best_trial
        metric = short_name(judged)
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(f"best  trial {best.number + 1}: {metric} {score(judged, best.value)}  {chosen}")
    return exit_code(trials.jobs, trials.statuses, command)


def _check_earlier(record: SweepRecord, base: Job) -> list[str]:
    """Refuse to go on from trials whose inputs have changed: their values are in the journal.

    Returns:
        Lines about what could not be compared.
    """
    if not (record.path / SWEEP).exists():
        return []
    folders = [Path(str(job["run_dir"])) for job in read_json(record.path / SWEEP)["jobs"]]
    earlier = [
        Job(replace(build(read_config(folder)), paths=base.config.paths), folder=folder)
        for folder in folders
        if (folder / SUMMARY).exists()
    ]
    return check_done(earlier, sweep=True)


class _Trials:
    """Plays batches of proposals through the launcher; keeps what became of them."""

    def __init__(
        self,
        fixed: Sequence[str],
        record: SweepRecord,
        launch: Launch,
        display: SweepDisplay,
        stop: StopFlag,
        facts: Mapping[str, object],
    ) -> None:
        self._fixed, self._record, self._launch = fixed, record, launch
        self._display, self._stop, self._facts = display, stop, facts
        self.jobs: list[SweepJob] = []
        self.statuses: dict[int, Status] = {}

    def play(self, batch: Sequence[tuple[int, Proposal]]) -> dict[int, float | None]:
        """The value of each trial that ended; a failed one has none."""
        jobs: list[SweepJob] = []
        values: dict[int, float | None] = {}
        for number, proposal in batch:
            typed = [f"{key}={value}" for key, value in proposal.items()]
            (checked,) = plan([*self._fixed, *typed])
            job = self._record.job(number, checked, proposal)
            jobs.append(job)
        check_done([job.checked for job in jobs], sweep=True)
        self._display.add(jobs)
        self.jobs += jobs
        self._record.write(self._facts, self.jobs)
        first = {job.checked.signature: job for job in reversed(jobs)}  # equal proposals: one run
        playing = [job for job in jobs if first[job.checked.signature] is job]
        self.statuses |= play_jobs(playing, self._record, self._launch, self._display, self._stop)
        for job in jobs:
            self.statuses.setdefault(job.number, self.statuses[first[job.checked.signature].number])
            state = self.statuses[job.number].state
            if state in GOOD:
                values[job.number] = (result(job.path).get("best") or {}).get("value")
            elif state == FAILED:
                values[job.number] = None
        return values


def _check_space(fixed: Sequence[str], space: Mapping[str, Axis]) -> Job:
    """Check the search before its first trial: each axis at its ends, or at every choice.

    Returns:
        The job at the first value of every axis, for what all trials have in common.

    Raises:
        ConfigError: no axis, or the first value that makes no valid run.
    """
    if not space:
        raise ConfigError(
            "hydra/sweeper=optuna has nothing to vary; "
            "add an axis, as in 'federation.local_lr=interval(0.05,2)'"
        )
    first = {key: values_of(key, axis)[0] for key, axis in space.items()}
    for key, axis in space.items():
        for value in values_of(key, axis):
            point = {**first, key: value}
            plan([*fixed, *(f"{k}={v}" for k, v in point.items())])
    return plan([*fixed, *(f"{key}={value}" for key, value in first.items())])[0]
