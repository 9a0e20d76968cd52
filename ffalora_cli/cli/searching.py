"""``hydra/sweeper=optuna``: the space from the command line, each trial a job like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ffalora_cli.cli.batches import Batches
from ffalora_cli.cli.done import check_done, check_inputs
from ffalora_cli.cli.screen.sweep_display import open_sweep_display
from ffalora_cli.cli.screen.units import score
from ffalora_cli.cli.sweep_end import Sweeping, exit_code, stop_if_asked
from ffalora_cli.compose.jobs import plan
from ffalora_cli.compose.overrides import Axis, split_space
from ffalora_cli.config.build import build
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job
from ffalora_cli.config.signature import digest
from ffalora_cli.methods.registry import headline
from ffalora_cli.metric_keys import short_name
from ffalora_cli.records.reading import read_config
from ffalora_cli.records.run_directory import SUMMARY
from ffalora_cli.sweep.jobs import FAILED, GOOD, SweepJob
from ffalora_cli.sweep.launchers.base import waits
from ffalora_cli.sweep.progress import result
from ffalora_cli.sweep.record import SWEEP, SweepRecord, job_key
from ffalora_cli.sweep.search import Proposal, read
from ffalora_cli.sweep.search import search as run_search
from ffalora_cli.sweep.tuning import Cell
from ffalora_cli.tasks.registry import higher_is_better


def search(overrides: Sequence[str], sweep: Sweeping) -> int:
    """Search the space that the overrides span."""
    settings = read(sweep.about.sweeper_settings)
    fixed, space = split_space(overrides)
    base = _check_space(fixed, space)
    if waits(sweep.about.launcher):
        check_inputs([base])
    judged = headline(base.config)
    if "direction" not in sweep.about.sweeper_settings:
        settings = replace(settings, direction=_better(judged))
    # More trials are the same search, so their number is no part of its name.
    name = digest([job_key(base), repr(sorted(space.items())), settings.direction, settings.seed])
    record = SweepRecord(base.config.paths.runs, name)
    notes = _check_earlier(record, base)
    facts = {
        "kind": "search",
        "command": sweep.command,
        "launcher": sweep.about.launcher,
        "grid": {key: str(axis) for key, axis in space.items()},
        "settings": settings,
        "objective": f"best {judged}",
    }
    with open_sweep_display(sweep.quiet, record.path, settings.n_trials) as display:
        display.note(f"objective: the best {judged} of a run on its evaluation rows")
        for note in notes:
            display.note(note)
        if base.config.privacy.unit != "none":
            display.note(
                "every trial spends its own epsilon on the same rows; the best of them costs more "
                "than its own statement says: privacy.trials, docs/privacy.md"
            )
        batches = Batches(record, sweep, display, facts)
        sweep.stop.defer()
        study = run_search(space, settings, record.path, _Trials(fixed, batches).play)
        display.finished()
    stop_if_asked(sweep, batches.jobs, batches.statuses)
    done = [trial for trial in study.trials if trial.value is not None]
    if done:
        best = study.best_trial
        metric = short_name(judged)
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(f"best  trial {best.number + 1}: {metric} {score(judged, best.value)}  {chosen}")
    return exit_code(batches.jobs, batches.statuses, sweep.command)


def _better(judged: str) -> str:
    """Where a metric's better values are, in Optuna's words."""
    return "maximize" if higher_is_better(judged) else "minimize"


def _check_earlier(record: SweepRecord, base: Job) -> list[str]:
    """Refuse to go on from trials whose inputs have changed: their values are in the journal.

    Returns:
        Lines about what could not be compared.
    """
    if not (record.path / SWEEP).exists():
        return []
    folders = record.folders()
    earlier = [
        Job(replace(build(read_config(folder)), paths=base.config.paths), folder=folder)
        for folder in folders
        if (folder / SUMMARY).exists()
    ]
    return check_done(earlier, sweep=True)


@dataclass
class _Trials:
    """Plays proposals; says what they were worth."""

    fixed: Sequence[str]
    batches: Batches

    def play(self, batch: Sequence[tuple[int, Proposal]]) -> dict[int, float | None]:
        """The value of each trial that ended; a failed one has none."""
        jobs: list[SweepJob] = []
        for number, proposal in batch:
            typed = [f"{key}={value}" for key, value in proposal.items()]
            (checked,) = plan([*self.fixed, *typed])
            jobs.append(self.batches.record.job(number, checked, proposal))
        self.batches.play(jobs)
        values: dict[int, float | None] = {}
        for job in jobs:
            state = self.batches.statuses[job.number].state
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
    jobs = []
    for point in Cell((), space).ends:
        typed = (f"{key}={value}" for key, value in zip(space, point, strict=True))
        jobs += plan([*fixed, *typed])
    return jobs[0]
