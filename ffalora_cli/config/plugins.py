"""Finds things by name: a file in a folder of ours, or an installed package's entry point."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ffalora_cli.config.errors import ConfigError, choose, listed


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
        return sorted(self.own() | {point.name for point in self._points()})

    def get(self, name: str) -> Any:
        """The object of this name.

        Raises:
            ConfigError: there is none, two packages have one, or a package's cannot be loaded.
        """
        if name in self.own():
            return getattr(importlib.import_module(f"{self.package}.{name}"), self.holds)
        found = [point for point in self._points() if point.name == name]
        if not found:
            raise choose(self.key, name, self.names())
        if len(values := sorted({point.value for point in found})) > 1:
            raise ConfigError(
                f"{self.key}={name}: entry points {self.group} have it as {listed(values)}; "
                "uninstall all packages of these but one"
            )
        base = getattr(importlib.import_module(f"{self.package}.base"), self.made_of)
        try:
            loaded = found[0].load()
            if not isinstance(loaded, base):
                raise TypeError(f"it is no instance of {self.made_of}")
            return loaded
        except Exception as error:  # a package's own code can raise anything
            raise ConfigError(
                f"{self.key}={name}: {found[0].value} of the entry points {self.group} cannot be "
                f"loaded ({type(error).__name__}: {error}); install its package again"
            ) from error

    def own(self) -> set[str]:
        """Names of the folder's own files."""
        room = importlib.import_module(self.package)
        found = {module.name for module in pkgutil.iter_modules(room.__path__)}
        return found - self.interface

    def _points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))
