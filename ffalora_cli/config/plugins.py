"""Finds things by name: a file in a folder of ours or of a person's own, or an entry point.

A person's own folder (``paths.plugins``) has the rooms of ours: ``methods/NAME.py``,
``adapters/NAME.py``, ``tasks/NAME.py``. It is code, so it is read only where a person has typed it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ffalora_cli.config.errors import ConfigError, brief, choose, listed

ROOMS = ("methods", "adapters", "tasks")
_PACKAGE = "ffalora_plugins"  # under which the modules of the typed folder are imported

_folder: Path | None = None


def load_from(folder: str) -> None:
    """Find names in the files of a folder, too, for the rest of this process; nothing is run yet.

    Raises:
        ConfigError: it is none, or holds no room.
    """
    global _folder
    path = Path(folder).expanduser().absolute()
    key = f"paths.plugins={brief(folder, 80)[1:-1]}"
    rooms = [path / room for room in ROOMS]
    if not any(room.is_dir() for room in rooms):
        what = "has none of" if path.is_dir() else "is not a folder; give one with"
        raise ConfigError(f"{key} {what} methods/NAME.py, adapters/NAME.py, tasks/NAME.py")
    if _folder == path:
        return
    forget()
    _folder = path
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(path)]
    sys.modules[_PACKAGE] = package


def forget() -> None:
    """Find names in our folders and entry points alone again."""
    global _folder
    _folder = None
    for name in [n for n in sys.modules if n.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]


@dataclass(frozen=True)
class Folder:
    """A folder that is its own list, open to packages; a name of ours stays ours.

    Attributes:
        key: configuration key whose value is a name.
        package: the folder, as a package; files of these names are looked up, nothing is imported.
        group: of the entry points, each ``name = "package.module:OBJECT"``; empty: none.
        holds: name of the object in every file.
        made_of: class of these objects, in the folder's ``base``.
        interface: files of the folder that are not in the list.
    """

    key: str
    package: str
    group: str
    holds: str
    made_of: str
    interface: frozenset[str] = frozenset({"base", "registry"})

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.own() | self._files() | {point.name for point in self._points()})

    def get(self, name: str) -> Any:
        """The object of this name.

        Raises:
            ConfigError: there is none, two places have one, or one of a person cannot be loaded.
        """
        files, found = self._files(), [point for point in self._points() if point.name == name]
        values = sorted({point.value for point in found})
        if name in files and (name in self.own() or values):
            other = values[0] if values else f"{self.package}.{name}"
            raise ConfigError(f"{self._file(name)}: {other} has this name already; rename the file")
        if name in self.own():
            return getattr(importlib.import_module(f"{self.package}.{name}"), self.holds)
        if name in files:
            return self._load_file(name)
        if not found:
            raise ConfigError(f"{choose(self.key, name, self.names())}{_looked_in()}")
        if len(values) > 1:
            raise ConfigError(
                f"{self.key}={name}: entry points {self.group} have it as {listed(values)}; "
                "uninstall all packages of these but one"
            )
        try:
            return self._checked(found[0].load())
        except Exception as error:  # a package's own code can raise anything
            raise ConfigError(
                f"{self.key}={name}: {found[0].value} of the entry points {self.group} cannot be "
                f"loaded ({type(error).__name__}: {error}); install its package again"
            ) from error

    def code(self, name: str) -> list[Path]:
        """The Python files that a name of a person's own depends on; none for one of ours.

        All of the typed folder, or all of the installed package: what a file imports is its code.
        """
        if name in self.own():
            return []
        if name in self._files():
            assert _folder is not None
            return sorted(_folder.rglob("*.py"))
        for point in self._points():
            if point.name == name:
                return _package_files(point.module.partition(".")[0])
        return []

    def own(self) -> set[str]:
        """Names of the folder's own files."""
        return {*_modules(self.package)} - self.interface

    def _points(self) -> tuple[EntryPoint, ...]:
        return _entry_points(self.group, tuple((place, _changed(place)) for place in sys.path))

    def _file(self, name: str) -> Path:
        assert _folder is not None
        return _folder / self._room() / f"{name}.py"

    def _room(self) -> str:
        return self.package.rpartition(".")[2]

    def _files(self) -> set[str]:
        """Names of files in the typed folder; one that begins with ``_`` is for the others."""
        if _folder is None or self._room() not in ROOMS:
            return set()
        files = (_folder / self._room()).glob("*.py")
        return {file.stem for file in files if not file.stem.startswith("_")}

    def _load_file(self, name: str) -> Any:
        try:
            module = importlib.import_module(f"{_PACKAGE}.{self._room()}.{name}")
            return self._checked(getattr(module, self.holds))
        except Exception as error:  # a person's own code can raise anything
            raise ConfigError(
                f"{self.key}={name}: {self._file(name)} cannot be loaded "
                f"({type(error).__name__}: {error}); it should hold {self.holds} = a "
                f"{self.made_of}()"
            ) from error

    def _checked(self, loaded: Any) -> Any:
        base = getattr(importlib.import_module(f"{self.package}.base"), self.made_of)
        if not isinstance(loaded, base):
            raise TypeError(f"it is no instance of {self.made_of}")
        return loaded


@cache
def _modules(package: str) -> tuple[str, ...]:
    folders = importlib.import_module(package).__path__
    return tuple(module.name for module in pkgutil.iter_modules(folders))


@lru_cache(16)  # every metric of every run is looked up, and all packages are read for it
def _entry_points(group: str, places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Those of the packages in ``places``, each with when it was changed."""
    return tuple(entry_points(group=group))


def _changed(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


def _looked_in() -> str:
    """Where code is looked for, as the end of a complaint."""
    if _folder is None:
        return "; code of your own is found where it is typed: paths.plugins=DIR"
    return f"; looked in {_folder} (paths.plugins), installed packages and ffalora's own"


def _package_files(package: str) -> list[Path]:
    """The Python files of an installed package or module; nothing of it is run."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    folders = spec.submodule_search_locations
    if folders is not None:
        return sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin else []
