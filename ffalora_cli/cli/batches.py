"""Plays jobs batch by batch in one record: the trials of a search, the stages of a tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ffalora_cli.cli.done import check_done
from ffalora_cli.cli.screen.sweep_display import SweepDisplay
from ffalora_cli.cli.sweep_end import Sweeping
from ffalora_cli.sweep.jobs import Status, SweepJob
from ffalora_cli.sweep.play import play_jobs
from ffalora_cli.sweep.record import SweepRecord


@dataclass
class Batches:
    """What was played so far.

    Attributes:
        record: of the sweep.
        sweep: how jobs are started and stopped.
        display: is told of every job.
        facts: of the sweep, for its record.
        jobs: of all batches.
        statuses: of each, by number.
    """

    record: SweepRecord
    sweep: Sweeping
    display: SweepDisplay
    facts: Mapping[str, object]
    jobs: list[SweepJob] = field(default_factory=list)
    statuses: dict[int, Status] = field(default_factory=dict)

    def play(self, batch: Sequence[SweepJob], settled: Mapping[int, Status] | None = None) -> None:
        """Play what is not done; jobs of one signature are one run.

        Args:
            batch: the next jobs.
            settled: those of them that would only end as they did, by number.

        Raises:
            ConfigError: inputs of a finished one have changed.
        """
        check_done([job.checked for job in batch], sweep=True)
        self.display.add(batch)
        self.jobs += batch
        self.record.write(self.facts, self.jobs)
        settled = settled or {}
        for job in batch:
            if job.number in settled:
                self.display.changed(job, settled[job.number])
        first = {job.checked.signature: job for job in reversed(batch)}
        playing = [
            job
            for job in batch
            if first[job.checked.signature] is job and job.number not in settled
        ]
        launch, stop = self.sweep.launch, self.sweep.stop
        fail_fast = self.sweep.fail_fast
        self.statuses |= settled
        self.statuses |= play_jobs(playing, self.record, launch, self.display, stop, fail_fast)
        for job in batch:
            self.statuses.setdefault(job.number, self.statuses[first[job.checked.signature].number])
