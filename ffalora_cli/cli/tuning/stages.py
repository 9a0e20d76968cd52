"""Plays a tune: trials of every cell, steps about the best of each, final runs of the chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ffalora_cli.cli.batches import Batches
from ffalora_cli.cli.screen.units import score
from ffalora_cli.cli.tuning.asked import Asked
from ffalora_cli.compose.chosen import as_experiment
from ffalora_cli.config.errors import ConfigError, counted
from ffalora_cli.config.job import Job
from ffalora_cli.metric_keys import short_name
from ffalora_cli.records.run_directory import PRIVACY
from ffalora_cli.records.state import read_failure
from ffalora_cli.sweep import search
from ffalora_cli.sweep.jobs import FAILED, GOOD, Ended, Status, SweepJob, settings
from ffalora_cli.sweep.progress import result
from ffalora_cli.sweep.tuning import Cell, Setting, best, next_settings

SAID = "Chosen by ffalora tune"
_OF_ROUND = re.compile(r"round \d+: ")  # so begins what a run says that would fail so again


@dataclass
class Tune:
    """A tune under way.

    Attributes:
        asked: of it.
        batches: plays its jobs.
        trials: jobs of every setting tried, by number of the cell, one a tuning seed.
        finals: jobs of every chosen setting, by number of the cell, one a seed.
    """

    asked: Asked
    batches: Batches
    trials: dict[tuple[int, Setting], list[SweepJob]] = field(default_factory=dict)
    finals: dict[int, list[SweepJob]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every job so far has ended, well or not."""
        ended = (*GOOD, FAILED)
        return all(status.state in ended for status in self.batches.statuses.values())

    def play(self, how: search.Settings | None) -> None:
        """Play stage by stage; the rest is left out once one is not complete.

        Args:
            how: Optuna searches; None for the grid and the steps after it.
        """
        if how is not None:
            self.search(how)
        else:
            self.grid()
            for _ in range(self.asked.refine):
                if self.complete:
                    self.refine()
        if self.complete:
            self.last()

    def grid(self) -> None:
        """Try every setting of every cell's grid."""
        self._try([(n, one) for n, cell in enumerate(self.asked.cells) for one in cell.grid])

    def refine(self) -> None:
        """Try one more value of each numeric key about each cell's best."""
        wanted = []
        for n, cell in enumerate(self.asked.cells):
            for ideas in next_settings(cell.worth, self.asked.higher, self.asked.whole):
                possible = (one for one in ideas if self._is_possible(cell, one))
                wanted += [(n, one) for one in [*possible][:1]]
        self._try(wanted)

    def search(self, how: search.Settings) -> None:
        """Let Optuna propose the settings of each cell, in a journal of its own."""
        for n, cell in enumerate(self.asked.cells):
            folder = self.batches.record.path / f"cell-{n + 1}"
            folder.mkdir(exist_ok=True)

            def play(
                batch: Sequence[tuple[int, search.Proposal]], n: int = n, cell: Cell = cell
            ) -> dict[int, float | None]:
                tried = [tuple(proposal.values()) for _, proposal in batch]
                self._try([(n, one) for one in tried])
                numbers = [number for number, _ in batch]
                return {
                    k: cell.worth[s] for k, s in zip(numbers, tried, strict=True) if s in cell.worth
                }

            study = search.search(cell.axes, how, folder, play)
            told = [search.texts(trial.params, cell.axes) for trial in study.trials]
            self._try(
                [(n, one) for texts in told if (one := tuple(texts.values())) not in cell.worth]
            )

    def last(self) -> None:
        """Run the chosen setting of every cell over the seeds, its trials' ledgers named."""
        jobs: list[SweepJob] = []
        for n, cell in enumerate(self.asked.cells):
            chosen = best(cell.worth, self.asked.higher)
            if chosen is None:
                continue
            spent = self._named(n)
            own = [self.asked.final(cell, chosen, seed, *spent) for seed in self.asked.seeds]
            self.finals[n] = self._jobs(n, chosen, own, len(jobs))
            jobs += self.finals[n]
        self.batches.play(jobs)

    def experiment(self, n: int) -> str:
        """The chosen setting of a cell as an experiment, of a private one with its trials."""
        cell, asked = self.asked.cells[n], self.asked
        chosen = best(cell.worth, asked.higher)
        assert chosen is not None  # it has final runs
        what = ", ".join(asked.typed(chosen))
        judged = score(asked.metric, cell.worth[chosen])
        about = f"{SAID}: {what}; {short_name(asked.metric)} {judged} on tuning rows, best of "
        typed = [text for text in asked.chosen(cell, chosen) if not text.startswith("paths.runs=")]
        return as_experiment(
            [*typed, *self._named(n)], f"{about}{counted(len(cell.worth), 'setting')}"
        )

    def _named(self, n: int) -> list[str]:
        """The override that puts the ledgers of a cell's private trials into a statement."""
        spent = [job.path.name for job in self.of_cell(n) if (job.path / PRIVACY).exists()]
        quoted = ",".join(f"'{name}'" for name in spent)
        return [f"privacy.trial_runs=[{quoted}]"] if spent else []

    def of_cell(self, n: int) -> list[SweepJob]:
        """All trials of a cell, each run once."""
        jobs = (job for (cell, _), own in self.trials.items() if cell == n for job in own)
        return list({job.path: job for job in jobs}.values())

    def _is_possible(self, cell: Cell, setting: Setting) -> bool:
        try:
            self.asked.trial(cell, setting, self.asked.tuning_seeds[0])
        except ConfigError:
            return False
        return True

    def _try(self, wanted: Sequence[tuple[int, Setting]]) -> None:
        jobs: list[SweepJob] = []
        for n, setting in wanted:
            cell = self.asked.cells[n]
            own = [self.asked.trial(cell, setting, seed) for seed in self.asked.tuning_seeds]
            self.trials[n, setting] = self._jobs(n, setting, own, len(jobs))
            jobs += self.trials[n, setting]
        settled = {job.number: status for job in jobs if (status := _settled(job))}
        self.batches.play(jobs, settled)
        for n, setting in wanted:
            states = [self.batches.statuses[job.number].state for job in self.trials[n, setting]]
            if all(state in (*GOOD, FAILED) for state in states):
                self.asked.cells[n].worth[setting] = self.worth(n, setting)

    def _jobs(self, n: int, setting: Setting, own: Sequence[Job], before: int) -> list[SweepJob]:
        first = len(self.batches.jobs) + before + 1
        cell = self.asked.cells[n].settings
        return [
            self.batches.record.job(
                first + i,
                job,
                {**cell, **self.asked.set_to(setting)}
                | {key: settings(job)[key] for key in ("task.eval_on", "seed")},
            )
            for i, job in enumerate(own)
        ]

    def values(self, n: int, setting: Setting) -> list[float | None]:
        """The metric after the last round of each of a setting's trials; None of a failed one."""
        found = []
        for job in self.trials[n, setting]:
            good = self.batches.statuses[job.number].state in GOOD
            value = result(job.path).get("value") if good else None
            found.append(value if isinstance(value, float) and math.isfinite(value) else None)
        return found

    def worth(self, n: int, setting: Setting) -> float | None:
        """Mean of a setting's values; None where one is missing."""
        values = self.values(n, setting)
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(values) else None


def _settled(job: SweepJob) -> Status | None:
    """That a trial has failed and would again, as one that diverged; None of any other."""
    failure = None if job.finished else read_failure(job.path)
    if failure is None or not _OF_ROUND.match(failure.reason):
        return None
    return Status(FAILED, Ended(1, 0.0, failure.reason))
