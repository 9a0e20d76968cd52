"""Plays one job in front of a person: its display, and every way it can end as one line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.cli.exits import DONE, FAILED
from ffalora_cli.cli.place import Place
from ffalora_cli.cli.screen.display import Display, open_display
from ffalora_cli.cli.screen.units import score
from ffalora_cli.cli.signals import stop_on_signals
from ffalora_cli.config.errors import ConfigError, RunFailed, one_line
from ffalora_cli.config.job import Job
from ffalora_cli.config.secrets import redact
from ffalora_cli.metric_keys import short_name
from ffalora_cli.records.files import write_whole
from ffalora_cli.stopping import SIGNALS, StopFlag, Stopped

if TYPE_CHECKING:
    from ffalora_cli.engine.ranks import Ranks


def play_shared(read: Callable[[], Job], quiet: bool) -> int:
    """Run one job, in this process or in all that torchrun started; the exit code.

    Rank 0 has the run; the others print nothing, and leave when it does.
    """
    place = Place.of(os.environ)
    if place.world == 1:
        with stop_on_signals() as stop:
            return play(read(), quiet, stop)[0]
    from ffalora_cli.engine.build import has_gpus
    from ffalora_cli.engine.ranks import Ranks

    if place.rank > 0:
        return _serve(read)
    with stop_on_signals(relayed=True) as stop:
        job = read()
        ranks = Ranks.join(has_gpus(job.config.engine.device))
        code = play(job, quiet, stop, ranks)[0]
        if code == DONE:  # otherwise the others see this process end
            ranks.tell()
            ranks.leave()
        return code


def _serve(read: Callable[[], Job]) -> int:
    """A rank above 0: signals are rank 0's affair from the moment that all have met."""
    from ffalora_cli.engine.build import has_gpus
    from ffalora_cli.engine.ranks import Ranks
    from ffalora_cli.experiment.ranks import serve

    job: Job | ConfigError
    try:
        job = read()
    except ConfigError as error:
        job = error
    ranks = Ranks.join(isinstance(job, Job) and has_gpus(job.config.engine.device))
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        serve(ranks, job)
        ranks.leave()
    except RunFailed:
        pass  # rank 0 says what happened
    except BaseException as error:
        ranks.leave(one_line(f"{type(error).__name__}: {error}"))
        return FAILED
    return DONE


def play(job: Job, quiet: bool, stop: StopFlag, ranks: Ranks | None = None) -> tuple[int, str]:
    """Run one job, or go on with it.

    Args:
        job: checked.
        quiet: print only the last lines.
        stop: requested by signals.
        ranks: that share the run; None: this process alone.

    Returns:
        The exit code, and the outcome in a few words.

    Raises:
        ConfigError: nothing was lost, and usually nothing written.
        Stopped: with the line for the user as its second argument.
    """
    from ffalora_cli import experiment

    with open_display(job, quiet) as display:
        for note in job.notes:
            display.note(note)
        try:
            summary = experiment.run(job, display, stop=stop, remarks=display.remarks, ranks=ranks)
        except ConfigError:
            raise
        except Stopped as stopped:
            stopped.args = (*stopped.args, _stopped(display))
            raise
        except RunFailed as error:
            display.close()
            kept = display.facts.get("run_dir")
            where = f"; records in {kept}" if kept else ""
            print(f"ffalora: run failed: {one_line(str(error))}{where}", file=sys.stderr)
            return FAILED, f"failed: {one_line(str(error))}"
        except Exception as error:
            display.close()
            print(f"ffalora: {_failure(error, job, display)}", file=sys.stderr)
            return FAILED, f"failed: {type(error).__name__}"
    for remark in display.remarks():
        print(f"ffalora: {remark}; records in {summary['run_dir']}", file=sys.stderr)
    headline = short_name(str(summary["headline"]))
    return DONE, f"{headline} {score(headline, summary['value'])}  {summary['run_dir']}"


def _stopped(display: Display) -> str:
    """What is on disk, and the command that goes on."""
    if not display.facts:
        return "nothing was trained yet"
    done = "no round was" if display.done is None else f"rounds to {display.done} are"
    return f"{done} on disk; go on with: {_resume(display)}"


def _resume(display: Display) -> str:
    return f"ffalora resume {shlex.quote(str(display.facts['run_dir']))}"


def _failure(error: Exception, job: Job, display: Display) -> str:
    """One line; the traceback is kept in a file beside the records, where it is our affair."""
    if os.environ.get("FFALORA_TRACEBACK") == "1":
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    first = (str(error).strip().splitlines() or [""])[0]
    what = one_line(f"run failed: {type(error).__name__}: {first}")[:160]
    run_dir = display.facts.get("run_dir")
    if isinstance(error, OSError) and error.errno:  # a full disk, a folder gone: no bug of ours
        return f"{what}; {_stopped(display)}"
    runs = Path(job.config.paths.runs).expanduser()
    file = Path(run_dir, "traceback.txt") if run_dir else runs / f"traceback-{job.signature}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = redact("".join(traceback.format_exception(error)))
        write_whole(file, text.encode(errors="backslashreplace"))  # never through a link
    except OSError:
        return f"{what}; FFALORA_TRACEBACK=1 shows where"
    return f"{what}; traceback in {file}"
