"""Reads back what trackers hold of a run, from their own files, field by field.

Fields are named as ``records/leaving.py`` names them; what a tracker adds itself is ``tracker.*``,
its times are ``tracker.time``. A kind of record that nobody has thought about keeps its own name,
which no line of the list has.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.config.job import Job
from ffalora_cli.records.reading import read_run
from ffalora_cli.records.trackers.base import KEY, RunFacts, open_tracker

Fields = dict[str, list[Any]]
"""Every value that a field has, in the order written."""

TIME = "tracker.time"
SETTLE_SECONDS = 60.0  # that W&B may take to write its file


def tracked(name: str, folder: Path, job: Job) -> Fields:
    """Send a finished run to a tracker on this machine and read back what it holds.

    Args:
        name: of ``at_hand``.
        folder: of the run.
        job: of the run.
    """
    project = f"audit-{token_hex(4)}"  # a store of its own, should one be kept
    named: Any = name
    settings = replace(job.config.tracking, name=named, mode="offline", project=project)
    records, tracker = read_run(folder), open_tracker(settings)
    tracker.start(RunFacts.of(folder, job.config.name, job.resolved))
    for record in records.rounds:
        tracker.log(record)
    tracker.finish(records.summary)
    fields: Fields = {}
    for key, value in _READERS[name](folder, project):
        fields.setdefault(key, []).append(value)
    for note in tracker.notes:
        if "tracker off" in note:
            fields["tracker off"] = [note]
    return fields


def at_hand() -> list[str]:
    """Trackers whose packages are installed."""
    return [name for name in _READERS if find_spec(name) is not None]


def _wandb(folder: Path, project: str) -> Iterator[tuple[str, Any]]:
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for entry in _written(file):
        kind = entry.WhichOneof("record_type")
        content = getattr(entry, kind)
        if kind == "run":
            for item in content.config.update:
                yield from _config(item.key, json.loads(item.value_json))
            about = (content.run_id, content.display_name, content.run_group, [*content.tags])
            yield "tracker.run", about
            yield "tracker.host", content.host
            yield TIME, content.start_time.seconds
        elif kind in ("history", "summary"):
            items = content.item if kind == "history" else content.update
            for item in items:
                name = "/".join(item.nested_key) or item.key
                yield _row(name, kind), json.loads(item.value_json)
        elif kind == "exit":
            yield "tracker.exit", content.exit_code
            yield TIME, content.runtime
        elif kind in ("header", "telemetry", "metric", "files"):
            yield f"tracker.{kind}", str(content)
        else:
            yield f"wandb.{kind}", str(content)
    for extra in sorted((file.parent / "files").rglob("*")):
        yield f"tracker.files.{extra.name}", extra.read_text() if extra.is_file() else ""


def _written(file: Path) -> list[Any]:
    """All of a W&B file; a process of W&B's own may still be at it.

    Raises:
        RunFailed: it never ends.
    """
    from ffalora_cli.records.trackers.wandb_file import entries

    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        found = list(entries(file))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    raise RunFailed(f"W&B did not finish {file} within {SETTLE_SECONDS:g} s; try again")


def _row(name: str, kind: str) -> str:
    """A row's key as the list has it."""
    if name in ("_timestamp", "_runtime", "_wandb/runtime"):
        return TIME
    if name in ("round", "_step"):
        return "tracker.step"
    if name == "best/round":
        return "summary.best.round"
    if name.startswith("best/"):
        return f"metrics.{name.removeprefix('best/')}"
    return f"metrics.{name}" if kind == "history" or "/" in name else f"summary.{name}"


def _tensorboard(folder: Path, project: str) -> Iterator[tuple[str, Any]]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    from ffalora_cli.records.trackers.tensorboard import FOLDER, events

    (file,) = (folder / FOLDER).glob("events.out.tfevents.*")
    yield "tracker.file", file.name
    for event in events(file):
        yield TIME, event.wall_time
        for value in event.summary.value:
            if not value.metadata.plugin_data.plugin_name:
                scalar = value.tensor.float_val[:] or [value.simple_value]
                yield f"metrics.{value.tag}", (event.step, *scalar)
                continue
            data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            start = data.session_start_info
            yield "tracker.session", (start.group_name, data.session_end_info.status)
            for key, setting in start.hparams.items():
                yield f"config.{key}", str(setting)


def _trackio(folder: Path, project: str) -> Iterator[tuple[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    with sqlite3.connect(SQLiteStorage.get_project_db_path(project)) as store:
        tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table.startswith("sqlite_") or not table.isidentifier():
                continue  # SQLite's own
            rows = store.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in rows.description]
            for row in rows:
                for name, value in zip(names, row, strict=True):
                    yield from _cell(table, name, value)


def _cell(table: str, name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name in ("timestamp", "created_at") or name in ("run_id", "log_id"):
        yield TIME, value
    elif (table, name) == ("metrics", "metrics"):
        for key, number in json.loads(value).items():
            yield f"metrics.{key}", number
    elif (table, name) == ("configs", "config"):
        for key, setting in json.loads(value).items():
            yield from _config(key, setting)
    elif table in ("metrics", "configs"):
        yield f"tracker.{table}.{name}", value
    else:
        yield f"trackio.{table}.{name}", value


def _config(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A tracker's config: the run's own, where its numbers come from, what the tracker adds."""
    if key == KEY:
        yield from flat("manifest", value["manifest"])
        if value["privacy"] is not None:
            yield from flat("privacy", value["privacy"])
    elif key == "_Created":
        yield TIME, value
    elif key in ("_wandb", "_Group", "_Username", "tags"):
        yield f"tracker.config.{key}", value
    else:
        yield from flat(f"config.{key}", value)


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by their dotted names."""
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from flat(f"{name}.{key}", child)
    else:
        yield name, value


_READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, Any]]]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
