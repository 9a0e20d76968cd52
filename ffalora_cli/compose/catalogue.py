"""Lists config groups and their options, read from the YAML files as they lie.

An option is a file ``<group>/<name>.yaml`` that comes with ffalora, lies in ``./configs`` beside
one's work, or in the folder of ``paths.configs``. No Hydra here, so that ``ffalora ls`` answers at
once.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, brief, listed, nearest, one_line

PACKAGE = "ffalora_cli.configs"
BESIDE = "configs"  # beside one's work: read without being asked for

_typed: Path | None = None


@cache
def groups() -> tuple[str, ...]:
    """Names of the config groups, sorted."""
    folders = [entry for entry in _shipped().iterdir() if entry.is_dir()]
    return tuple(sorted(folder.name for folder in folders if _names(folder)))


def options(group: str) -> tuple[str, ...]:
    """Names of the options of one group, sorted: those that come with ffalora, and one's own."""
    return _options(group, own_folders())


def look_in(folder: str) -> None:
    """Take options from one more folder, for the rest of this process.

    Raises:
        ConfigError: it is none, or holds no group.
    """
    global _typed
    path = Path(folder).expanduser()
    key = f"paths.configs={brief(folder, 80)[1:-1]}"
    if not path.is_dir():
        raise ConfigError(f"{key} is not a folder; give one with task/NAME.yaml and the like in it")
    if not any((path / group).is_dir() for group in groups()):
        if path.name in groups():
            raise ConfigError(f"{key} is the folder of one group; give {path.parent}, around it")
        raise ConfigError(
            f"{key} has no folder of a group; options lie in {path / 'task'}/NAME.yaml, or in "
            f"another of {listed(groups())}; of rows of your own: ffalora new task my.csv "
            f"--to {shlex.quote(folder)}"
        )
    _typed = path


def forget() -> None:
    """Take options from ``./configs`` alone again."""
    global _typed
    _typed = None


def own_folders() -> tuple[Path, ...]:
    """Folders of one's own options: ``./configs`` and the typed one, where they are there."""
    found = [Path.cwd() / BESIDE, *([] if _typed is None else [_typed.absolute()])]
    there = {path.resolve(): path for path in found if path.is_dir()}
    there.pop(Path(str(_shipped())).resolve(), None)  # in a checkout ./configs is ffalora's own
    return tuple(there.values())


def file(group: str, option: str) -> Traversable:
    """The file of an option.

    Raises:
        ConfigError: two folders have it and it is not the same in both, so that nobody could say
            which was meant.
    """
    rooms = [place.joinpath(group) for place in (_shipped(), *own_folders())]
    found = [room.joinpath(f"{option}.yaml") for room in rooms if option in _names(room)]
    for other in found[1:]:
        if not (found[0].is_file() and other.is_file() and read(other) == read(found[0])):
            first = "ffalora's own" if option in _names(rooms[0]) else label(group, found[0])
            raise ConfigError(
                f"{group}={option}: {label(group, other)} is another one than {first}; rename it"
            )
    return found[0]


def read(path: Traversable) -> bytes:
    """What an option's file holds; a pipe or a device would be read without end.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    if isinstance(path, Path) and path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or device")
    return path.read_bytes()


def label(group: str, path: Traversable) -> str:
    """How a file is named to a person: from the working directory where it lies below it."""
    if path == _shipped().joinpath(group, path.name):
        return f"configs/{group}/{path.name}"
    relative = os.path.relpath(str(path))
    return str(path) if relative.startswith("..") else relative


def own_file(group: str, option: str) -> str | None:
    """The file of an option of one's own, as it is named to a person; None of ffalora's."""
    if option in _names(_shipped().joinpath(group)):
        return None
    return label(group, file(group, option))


def looked_in() -> str:
    """Where options are looked for, as the end of a complaint; empty without own folders."""
    own = own_folders()
    return f"; looked in {_named(own)} and ffalora's own" if own else ""


def own_words() -> list[str]:
    """Lines that tell whose options are there beside ffalora's: what each own folder holds."""
    lines = []
    for folder in own_folders():
        counts = [(group, len(_names(folder / group))) for group in groups()]
        held = [f"{n} {group}{'s' * (n > 1)}" for group, n in counts if n]
        found = [e.name for e in folder.iterdir() if e.is_dir() and e.name.isprintable()]
        for name in sorted(found):
            hint = nearest(name, groups(), alike=0.8)
            if hint and name not in groups():
                held.append(f"{name}/ is not read, {hint}/ would be")
        if held:
            lines.append(f"own options: {_named([folder])} ({', '.join(held)})")
    return lines


def describe(group: str, option: str) -> str:
    """The first comment line of an option's file: its description."""
    try:
        text = read(file(group, option)).decode("utf-8", errors="replace")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    for line in text.splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return one_line(line.lstrip("# "))
    return ""


def _shipped() -> Traversable:
    return resources.files(PACKAGE)


@cache
def _options(group: str, own: tuple[Path, ...]) -> tuple[str, ...]:
    found = (_names(place.joinpath(group)) for place in (_shipped(), *own))
    return tuple(sorted(set().union(*found)))


def _names(folder: Traversable) -> set[str]:
    try:
        files = [entry.name for entry in folder.iterdir()]
    except OSError:  # an own folder need not have every group
        return set()
    yaml = (name for name in files if name.endswith(".yaml") and name.isprintable())
    return {name.removesuffix(".yaml") for name in yaml}


def _named(folders: Sequence[Path]) -> str:
    here = [os.path.relpath(folder) for folder in folders]
    shown = [str(f) if h.startswith("..") else f"./{h}" for f, h in zip(folders, here, strict=True)]
    return " and ".join(shown)
