"""Keys and tokens of the environment: never in a record, a line on the screen or a traceback.

A secret is the value of an environment variable named like one. What is shorter than eight
characters is left alone: it would be found in every second word.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ffalora_cli.config.errors import ConfigError

_NAMED = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # endings of a variable's name
_SHORTEST = 8


def redact(text: str) -> str:
    """The text with every secret of the environment replaced by the name of its variable."""
    for name, value in _secrets():
        text = text.replace(value, f"<{name}>")
    return text


def refuse_secrets(plain: Any, key: str = "") -> None:
    """Refuse a configuration that holds a secret, in a key or in a value.

    It would end up in ``config.yaml``, the manifest and the tracker.

    Raises:
        ConfigError: names the key and the variable, not the value.
    """
    if isinstance(plain, Mapping):
        for name, value in plain.items():
            refuse_secrets(str(name), key)
            refuse_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(plain, list | tuple):
        for value in plain:
            refuse_secrets(value, key)
    elif isinstance(plain, str):
        for name, secret in _secrets():
            if secret in plain:
                raise ConfigError(
                    f"{key or 'a key'} holds the value of ${name}, and it would end up in the "
                    "records; leave it out: the libraries read the environment themselves"
                )


def _secrets() -> Iterable[tuple[str, str]]:
    """Longest first, so that one that holds another is replaced as a whole."""
    found = [
        (name, value)
        for name, value in os.environ.items()
        if name.upper().endswith(_NAMED) and len(value) >= _SHORTEST
    ]
    return sorted(found, key=lambda item: -len(item[1]))
