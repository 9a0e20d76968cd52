"""The one exception a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Bad usage or configuration: key or file, what was wrong, nearest valid value, one remedy.

    ``cli`` prints its text as one line and exits with code 2; nothing has been written then.
    """


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The closest of ``choices`` to ``word``, or None when nothing is close."""
    options = [str(choice) for choice in choices]
    matches = difflib.get_close_matches(str(word), options, n=1, cutoff=0.5)
    return matches[0] if matches else None


def choose(key: str, word: object, choices: Iterable[str]) -> ConfigError:
    """An error for a value outside a closed set, with the nearest member."""
    options = sorted(str(choice) for choice in choices)
    hint = nearest(str(word), options)
    did_you_mean = f"; did you mean {hint!r}?" if hint else ""
    return ConfigError(f"{key}={word!r} is not one of {', '.join(options)}{did_you_mean}")
