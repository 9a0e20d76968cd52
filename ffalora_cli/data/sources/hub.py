"""Reads data sets of the Hugging Face hub: prepared on this machine before, else downloaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.sources.readers import Names, Table, from_arrow
from ffalora_cli.hub.access import (
    DOWNLOADING,
    Note,
    ask_commit,
    is_offline,
    local_commit,
    patiently,
    quiet,
    silent,
)
from ffalora_cli.hub.reasons import Wanted, absent, explained


@dataclass(frozen=True)
class Prepared:
    """Rows that `datasets` has prepared on this machine, for one commit of a repository."""

    configuration: str
    version: str
    commit: str  # of the hub; a script's hash where an old version of `datasets` prepared it
    written: float  # when


def pin(task: TaskConfig, note: Note = silent) -> TaskConfig:
    """The task with its hub revision turned into the commit that is read from now on.

    What this machine has of a revision is kept to; the hub is asked where it has nothing. Where
    no revision is given and the hub cannot be asked, the newest prepared rows are taken.

    Raises:
        ConfigError: no commit is known, or the hub does not have it.
    """
    repository, _, revision = str(task.hub_path).partition("@")
    pinned, place = pinned_here(task), "from the local cache"
    if pinned is None:
        newest = None if revision else _newest(task)
        try:
            commit, place = _asked(task, newest)
        except ConfigError:
            if newest is None:
                raise
            commit = newest.commit
        pinned = replace(task, hub_path=f"{repository}@{commit}")
    note(f"data {repository}: commit {str(pinned.hub_path).partition('@')[2]} ({place})")
    return pinned


def pinned_here(task: TaskConfig) -> TaskConfig | None:
    """What ``pin`` returns without asking the hub; None where it would have to."""
    repository, _, revision = str(task.hub_path).partition("@")
    commit = local_commit("dataset", repository, revision or "main") or revision
    if not _prepared(task, commit):
        newest = None if revision or not is_offline("dataset") else _newest(task)
        if newest is None:
            return None
        commit = newest.commit
    return replace(task, hub_path=f"{repository}@{commit}")


def _newest(task: TaskConfig) -> Prepared | None:
    return max(_prepared(task), key=lambda p: p.written, default=None)


def _asked(task: TaskConfig, newest: Prepared | None) -> tuple[str, str]:
    """Commit of the revision as the hub says, and where its rows come from."""
    repository, _, revision = str(task.hub_path).partition("@")
    wanted, known = _wanted(task), local_commit("dataset", repository, revision or "main")
    if is_offline("dataset"):
        which = f"revision {revision}" if revision else "it"
        raise wanted.error(absent(wanted, f"{which} of {repository}" if revision else which))
    if known is not None:
        return known, "from the hub"
    with explained(wanted):
        commit = ask_commit("dataset", repository, revision or "main")
    return commit, "from the local cache" if _prepared(task, commit) else "from the hub"


def builder(task: TaskConfig, note: Note = silent) -> Any:
    """The rows of a pinned task, prepared: read where they are, else downloaded.

    Raises:
        ConfigError: they cannot be had.
    """
    from datasets.packaged_modules.cache.cache import Cache

    repository, _, commit = str(task.hub_path).partition("@")
    for found in _prepared(task, commit):
        return Cache(
            repo_id=repository,
            dataset_name=repository.rpartition("/")[2],
            config_name=found.configuration,
            version=found.version,
            hash=found.commit,
        )
    wanted = _wanted(task)
    if is_offline("dataset"):
        raise wanted.error(absent(wanted, f"commit {commit} of {repository}"))
    with explained(wanted), quiet(), quiet("datasets.utils"):
        return patiently(partial(_download, task, note))


def _download(task: TaskConfig, note: Note) -> Any:
    from datasets import config, load_dataset_builder

    repository, _, commit = str(task.hub_path).partition("@")
    made = load_dataset_builder(repository, task.hub_name, revision=commit)
    if made.hash != commit:  # `datasets` falls back to any revision it has prepared
        raise ConnectionError(f"the hub did not give commit {commit}")
    size = made.info.download_size
    much = f", {size / 1e6:.1f} MB" if size else ""
    what = f"{repository} ({made.config.name})"
    note(f"{DOWNLOADING} {what}{much}, to {config.HF_DATASETS_CACHE}")
    made.download_and_prepare()
    return made


def _prepared(task: TaskConfig, commit: str = "*") -> list[Prepared]:
    """What `datasets` has prepared of the task's configuration; of one commit where it is given.

    Without a configuration of that name, or with several where the task names none: nothing.
    """
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    if not commit:
        return []
    *owner, name = str(task.hub_path).partition("@")[0].split("/")
    root = Path(config.HF_DATASETS_CACHE).expanduser()
    root /= "___".join([*owner, camelcase_to_snakecase(name)])
    found = []
    for file in root.glob(f"{task.hub_name or '*'}/*/{commit}/dataset_info.json"):
        *_, configuration, version, of = file.parent.parts
        try:
            said = json.loads(file.read_text(encoding="utf-8"))["config_name"]
        except (OSError, ValueError, LookupError, TypeError):  # left behind half written
            continue
        if said == configuration:  # else it was prepared with options of its own
            found.append(Prepared(configuration, version, of, file.stat().st_mtime))
    return found if len({one.configuration for one in found}) < 2 else []


def _wanted(task: TaskConfig) -> Wanted:
    repository, _, revision = str(task.hub_path).partition("@")
    instead = f"set paths.data=FOLDER with {task.name}/{{{','.join(task.splits.values())}}}.parquet"
    where = "task.hub_path=NAME@REVISION"
    named = f"task={task.name}: {repository}"
    if not task.metrics:  # not a task yet: rows that are being described
        instead, named = (
            "download its files elsewhere and give them: ffalora new task FILE",
            repository,
        )
    return Wanted("dataset", repository, revision or "main", where, instead, task.hub_name, named)


def read(builder: Any, stem: str, origin: str, columns: Names) -> Table:
    """Columns of one split; class labels by name.

    Raises:
        ConfigError: no such split or column.
    """
    if stem not in builder.info.splits:
        raise choose(f"split of {origin}", stem, builder.info.splits)
    return from_arrow(builder.as_dataset(split=stem).data.table, columns, origin)
