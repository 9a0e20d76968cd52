"""Keeps keys and tokens of the environment out of records, screen and tracebacks.

A secret is the value of an environment variable named like one. What is shorter than eight
characters is left alone: it would be found in every second word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

_NAMED = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # endings of a variable's name
_SHORTEST = 8


def redact(text: str) -> str:
    """The text with every secret of the environment replaced by the name of its variable."""
    for name, value in _secrets():
        text = text.replace(value, f"<{name}>")
    return text


def held(plain: Any) -> tuple[str, str] | None:
    """The first key of nested plain values that holds a secret, and the secret's variable."""
    secrets = _secrets()
    return _held(plain, "", secrets) if secrets else None


def _held(plain: Any, key: str, secrets: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    if isinstance(plain, Mapping):
        found = (
            _held(str(name), key, secrets) or _held(child, _below(key, name), secrets)
            for name, child in plain.items()
        )
    elif isinstance(plain, list | tuple):
        found = (_held(child, key, secrets) for child in plain)
    elif isinstance(plain, str):
        found = ((key, name) for name, secret in secrets if secret in plain)
    else:
        return None
    return next(filter(None, found), None)


def _below(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _secrets() -> list[tuple[str, str]]:
    """Longest first, so that one that holds another is replaced as a whole."""
    found = [
        (name, value)
        for name, value in os.environ.items()
        if name.upper().endswith(_NAMED) and len(value) >= _SHORTEST
    ]
    return sorted(found, key=lambda item: -len(item[1]))
