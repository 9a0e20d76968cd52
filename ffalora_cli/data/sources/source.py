"""Locates a split's rows: a folder, an installed package, the local hub cache, the hub.

Finding a source is cheap (no row is parsed), so a warm start only compares fingerprints.
"""

from __future__ import annotations

import glob
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, choose, listed, nearest
from ffalora_cli.config.packages import absent
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.content import content_hash
from ffalora_cli.data.sources import hub, readers
from ffalora_cli.data.sources.pictures import pictures_by_class
from ffalora_cli.data.sources.readers import Names, Table
from ffalora_cli.hub.access import Note, silent

_PIECE = re.compile(r"-(\d{5})-of-(\d{5})\.")  # how the datasets library numbers them


@dataclass(frozen=True)
class Source:
    """A split that was found, not yet read."""

    origin: str  # for people: the file, package or hub id
    fingerprint: str  # of the stored bytes; equal means nothing has to be read again
    read: Callable[[Names], Table]  # columns -> their values
    folder: Path = Path()  # that relative paths in its rows start from


def locate(
    task: TaskConfig, data_dir: str | None, split: str, memory: Path | None = None
) -> Source:
    """Find a split's rows: ``paths.data``, the task's folder, the package, the hub and its cache.

    Args:
        task: what to look for.
        data_dir: folder with ``<task>/<split>.parquet`` (or jsonl, csv, tsv), or None.
        split: a key of ``task.splits``.
        memory: of hashes taken before (``content``).

    Raises:
        ConfigError: nothing holds the split; says what was looked for and what to do.
    """
    here = locate_here(task, data_dir, split, memory)
    return _of_hub(hub.pin(task), task.splits[split]) if here is None else here


def locate_here(
    task: TaskConfig, data_dir: str | None, split: str, memory: Path | None = None
) -> Source | None:
    """The same of what is on this machine; None when the hub would have to be asked."""
    if split not in task.splits:
        raise choose(f"split of task {task.name}", split, task.splits)
    stem = task.splits[split]
    folder = _folder(task, data_dir)
    if folder is not None:
        return _from_folder(task, folder, stem, memory)
    if task.package is not None:
        found = _from_package(task, stem, memory)
        if found is not None:
            return found
    if task.hub_path is None:
        raise ConfigError(
            f"task={task.name} has no copy on the Hugging Face hub; set paths.data=FOLDER "
            f"with {task.name}/{stem}.parquet (or .jsonl, .csv) in it"
        )
    pinned = hub.pinned_here(task)
    return None if pinned is None else _of_hub(pinned, stem)


def pin(task: TaskConfig, data_dir: str | None, note: Note = silent) -> TaskConfig:
    """The task with the commit of its hub repository, if its rows come from there.

    They are downloaded here where they are missing, so that ``note`` can say so.

    Raises:
        ConfigError: they cannot be had.
    """
    if _folder(task, data_dir) is not None or task.hub_path is None:
        return task
    if task.package is not None and _package_root(task) is not None:
        return task
    pinned = hub.pin(task, note)
    hub.builder(pinned, note)
    return pinned


def _folder(task: TaskConfig, data_dir: str | None) -> Path | None:
    """Folder of the splits' files: the task's in ``paths.data``, else ``task.folder``."""
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        if not root.is_dir():
            raise ConfigError(f"paths.data={data_dir}: no such folder; give one that holds tasks")
        if (root / task.name).is_dir():
            return root / task.name
        if task.package is None and task.folder is None:
            raise _no_task(task, root)
    if task.folder is None:
        return None
    own = Path(task.folder).expanduser()
    if not own.is_dir():
        raise ConfigError(
            f"task.folder={task.folder}: no such folder; give the one with "
            f"{listed(task.splits.values())}"
        )
    return own


def _no_task(task: TaskConfig, root: Path) -> ConfigError:
    present = sorted(p.name for p in root.iterdir() if p.is_dir())
    close = nearest(task.name, present)
    found = f"nearest is {close!r}" if close else f"it has {listed(present) or 'no folder'}"
    return ConfigError(
        f"paths.data={root} has no folder {task.name!r} ({found}); add it, or leave "
        "paths.data=null to use the Hugging Face cache and hub"
    )


