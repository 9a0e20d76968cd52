"""Shows a sweep: a live table on a terminal, a line a change when piped, its end when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from ffalora_cli.cli.screen.display import Shown, fitting
from ffalora_cli.cli.screen.streams import width
from ffalora_cli.cli.screen.units import human_seconds, score
from ffalora_cli.config.errors import counted
from ffalora_cli.methods.registry import headline
from ffalora_cli.metric_keys import short_name
from ffalora_cli.sweep.jobs import ALREADY, FAILED, GOOD, RUNNING, WAITING, Status, SweepJob
from ffalora_cli.sweep.progress import Progress, Watcher, result, total_remaining

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

_STYLES = {RUNNING: "bold", FAILED: "red", "busy": "yellow", "stopped": "yellow", WAITING: "dim"}
_ROWS = 40  # jobs in a table that is printed; the live one has what the screen holds
_WORD = 20  # characters of a setting's value
_PIPED = 1000  # columns where there is no terminal
_NUMBERS = ("job", "round", "score", "time")  # right-aligned
_ORDER = (RUNNING, FAILED, "busy", "stopped", WAITING, "done", ALREADY)  # kept on a short screen


class SweepDisplay(Shown):
    """What all displays share, and by itself the quiet one: only the last table is printed.

    Args:
        folder: of the sweep's record.
        total: jobs there will be.
        stream: where lines go; standard output by default.
    """

    def __init__(self, folder: Path, total: int, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.folder, self.total = folder, total
        self.jobs: list[SweepJob] = []
        self.statuses: dict[int, Status] = {}
        self.watcher = Watcher()

    def add(self, jobs: Sequence[SweepJob]) -> None:
        """Jobs to show, all at once or as a search proposes them."""
        self.jobs += jobs
        self.statuses |= {job.number: Status() for job in jobs}

    def changed(self, job: SweepJob, status: Status) -> None:
        """A job stands elsewhere now."""
        self.statuses[job.number] = status

    def finished(self) -> None:
        """Print the table of the jobs that matter most, their complaints, and the counts."""
        self.close()
        from rich.console import Console

        console, shown = Console(file=self.stream), self.urgent(_ROWS)
        if len(shown) < len(self.jobs):  # of so many, those that nothing is known of are counted
            shown = [job for job in shown if self.statuses[job.number].state != WAITING]
        for line in _table(shown, [self._cells(job) for job in shown], room()):
            console.print(line, crop=False, overflow="ignore")
        if len(shown) < len(self.jobs):
            self._write(
                f"and {counted(len(self.jobs) - len(shown), 'other job')}; all are in the record"
            )
        for error, numbers in self._complaints().items():
            self._write(f"job {_numbers(numbers)}: {error}")
        self._write(f"{self.counts()}; record and logs in {self.folder}")

    def urgent(self, most: int) -> list[SweepJob]:
        """As many jobs as there is room for: those that run or failed first; by number."""
        first = sorted(self.jobs, key=lambda job: _ORDER.index(self.statuses[job.number].state))
        return sorted(first[:most], key=lambda job: job.number)

    def _complaints(self) -> dict[str, list[int]]:
        """Jobs by what they complained of."""
        found: dict[str, list[int]] = {}
        for job in self.jobs:
            ended = self.statuses[job.number].ended
            if ended is not None and ended.error:
                found.setdefault(ended.error, []).append(job.number)
        return dict(list(found.items())[:_ROWS])

    def counts(self) -> str:
        """How many jobs stand where."""
        states = [status.state for status in self.statuses.values()]
        parts = [f"{states.count(state)} {state}" for state in _ORDER if state in states]
        return f"{counted(self.total, 'job')}: {', '.join(parts)}"

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
        shown = "" if value is None else score(short_name(metric), value)
        seconds = "" if spent is None else human_seconds(spent)
        left = "left " if status.state == RUNNING and seconds else ""
        return (status.state, reached, shown, left + seconds)


class PlainSweepDisplay(SweepDisplay):
    """For pipes and log files: one line a change."""

    def note(self, text: str) -> None:
        """Print the note."""
        self._write(f"note  {text}")

    def changed(self, job: SweepJob, status: Status) -> None:
        """Print where the job stands."""
        super().changed(job, status)
        if status.state == ALREADY and self.total > _ROWS:
            return  # the last line counts them
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

    def __enter__(self) -> Self:
        self._redraw(self.view, self._console, refresh_per_second=1, transient=True)
        return self  # at the end the live table is taken away and the last one printed

    def note(self, text: str) -> None:
        """Print the note above what is redrawn."""
        from rich.text import Text

        self._console.print(Text(f"note  {text}", style="dim"))

    def view(self) -> Group:
        """The table as it is now; as many rows as the screen has, those that matter first."""
        from rich.console import Group
        from rich.text import Text

        jobs, statuses = list(self.jobs), dict(self.statuses)
        running = [job for job in jobs if statuses[job.number].state == RUNNING]
        progress = {job.number: self.watcher.look(job) for job in running}
        shown = self.urgent(max(3, self._console.height - 6))
        rows = [self._cells(job, progress.get(job.number)) for job in shown]
        hidden = (
            f" ({counted(len(jobs) - len(shown), 'row')} not shown)"
            if len(shown) < len(jobs)
            else ""
        )
        elapsed = human_seconds(time.monotonic() - self._began)
        eta = human_seconds(total_remaining(jobs, statuses, progress))
        feet = (f"{self.counts()}{hidden}", f"elapsed {elapsed}  ETA {eta}")
        return Group(*_table(shown, rows, self._console.width), *map(Text, feet))


def room() -> int:
    """Columns for a table: those of the terminal; without one, nothing is left out."""
    return width() if sys.stdout.isatty() else _PIPED


def _table(jobs: Sequence[SweepJob], rows: Sequence[tuple[str, ...]], room: int) -> list[Text]:
    """A row a job under its headings; on a narrow screen whole columns give way, no number is cut.

    Time goes first, then the round, then what varies, from the right.
    """
    from rich.text import Text

    keys = list(dict.fromkeys(key for job in jobs for key in job.varying))
    columns = [("job", [str(job.number) for job in jobs])]
    columns += [(key, [_short(job.varying.get(key, "")) for job in jobs]) for key in keys]
    for i, title in enumerate(("state", "round", "score", "time")):
        columns.append((title, [row[i] for row in rows]))
    widths = {t: max(map(len, (t, *cells)), default=0) for t, cells in columns}
    for title in ("time", "round", *reversed(keys)):
        if sum(widths.values()) + 2 * len(widths) <= room:
            break
        del widths[title]
    kept = [(title, cells) for title, cells in columns if title in widths]

    def line(texts: Sequence[str]) -> str:
        cells = zip(kept, texts, strict=True)
        aligned = (
            text.rjust(widths[title]) if title in _NUMBERS else text.ljust(widths[title])
            for (title, _), text in cells
        )
        return "  ".join(aligned).rstrip()

    lines = [Text(line([title for title, _ in kept]), "bold", no_wrap=True)]
    for i, row in enumerate(rows):
        style = _STYLES.get(row[0], "")
        lines.append(Text(line([cells[i] for _, cells in kept]), style, no_wrap=True))
    return lines


def _short(value: str) -> str:
    """A long number, as a search proposes it, with four digits; a long word with its two ends."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value if len(value) <= _WORD else f"{value[:9]}...{value[-8:]}"


def _numbers(numbers: Sequence[int]) -> str:
    """``1, 2, 5``; of many, how many there are."""
    some = ", ".join(map(str, numbers[:5]))
    return some if len(numbers) <= 5 else f"{some}, ... ({len(numbers)} jobs)"


def open_sweep_display(quiet: bool, folder: Path, total: int) -> SweepDisplay:
    """The display of a sweep that fits."""
    return fitting(quiet, (SweepDisplay, PlainSweepDisplay, LiveSweepDisplay), folder, total)
