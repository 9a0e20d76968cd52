"""Finds the splits among files, folders or a hub's name that a person points at."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, listed, nearest
from ffalora_cli.data.sources.pictures import pictures_by_class
from ffalora_cli.data.sources.readers import READERS

_NAMED = {  # split -> words of a file's name that mean it
    "train": {"train", "training", "trn"},
    "validation": {"validation", "valid", "val", "dev", "eval"},
    "test": {"test", "testing", "tst"},
}
_PIECE = re.compile(r"-\d{5}-of-\d{5}$")
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True)
class Given:
    """Where rows lie, in the words of a task.

    Attributes:
        name: that a task of them could have.
        splits: split -> file, folder or stem of files below ``folder``, or split of the hub.
        folder: None: they are on the hub.
        hub_path: repository, with its revision where one was given.
        pictures: whether they are images in folders, one a class, without a table.
        beside: a file that could be another split and was not given.
    """

    name: str
    splits: dict[str, str]
    folder: Path | None = None
    hub_path: str | None = None
    pictures: bool = False
    beside: str | None = None


def find(words: Sequence[str]) -> Given:
    """What was typed: one file, several, a folder of them, or ``owner/name`` of the hub.

    Raises:
        ConfigError: nothing there, or nothing that can be read; says what could.
    """
    paths = [Path(word).expanduser() for word in words]
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        if len(words) > 1 or not _HUB.fullmatch(words[0]) or missing.suffix in READERS:
            raise _nothing(missing)
        name = words[0].partition("@")[0].split("/")[1]
        return Given(_plain(name), {"train": "train"}, hub_path=words[0])
    if len(paths) > 1:
        return _several(paths)
    path = Path(os.path.abspath(paths[0]))
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Path) -> Given:
    _check_readable(path)
    base, split = _base(path.stem), _split(path.stem)
    others = [o for o in _tables(path.parent) if split and _split(o.stem) not in (None, split)]
    twin = next((other.name for other in others if _base(other.stem) == base), None)
    name = _plain(base or path.parent.name)
    return Given(name, {"train": path.name}, path.parent, beside=twin)


def _several(paths: Sequence[Path]) -> Given:
    """Each file is the split that its name says; of the names' beginning the task is called."""
    for path in paths:
        _check_readable(path)
    whole = {path: Path(os.path.abspath(path)) for path in paths}
    folder = Path(os.path.commonpath([path.parent for path in whole.values()]))
    splits: dict[str, str] = {}
    for path in paths:
        split = _split(path.stem)
        if split is None or split in splits:
            raise ConfigError(
                f"{path}: which split is it? give each file train, validation or test in its name, "
                "one each"
            )
        splits[split] = whole[path].relative_to(folder).as_posix()
    bases = {_base(path.stem) for path in paths}
    name = (bases.pop() if len(bases) == 1 else "") or folder.name
    return _trained(Given(_plain(name), splits, folder), paths[0])


def _folder(path: Path) -> Given:
    """A folder of ``save_to_disk``, of files or their pieces, or of images by class."""
    name = _plain(path.name)
    if (path / "dataset_info.json").is_file() and list(path.glob("data-*.arrow")):
        return Given(name, {"train": path.name}, path.parent)
    tables = [*_tables(path), *_tables(path / "data")]
    stems = {_PIECE.sub("", t.stem) if _PIECE.search(t.stem) else t.name for t in tables}
    stems |= {p.name for p in path.iterdir() if list(p.glob("data-*-of-*.arrow"))}
    short_last = sorted(stems, key=lambda stem: (-len(stem), stem))  # validation, not _matched
    splits = {split: stem for stem in short_last if (split := _split(Path(stem).stem))}
    if "train" not in splits and len(stems) == 1:
        splits = {"train": stems.pop()}
    if splits:
        return _trained(Given(name, splits, path), path)
    if stems:
        raise ConfigError(
            f"{path} has {listed(sorted(stems))}, and none is called train; say which: "
            f"ffalora new task {path / min(stems)}"
        )
    splits = {split: p.name for p in sorted(path.iterdir()) if (split := _split(p.name))}
    if "train" in splits and pictures_by_class(path / splits["train"]):
        return _trained(Given(name, splits, path, pictures=True), path)
    if pictures_by_class(path):
        return Given(name, {"train": path.name}, path.parent, pictures=True)
    raise ConfigError(f"{path} holds no {_readable()}, and no images in folders, one a class")


def _trained(given: Given, path: Path) -> Given:
    """The same, training rows first."""
    if "train" not in given.splits:
        raise ConfigError(
            f"{path}: no split to train on among {listed(given.splits.values())}; call one train"
        )
    return replace(given, splits={s: given.splits[s] for s in _NAMED if s in given.splits})


def _tables(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in found if p.suffix in READERS and not p.name.startswith("data-")]


def _split(stem: str) -> str | None:
    """The split that a name means, by one of its words."""
    words = set(_words(stem))
    return next((split for split, known in _NAMED.items() if words & known), None)


def _base(stem: str) -> str:
    """A name without the word of its split: what the files of one data set share."""
    return "_".join(word for word in _words(stem) if word not in set().union(*_NAMED.values()))


def _words(stem: str) -> list[str]:
    return re.findall(r"[^\W_]+", stem.lower())


def _plain(name: str) -> str:
    """A name as tasks have them: letters, digits and ``_``."""
    ascii_only = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "_", ascii_only).strip("_")[:80] or "mine"


def _readable() -> str:
    return ", ".join(READERS)


def _check_readable(path: Path) -> None:
    if path.suffix in READERS and path.is_file():
        return
    sheets = {".xlsx", ".xls", ".ods"}
    advice = {s: "save it from the spreadsheet as CSV UTF-8" for s in sheets}
    advice |= {".json": "write one object a line and call it .jsonl"}
    remedy = advice.get(path.suffix.lower(), "rename or convert it")
    raise ConfigError(f"{path}: no file of rows ({_readable()}); {remedy}")


def _nothing(path: Path) -> ConfigError:
    folder = Path(os.path.abspath(path)).parent
    here = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    close = nearest(path.name, here)
    hint = f"; did you mean {path.with_name(close)}?" if close else ""
    also = "" if hint else "; give a file, a folder, or OWNER/NAME of the Hugging Face hub"
    return ConfigError(f"{path} is not there{hint}{also}")
