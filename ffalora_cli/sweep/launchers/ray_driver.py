"""The process that talks to Ray: what Ray prints, waits for and dies of is not the sweep's affair.

Lines of JSON. It is told ``submit`` (a number, with what to play) and ``withdraw`` (a number), and
ends when its input does. It tells ``nodes`` (resources of each) or ``failed`` (why there is no
cluster), then ``ended`` (a number, and how) and ``lost`` (a number: it is played once more).
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ffalora_cli.sweep.jobs import Command, Ended
from ffalora_cli.sweep.launchers.process import play, read_stop

Tell = Callable[[Mapping[str, Any]], None]
_POLL = 0.2  # seconds
_TURNS = 3  # that a job gets when its worker or node dies


def main() -> None:
    """Connect to the cluster of the first argument and play what standard input asks for."""
    tell = _own_output()
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    import ray

    address = sys.argv[1]
    dashboard = False if address == "local" else None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, include_dashboard=dashboard, **quiet)
    except Exception as error:
        tell({"failed": _line(error)})
        return
    tell({"nodes": [node["Resources"] for node in ray.nodes() if node["Alive"]]})
    tasks = Tasks(tell)
    while tasks.take(lines):
        tasks.look()
    ray.shutdown()


class Tasks:
    """The Ray tasks of jobs."""

    def __init__(self, tell: Tell) -> None:
        import ray

        self._ray, self._tell = ray, tell
        self._play: Any = ray.remote(play)
        self._open: dict[Any, dict[str, Any]] = {}  # the line that asked for it, by reference

    def take(self, lines: queue.Queue[dict[str, Any] | None]) -> bool:
        """Do what the next line says, if one comes soon; False after the last."""
        try:
            line = lines.get(timeout=_POLL)
        except queue.Empty:
            return True
        if line is None:
            return False
        if "withdraw" in line:
            for reference in [r for r, o in self._open.items() if o["submit"] == line["withdraw"]]:
                del self._open[reference]
                self._ray.cancel(reference)
        else:
            self._submit({**line, "turn": 1})
        return True

    def look(self) -> None:
        """Tell of tasks that ended; one whose worker or node died goes on where there is room."""
        if not self._open:
            return
        done, _ = self._ray.wait(list(self._open), num_returns=len(self._open), timeout=0)
        for reference in done:
            line = self._open.pop(reference)
            command = _command(line)
            ended, lost = self._result(reference)
            if lost and line["turn"] < _TURNS and read_stop(command.stop_file) is None:
                command.log.unlink(missing_ok=True)  # it waits again
                self._tell({"lost": line["submit"], "why": ended.error})
                self._submit({**line, "turn": line["turn"] + 1})
            else:
                self._tell({"ended": line["submit"], "how": asdict(ended)})

    def _submit(self, line: dict[str, Any]) -> None:
        # Ray would retry by itself, and say nothing
        task = self._play.options(**line["resources"], max_retries=0)
        work = _command(line), None, line["threads"], line["gpus"], True
        self._open[task.remote(*work)] = line

    def _result(self, reference: Any) -> tuple[Ended, bool]:
        """How a task ended, and whether Ray lost it."""
        raised = self._ray.exceptions
        lost = (raised.NodeDiedError, raised.WorkerCrashedError, raised.ObjectLostError)
        try:
            return self._ray.get(reference), False
        except Exception as error:
            return Ended(1, 0.0, _line(error)), isinstance(error, (*lost, raised.OutOfMemoryError))


def _command(line: Mapping[str, Any]) -> Command:
    paths = (Path(line[key]) for key in ("folder", "log", "stop_file"))
    return Command(tuple(line["arguments"]), *paths)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _own_output() -> Tell:
    """Standard output for our lines alone; what anybody else prints goes where errors go."""
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(message: Mapping[str, Any]) -> None:
        print(json.dumps(message), file=ours, flush=True)

    return tell


def _read(lines: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)


if __name__ == "__main__":
    main()
