"""TensorBoard: event files in the run folder, a round a step, settings and result as HParams.

The records are written here, one after another and without a thread of TensorBoard's own, and the
file's name has no host name in it. Every resume has a file; what is in the files counts, so a
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
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

FOLDER = "tensorboard"
SETTINGS = ("seed", "method.name", "task.name", "model.name", "partition.name", "adapter.rank",
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
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = facts.folder / FOLDER
        folder.mkdir(exist_ok=True)
        earlier = sorted(folder.glob("events.out.tfevents.*"))
        last = max((event.step for file in earlier for event in events(file)), default=-1)
        # TensorBoard reads files in the order of their names.
        self._file = (folder / f"events.out.tfevents.{len(earlier):06d}").open("xb")
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        self._add(summary=_session_start(facts.config, self._config.group or facts.group))
        return last

    def _write(self, number: int, metrics: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=k, simple_value=float(v)) for k, v in metrics.items()]
        self._add(step=number, summary=Summary(value=points))

    def _close(self, values: Mapping[str, Any], exit_code: int) -> None:
        self._add(summary=_session_end(exit_code))
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


def _session_start(config: Mapping[str, Any], group: str) -> Summary:
    """The settings that are there, as HParams."""
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(group_name=group)
    for key in SETTINGS:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            start.hparams[key].string_value = value
        elif value is not None:
            start.hparams[key].number_value = value
    return _hparams(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def _session_end(exit_code: int) -> Summary:
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    status = Status.Value("STATUS_FAILURE" if exit_code else "STATUS_SUCCESS")
    data = HParamsPluginData()
    data.session_end_info.status = status
    return _hparams(SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: HParamsPluginData) -> Summary:
    """As TensorBoard's own ``hparams.summary``, which needs TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    about = create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=NULL_TENSOR)])


TRACKER = TensorBoardTracker
