"""How a sweep ends: its exit code, and what is left to do."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffalora_cli.cli.exits import DONE, PARTLY_DONE
from ffalora_cli.cli.exits import FAILED as ALL_FAILED
from ffalora_cli.compose.hydra_keys import SweepSettings
from ffalora_cli.config.errors import counted
from ffalora_cli.stopping import StopFlag, Stopped
from ffalora_cli.sweep.jobs import FAILED, GOOD, Status, SweepJob
from ffalora_cli.sweep.launchers.base import Launch


@dataclass(frozen=True)
class Sweeping:
    """What a grid and a search are played with.

    Attributes:
        about: what was typed about the sweep.
        launch: starts jobs.
        command: as typed, for the record and for the line that says how to go on.
        quiet: print only the last lines.
        fail_fast: stop after the first failed job.
        stop: requested by signals.
    """

    about: SweepSettings
    launch: Launch
    command: Sequence[str]
    quiet: bool
    fail_fast: bool
    stop: StopFlag


def stop_if_asked(
    sweep: Sweeping, jobs: Sequence[SweepJob], statuses: Mapping[int, Status]
) -> None:
    """Leave, if a signal asked for it, with the command that goes on.

    Raises:
        Stopped: with that line.
    """
    done = sum(statuses[job.number].state in GOOD for job in jobs if job.number in statuses)
    try:
        sweep.stop.poll()
    except Stopped as stopped:
        line = (
            f"{done} of {counted(len(jobs), 'job')} done; go on with: {shlex.join(sweep.command)}"
        )
        stopped.args = (*stopped.args, line)
        raise


def exit_code(
    jobs: Sequence[SweepJob], statuses: Mapping[int, Status], command: Sequence[str]
) -> int:
    """What a script is told; a line on standard error when not everything is done."""
    states = [statuses[job.number].state for job in jobs]
    undone = [state for state in states if state not in GOOD]
    if not undone:
        return DONE
    counts = ", ".join(f"{undone.count(state)} {state}" for state in sorted(set(undone)))
    print(
        f"ffalora: {counts} of {counted(len(jobs), 'job')}; run what is missing with: "
        f"{shlex.join(command)}",
        file=sys.stderr,
    )
    return ALL_FAILED if set(states) == {FAILED} else PARTLY_DONE
