"""Methods by name: a method is a file in this folder, so the folder is the list."""

from __future__ import annotations

import importlib
import pkgutil

import ffalora_cli.methods as folder
from ffalora_cli.config import rules
from ffalora_cli.config.errors import choose
from ffalora_cli.config.schema import Config
from ffalora_cli.methods.base import Method

_INTERFACE = {"base", "registry"}  # the rest of the folder are methods


def names() -> list[str]:
    """Names of all methods, sorted; reads the folder, imports nothing."""
    found = {module.name for module in pkgutil.iter_modules(folder.__path__)}
    return sorted(found - _INTERFACE)


def get(name: str) -> Method:
    """The method of this name; its declaration is readable without torch.

    Raises:
        ConfigError: no method has this name.
    """
    if name not in names():
        raise choose("method.name", name, names())
    method: Method = importlib.import_module(f"{folder.__name__}.{name}").METHOD
    return method


def check(config: Config) -> None:
    """Refuse a configuration that cannot be, with what its method declares.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    method = get(config.method.name)
    rules.check(
        config,
        units=method.units,
        refusal=method.refusal,
        needs_plain_averaging=method.needs_plain_averaging,
        linear=method.linear,
    )
