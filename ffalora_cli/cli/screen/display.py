"""Shows a run while it runs: live on a terminal, plain lines when piped, or only its end."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar

from ffalora_cli.cli.screen import table, words
from ffalora_cli.cli.screen.streams import Screen, redraws, width
from ffalora_cli.cli.screen.units import human_seconds, number
from ffalora_cli.config.job import Job
from ffalora_cli.metric_keys import SAMPLES_PER_SECOND, evaluated
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

T = TypeVar("T")
_ROWS = 8  # evaluated rounds that stay on the screen
_BAR = 16  # columns of the progress bar
_SILENCE = 10.0  # seconds after which a plain display shows a round that was not evaluated


class Shown:
    """What displays of runs and of sweeps share: a terminal is always left as it was found.

    Args:
        stream: where lines go; standard output by default.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream or sys.stdout
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop redrawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """Something worth knowing beside the rest."""

    def _redraw(self, view: Callable[[], Group], console: Console, **how: Any) -> None:
        from rich.live import Live

        self._live = Live(get_renderable=view, console=console, **how)
        self._live.start()

    def _write(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class Display(Shown):
    """What all displays of a run share, and by itself the quiet one: the last lines are printed.

    It is the observer of a run (``experiment.Observer``).

    Args:
        job: the run.
        stream: where its lines go; standard output by default.
    """

    def __init__(self, job: Job, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.job = job
        self.facts: Mapping[str, Any] = {}
        self.columns = table.fitting(table.columns(job.config), width())
        self.done: int | None = None  # last round on disk
        self._first = 0  # round that this process began with
        self._began: float | None = None  # when the first round was done: training starts
        self._reached: float | None = None  # when the last round was done
        self._work: tuple[str, float] | None = None  # within a round: what on, since when

    @property
    def lost(self) -> str | None:
        """Why nothing is shown any more, if that is so."""
        return self.stream.lost if isinstance(self.stream, Screen) else None

    def remarks(self) -> list[str]:
        """What the records should say about this start or resume."""
        if self.lost is None:
            return []
        return [f"standard output failed on the way ({self.lost}); the run went on without it"]

    def started(self, facts: Mapping[str, Any]) -> None:
        """The first round is about to begin."""
        self.facts = facts
        self.done = facts.get("done")

    def working(self, on: str, done: float, total: int) -> None:
        """How far long work within a round is."""
        if self._work is None or self._work[0] != on:
            self._work = on, time.monotonic()

    def within(self, done: float, total: int) -> str:
        """``answers 12 of 100, 1:20 left``."""
        assert self._work is not None
        on, since = self._work
        passed = time.monotonic() - since
        left = f", {human_seconds(passed * (total - done) / done)} left" if done else ""
        return f"{on} {int(done)} of {total}{left}"

    def round_done(self, record: RoundRecord) -> None:
        """A round is on disk."""
        self._work = None
        self._reached = time.monotonic()
        if self._began is None:
            self._began, self._first = self._reached, record.round
        self.done = record.round
        if self.lost is not None:
            self.close()

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is on disk; says what came out."""
        self.close()
        if summary.get("already_done"):
            self._write("done before with this very configuration; --again repeats it")
        for line in words.closing(summary, self.job.config.task.metrics):
            self._write(line)

    def remaining(self) -> float | None:
        """Seconds to the end at the pace so far; None before a round was timed."""
        played = (self.done or 0) - self._first
        if self._began is None or self._reached is None or self.done is None or played < 1:
            return None
        pace = (self._reached - self._began) / played
        left = pace * (self.job.config.federation.rounds - self.done)
        return max(0.0, left - (time.monotonic() - self._reached))

    def line(self, record: RoundRecord) -> table.Line:
        """The record as the table shows it."""
        rounds = self.job.config.federation.rounds
        return table.Line(record.round, rounds, record.metrics, self.remaining())

    def evaluated(self, record: RoundRecord) -> bool:
        """Whether this round was evaluated; the others have no row."""
        return evaluated(self.job.config.task.metrics[0]) in record.metrics


class PlainDisplay(Display):
    """For pipes, log files and dumb terminals: lines, one an evaluated round; nothing moves.

    Where evaluations are far apart, the rounds between them show that the run is alive.
    """

    def __init__(self, job: Job, stream: TextIO | None = None) -> None:
        super().__init__(job, stream)
        self._written = time.monotonic()  # when the last row was

    def note(self, text: str) -> None:
        """Print the note under its label."""
        for line in words.labelled("note", text):
            self._write(line)

    def started(self, facts: Mapping[str, Any]) -> None:
        """Print the opening and the headings."""
        super().started(facts)
        for line in (*words.opening(facts, self.job.config), "", table.heading(self.columns)):
            self._write(line)
        self._written = time.monotonic()

    def working(self, on: str, done: float, total: int) -> None:
        """Print how far it is, if nothing was printed for a while."""
        super().working(on, done, total)
        if time.monotonic() - self._written >= _SILENCE:
            self._write(self.within(done, total))
            self._written = time.monotonic()

    def round_done(self, record: RoundRecord) -> None:
        """Print a row, if the round was evaluated or none was printed for a while."""
        super().round_done(record)
        if self.evaluated(record) or time.monotonic() - self._written >= _SILENCE:
            self._write(table.row(self.columns, self.line(record)))
            self._written = time.monotonic()

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Print the closing, apart from the table, and what to try next."""
        self.close()
        if self._began is not None:
            self._write("")
        super().finished(summary)
        run = str(summary.get("run_dir"))
        for line in words.suggestions(self.job.config, self.job.overrides, run):
            self._write(line)


class LiveDisplay(PlainDisplay):
    """For a terminal: the last evaluated rounds and a progress bar, redrawn in place."""

    def __init__(self, job: Job, console: Console) -> None:
        super().__init__(job, console.file)  # type: ignore[arg-type]
        self._console = console
        self._opened = 0.0
        self._rows: deque[table.Line] = deque(maxlen=_ROWS)
        self._last: Mapping[str, float] = {}
        self._doing = ""  # within a round

    def note(self, text: str) -> None:
        """Print the note above what is redrawn."""
        from rich.text import Text

        for line in words.labelled("note", text):
            self._console.print(Text(line, style="dim"))

    def started(self, facts: Mapping[str, Any]) -> None:
        """Print the opening and start redrawing."""
        Display.started(self, facts)
        for line in (*words.opening(facts, self.job.config), ""):
            self._console.print(line, markup=False, highlight=False)
        self._opened = time.monotonic()
        self._redraw(self._view, self._console, refresh_per_second=2)

    def working(self, on: str, done: float, total: int) -> None:
        """Keep how far it is for the next redrawing."""
        Display.working(self, on, done, total)
        self._doing = self.within(done, total)

    def round_done(self, record: RoundRecord) -> None:
        """Add a row if the round was evaluated, and move the bar."""
        Display.round_done(self, record)
        self._last, self._doing = record.metrics, ""
        if self.evaluated(record):
            self._rows.append(self.line(record))

    def _view(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rounds = self.job.config.federation.rounds
        speed = number(self._last.get(SAMPLES_PER_SECOND), 0)
        parts = [
            f"round {self.done or 0}/{rounds}",
            *filter(None, [self._doing]),
            f"ETA {human_seconds(self.remaining())}",
            f"elapsed {human_seconds(time.monotonic() - self._opened)}",
            f"{speed} samples/s",
        ]
        while len(parts) > 1 and len("  ".join(parts)) + _BAR + 2 > self._console.width:
            parts.pop()
        status = Text("  ".join(parts), no_wrap=True)
        line = Table.grid(padding=(0, 2))
        line.add_row(ProgressBar(total=rounds, completed=self.done or 0, width=_BAR), status)
        columns = table.fitting(table.columns(self.job.config), self._console.width)
        rows = [Text(table.row(columns, line), no_wrap=True) for line in list(self._rows)]
        return Group(Text(table.heading(columns), style="bold", no_wrap=True), *rows, line)


def open_display(job: Job, quiet: bool) -> Display:
    """The display of a run that fits."""
    return fitting(quiet, (Display, PlainDisplay, LiveDisplay), job)


def fitting(quiet: bool, displays: Sequence[Callable[..., T]], *about: Any) -> T:
    """Of three displays the quiet one when asked, the live one on a terminal that can redraw.

    Args:
        quiet: asked for.
        displays: quiet, plain, live; this one takes a console, too.
        about: what they show.
    """
    if quiet or not redraws():
        return displays[0 if quiet else 1](*about)
    from rich.console import Console

    return displays[2](*about, Console(file=sys.stdout))
