"""Where a split's rows come from: a folder, an installed package, the local hub cache, the hub.

Finding a source is cheap (no row is parsed), so a warm start only compares fingerprints.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError, choose, listed, nearest
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.content import content_hash
from ffalora_cli.data import hub, readers
from ffalora_cli.data.readers import Table

READERS = {
    ".parquet": readers.read_parquet,
    ".jsonl": readers.read_jsonl,
    ".csv": readers.read_csv,
}


@dataclass(frozen=True)
class Source:
    """A split that was found, not yet read."""

    origin: str  # for people: the file, package or hub id
    fingerprint: str  # of the stored bytes; equal means nothing has to be read again
    read: Callable[[Sequence[str]], Table]  # wanted columns -> their values


def locate(
    task: TaskConfig, data_dir: str | None, split: str, memory: Path | None = None
) -> Source:
    """Find a split's rows: ``paths.data``, then the package, the local hub cache, the hub.

    Args:
        task: what to look for.
        data_dir: folder with ``<task>/<split>.parquet`` (or jsonl, csv), or None.
        split: a key of ``task.splits``.
        memory: of hashes taken before (``content``).

    Raises:
        ConfigError: nothing holds the split; says what was looked for and what to do.
    """
    here = locate_here(task, data_dir, split, memory)
    if here is not None:
        return here
    stem = task.splits[split]
    return _prepared(task, stem, hub.download(task, stem))


def locate_here(
    task: TaskConfig, data_dir: str | None, split: str, memory: Path | None = None
) -> Source | None:
    """The same of what is on this machine; None when only the hub can have it."""
    if split not in task.splits:
        raise choose(f"split of task {task.name}", split, task.splits)
    stem = task.splits[split]
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        if not root.is_dir():
            raise ConfigError(f"paths.data={data_dir}: no such folder; give one that holds tasks")
        if (root / task.name).is_dir() or task.package is None:
            return _from_folder(task, root, stem, memory)
    if task.package is not None:
        found = _from_package(task, stem, memory)
        if found is not None:
            return found
    if task.hub_path is None:
        raise ConfigError(
            f"task={task.name} has no copy on the Hugging Face hub; set paths.data=FOLDER "
            f"with {task.name}/{stem}.parquet (or .jsonl, .csv) in it"
        )
    builder = hub.cached(task)
    return None if builder is None else _prepared(task, stem, builder)


def _from_folder(task: TaskConfig, root: Path, stem: str, memory: Path | None) -> Source:
    folder = root / task.name
    if not folder.is_dir():
        present = sorted(p.name for p in root.iterdir() if p.is_dir())
        close = nearest(task.name, present)
        found = f"nearest is {close!r}" if close else f"it has {listed(present) or 'no folder'}"
        raise ConfigError(
            f"paths.data={root} has no folder {task.name!r} ({found}); add it, or leave "
            "paths.data=null to use the Hugging Face cache and hub"
        )
    for suffix, reader in READERS.items():
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            digest = content_hash(folder, [path.absolute()], memory)
            return Source(f"{task.name}/{path.name}", digest, partial(reader, path))
    present = sorted(p.name for p in folder.iterdir())
    raise ConfigError(
        f"paths.data={root} has no {task.name}/{stem}{{{','.join(READERS)}}} "
        f"(the folder has {listed(present) or 'no file'}); add the file or choose another split"
    )


def _from_package(task: TaskConfig, stem: str, memory: Path | None) -> Source | None:
    """Text files in an installed package, one sub-folder a class; None when not installed."""
    if stem != "train":
        raise ConfigError(
            f"task.package={task.package} has training rows only, no {stem!r}; "
            f"set paths.data=FOLDER with {task.name}/{stem}.parquet"
        )
    module, _, folder = str(task.package).partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        if task.hub_path is not None:
            return None
        raise ConfigError(
            f"task={task.name} needs the package {module!r}, which is not installed; "
            f"pip install {module}, or set paths.data=FOLDER"
        )
    root = Path(next(iter(spec.submodule_search_locations))) / folder
    files = [path for name in task.classes for path in sorted((root / name).glob("*.txt"))]
    if not files:
        raise ConfigError(f"task.package={task.package}: no text files in {root}; reinstall it")
    digest = content_hash(root, files, memory)
    return Source(f"package:{task.package}", digest, partial(readers.read_texts, task, files))


def _prepared(task: TaskConfig, stem: str, builder: Any) -> Source:
    """A data set of the hub that is on this machine; what it is called names its content."""
    origin = f"hub:{task.hub_path}/{builder.config.name}/{stem}@{builder.hash}"
    return Source(origin, origin, partial(hub.read, builder, stem, origin))
