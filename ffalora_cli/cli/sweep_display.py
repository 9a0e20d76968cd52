"""How a sweep looks: a live table on a terminal, a line a change when piped, its end when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ffalora_cli.cli.units import human_seconds, score
from ffalora_cli.sweep.jobs import ALREADY, FAILED, GOOD, RUNNING, WAITING, Status, SweepJob
from ffalora_cli.sweep.progress import Progress, Watcher, headline, result, total_remaining

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table

_STYLES = {RUNNING: "bold", FAILED: "red", "busy": "yellow", "stopped": "yellow", WAITING: "dim"}
_ORDER = (RUNNING, FAILED, "busy", "stopped", WAITING, "done", ALREADY)  # kept on a short screen


class SweepDisplay:
    """What all displays share, and by itself the quiet one: only the last table is printed.

    Args:
        folder: of the sweep's record.
        total: jobs there will be.
        stream: where lines go; standard output by default.
    """

    def __init__(self, folder: Path, total: int, stream: TextIO | None = None) -> None:
        self.folder, self.total = folder, total
        self.stream = stream or sys.stdout
        self.jobs: list[SweepJob] = []
        self.statuses: dict[int, Status] = {}
        self.watcher = Watcher()

    def __enter__(self) -> SweepDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was found."""

    def add(self, jobs: Sequence[SweepJob]) -> None:
        """Jobs to show, all at once or as a search proposes them."""
        self.jobs += jobs
        self.statuses |= {job.number: Status() for job in jobs}

    def note(self, text: str) -> None:
        """Something worth knowing beside the jobs."""

    def changed(self, job: SweepJob, status: Status) -> None:
        """A job stands elsewhere now."""
        self.statuses[job.number] = status

    def finished(self) -> None:
        """Print the table of all jobs, and the counts."""
        self.close()
        from rich.console import Console

        console = Console(file=self.stream)
        console.print(_table(self.jobs, [self._cells(job) for job in self.jobs]))
        for job in self.jobs:
            ended = self.statuses[job.number].ended
            if ended is not None and ended.error:
                self._write(f"job {job.number}: {ended.error}")
        self._write(f"{self.counts()}; record and logs in {self.folder}")

    def counts(self) -> str:
        """How many jobs stand where."""
        states = [status.state for status in self.statuses.values()]
        parts = [f"{states.count(state)} {state}" for state in _ORDER if state in states]
        return f"{self.total} jobs: {', '.join(parts)}"

    def _cells(self, job: SweepJob, progress: Progress | None = None) -> tuple[str, ...]:
        """State, round, metric and time of one job."""
        status, config = self.statuses[job.number], job.checked.config
        metric, rounds, value, spent = headline(config), None, None, None
        if status.state in GOOD:
            summary = result(job.path)
            rounds, value = summary.get("rounds"), summary.get("value")
            spent = status.ended.seconds if status.ended else None
        elif progress is not None:
            rounds, value, spent = progress.round, progress.value, progress.remaining
        elif status.ended is not None:
            spent = status.ended.seconds
        reached = "" if rounds is None else f"{rounds}/{config.federation.rounds}"
        shown = "" if value is None else score(metric.removeprefix("eval/"), value)
        seconds = "" if spent is None else human_seconds(spent)
        left = "left " if status.state == RUNNING and seconds else ""
        return (status.state, reached, shown, left + seconds)

    def _write(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class PlainSweepDisplay(SweepDisplay):
    """For pipes and log files: one line a change."""

    def note(self, text: str) -> None:
        """Print the note."""
        self._write(f"note  {text}")

    def changed(self, job: SweepJob, status: Status) -> None:
        """Print where the job stands."""
        super().changed(job, status)
        state, _, shown, spent = self._cells(job)
        error = status.ended.error if status.ended else None
        words = [f"job {job.number}/{self.total}", job.label, state, shown, spent, error or ""]
        self._write("  ".join(word for word in words if word))


class LiveSweepDisplay(SweepDisplay):
    """For a terminal: a row a job, redrawn in place."""

    def __init__(self, folder: Path, total: int, console: Console) -> None:
        super().__init__(folder, total, console.file)  # type: ignore[arg-type]
        self._console = console
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> SweepDisplay:
        from rich.live import Live

        self._live = Live(
            get_renderable=self.view, console=self._console, refresh_per_second=1, transient=True
        )
        self._live.start()
        return self

    def close(self) -> None:
        """Take the live table away; the last one is printed."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """Print the note above what is redrawn."""
        self._console.print(f"note  {text}", markup=False, highlight=False, style="dim")

    def view(self) -> Group:
        """The table as it is now; as many rows as the screen has, those that matter first."""
        from rich.console import Group
        from rich.text import Text

        jobs, statuses = list(self.jobs), dict(self.statuses)
        running = [job for job in jobs if statuses[job.number].state == RUNNING]
        progress = {job.number: self.watcher.look(job) for job in running}
        room = max(3, self._console.height - 6)
        urgent = sorted(jobs, key=lambda job: _ORDER.index(statuses[job.number].state))[:room]
        shown = sorted(urgent, key=lambda job: job.number)
        rows = [self._cells(job, progress.get(job.number)) for job in shown]
        hidden = f" ({len(jobs) - len(shown)} rows not shown)" if len(shown) < len(jobs) else ""
        elapsed = human_seconds(time.monotonic() - self._began)
        eta = human_seconds(total_remaining(jobs, statuses, progress))
        feet = (f"{self.counts()}{hidden}", f"elapsed {elapsed}  ETA {eta}")
        return Group(_table(shown, rows), *(Text(foot, no_wrap=True) for foot in feet))


def _table(jobs: Sequence[SweepJob], rows: Sequence[tuple[str, ...]]) -> Table:
    """A row a job under its headings; what varies gives way on a narrow screen."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("job", justify="right", no_wrap=True, min_width=3)
    keys = list(dict.fromkeys(key for job in jobs for key in job.varying))
    for key in keys:
        table.add_column(key, no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True, min_width=7)
    for title, width in (("round", 7), ("score", 6), ("time", 9)):
        table.add_column(title, no_wrap=True, justify="right", min_width=width)
    for job, row in zip(jobs, rows, strict=True):
        varying = [_short(job.varying.get(key, "")) for key in keys]
        cells = (Text(cell) for cell in (str(job.number), *varying, *row))
        table.add_row(*cells, style=_STYLES.get(row[0]))
    return table


def _short(value: str) -> str:
    """A long number, as a search proposes it, with four digits."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value


def open_sweep_display(quiet: bool, folder: Path, total: int) -> SweepDisplay:
    """The display that fits: quiet when asked, live on a terminal, plain when piped."""
    if quiet:
        return SweepDisplay(folder, total)
    if not sys.stdout.isatty():
        return PlainSweepDisplay(folder, total)
    from rich.console import Console

    return LiveSweepDisplay(folder, total, Console(file=sys.stdout))
