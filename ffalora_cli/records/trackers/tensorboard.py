"""TensorBoard: event files in the run folder, a round a step, settings and result as HParams.

The records are written here, one after another and without a thread of TensorBoard's own, and the
file's name has no host name in it. Every sitting has a file; what is in the files counts, so a
round whose record a crash cut short is written again, and no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ffalora_cli.records.trackers import worker
from ffalora_cli.records.trackers.base import RunFacts

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

FOLDER = "tensorboard"
SECTIONS = ("seed", "method.name", "task.name", "model.name", "partition.name", "adapter.rank",
            "adapter.alpha", "head.mode", "privacy.unit", "privacy.epsilon_target",
            "privacy.max_grad_norm", "federation.num_clients", "federation.rounds",
            "federation.local_steps", "federation.local_batch_size", "federation.local_lr",
            "federation.local_optimizer")  # fmt: skip
"""Settings that are worth a column among the HParams."""


class TensorBoardTracker(worker.BackgroundTracker):
    """Writes ``<run>/tensorboard``; look at many runs with ``tensorboard --logdir runs``."""

    label = "TensorBoard"
    remedy = "pip install 'ffalora[trackers]'"
    _file: BinaryIO

    def _open(self, facts: RunFacts) -> int:
        from tensorboard.plugins.hparams.summary import session_start_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = facts.folder / FOLDER
        folder.mkdir(exist_ok=True)
        earlier = sorted(folder.glob("events.out.tfevents.*"))
        last = max((event.step for file in earlier for event in events(file)), default=-1)
        # TensorBoard reads files in the order of their names.
        self._file = (folder / f"events.out.tfevents.{len(earlier):06d}").open("xb")
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        group = self._config.group or facts.group
        self._add(summary=session_start_pb(hparams=_columns(facts.config), group_name=group))
        return last

    def _write(self, number: int, metrics: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=k, simple_value=float(v)) for k, v in metrics.items()]
        self._add(step=number, summary=Summary(value=points))

    def _close(self, values: Mapping[str, Any], exit_code: int) -> None:
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.summary import session_end_pb

        status = Status.STATUS_SUCCESS if exit_code == 0 else Status.STATUS_FAILURE
        self._add(summary=session_end_pb(status))
        self._file.close()

    def _add(self, step: int = -1, **what: Summary | str) -> None:
        """One event, with the operating system when this returns."""
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())
        self._records.flush()


def events(file: Path) -> Iterator[Event]:
    """The whole events of a file; a cut last one is left out."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    yield from EventFileLoader(str(file)).Load()


def _columns(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted keys, those that are there."""
    found = {}
    for key in SECTIONS:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str | int | float):
            found[key] = value
    return found


TRACKER = TensorBoardTracker