def _from_folder(task: TaskConfig, folder: Path, stem: str, memory: Path | None) -> Source:
    files = _files(folder, stem)
    pictures = pictures_by_class(folder / stem) if task.image_column and not files else []
    if pictures:
        digest = content_hash(folder.absolute(), [file.absolute() for file in pictures], memory)
        return Source(f"{task.name}/{stem}", digest, partial(readers.read_pictures, task, pictures))
    if not files:
        present = sorted(p.name for p in folder.iterdir())
        elsewhere = ", or say where it lies: task.folder=DIR" if task.folder is not None else ""
        wanted = stem if _is_file(stem) else f"{stem}{{{','.join(readers.READERS)}}}"
        raise ConfigError(
            f"{folder / wanted} is not there (the folder has {listed(present) or 'no file'}); add "
            f"it, or choose another split{elsewhere}"
        )
    origin = f"{task.name}/{files[0].relative_to(folder)}"
    digest = content_hash(folder.absolute(), [file.absolute() for file in files], memory)
    return Source(origin, digest, partial(readers.read_files, files), files[0].parent)


def _is_file(stem: str) -> bool:
    """Whether a split names its one file, ending and all."""
    return Path(stem).suffix in readers.READERS


def _files(folder: Path, stem: str) -> list[Path]:
    """The file ``stem``, else the pieces of it that the hub or ``save_to_disk`` make; [] if none.

    Raises:
        ConfigError: a piece is missing, or there are pieces of two data sets.
    """
    if _is_file(stem):
        return [folder / stem] if (folder / stem).is_file() else []
    for suffix in readers.READERS:
        if (folder / f"{stem}{suffix}").is_file():
            return [folder / f"{stem}{suffix}"]
    name = glob.escape(stem)
    for pattern in (f"{name}-*-of-*", f"data/{name}-*-of-*", f"{name}/data-*-of-*.arrow"):
        pieces = {
            path: (int(numbers[1]), int(numbers[2]))
            for path in sorted(folder.glob(pattern))
            if path.suffix in readers.READERS and (numbers := _PIECE.search(path.name))
        }
        if not pieces:
            continue
        total = max(of for _, of in pieces.values())
        if sorted(pieces.values()) != [(number, total) for number in range(total)]:
            raise ConfigError(
                f"{folder} has {len(pieces)} pieces of {stem!r} ({listed(p.name for p in pieces)}) "
                f"and wants one each of {total}; copy them again"
            )
        return list(pieces)
    return []


def _from_package(task: TaskConfig, stem: str, memory: Path | None) -> Source | None:
    """Text files in an installed package, one sub-folder a class; None when not installed."""
    if stem != "train":
        raise ConfigError(
            f"task.package={task.package} has training rows only, no {stem!r}; "
            f"set paths.data=FOLDER with {task.name}/{stem}.parquet"
        )
    root = _package_root(task)
    if root is None:
        if task.hub_path is not None:
            return None
        module = str(task.package).partition("/")[0]
        raise ConfigError(f"task={task.name}: {absent(module)}, or set paths.data=FOLDER")
    files = [path for name in task.classes for path in sorted((root / name).glob("*.txt"))]
    if not files:
        raise ConfigError(f"task.package={task.package}: no text files in {root}; reinstall it")
    digest = content_hash(root, files, memory)
    return Source(f"package:{task.package}", digest, partial(readers.read_texts, task, files))


def _package_root(task: TaskConfig) -> Path | None:
    """Folder of the package's rows; None when it is not installed."""
    module, _, folder = str(task.package).partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / folder


def _of_hub(pinned: TaskConfig, stem: str) -> Source:
    """A split of a hub's repository at one commit, which names its content."""
    builder = hub.builder(pinned)
    repository, _, commit = str(pinned.hub_path).partition("@")
    origin = f"hub:{repository}/{builder.config.name}/{stem}@{commit}"
    return Source(origin, origin, partial(hub.read, builder, stem, origin))
