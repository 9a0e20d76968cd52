"""Defines the exceptions that a person is meant to read, and words for their lines."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ffalora_cli.config.secrets import redact

_ENDLESS = 1000  # characters of a line; only an input made to be long gets there
_LISTED = 90  # characters of choices shown, so that an error stays one readable line


class ConfigError(ValueError):
    """Bad usage or configuration: key or file, what was wrong, nearest valid value, one remedy.

    ``cli`` prints its text as one line and exits with code 2; nothing has been written then.
    """


class RunFailed(Exception):
    """A run that cannot go on although its configuration is valid: what happened, and a remedy.

    ``cli`` prints its text as one line and exits with code 1; every finished round is on disk.
    """


def nearest(word: str, choices: Iterable[str], alike: float = 0.5) -> str | None:
    """The closest of ``choices`` to ``word``, or None when none is ``alike`` (difflib's ratio)."""
    options = {str(choice).lower(): str(choice) for choice in choices}
    matches = difflib.get_close_matches(str(word).lower(), options, n=1, cutoff=alike)
    return options[matches[0]] if matches else None


def brief(value: object, limit: int = 40) -> str:
    """``repr`` of a value, without secrets, cut in the middle so that it fits an error line."""
    text = redact(repr(value))  # before it is cut: half a key is a secret, too
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def one_line(text: str) -> str:
    """The text on one line, without secrets or what steers a terminal, cut where it is endless."""
    words = " ".join(redact(text).split())
    shown = "".join(letter if letter.isprintable() else "?" for letter in words)
    return shown if len(shown) <= _ENDLESS else f"{shown[: _ENDLESS // 2]} ... {shown[-200:]}"


def choose(key: str, word: object, choices: Iterable[str]) -> ConfigError:
    """An error for a value outside a closed set, with the nearest member; no key for bare words."""
    options = sorted(str(choice) for choice in choices)
    hint = nearest(str(word), options)
    did_you_mean = f"; did you mean {hint!r}?" if hint else ""
    shown = f"{key}={brief(word)}" if key else brief(word)
    return ConfigError(f"{shown} is not one of {listed(options)}{did_you_mean}")


def listed(options: Iterable[str], most: int = _LISTED) -> str:
    """Options joined by commas, cut after about a line, or ``most`` characters."""
    words = [str(option) for option in options]
    text = ", ".join(words)
    if len(text) <= most:
        return text
    kept = text[:most].rsplit(", ", 1)[0]
    return f"{kept}, ... ({len(words)} in all)"


def counted(number: int, noun: str) -> str:
    """``1 round``, ``1,000 rounds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def naming_job(number: int, typed: Sequence[Sequence[str]]) -> Iterator[None]:
    """An error inside the ``with`` says which job of several it is about.

    Args:
        number: of the job, from 1.
        typed: the settings of every job; those that not all of them have tell them apart.
    """
    try:
        yield
    except ConfigError as error:
        if len(typed) == 1:
            raise
        own = [text for text in typed[number - 1] if any(text not in other for other in typed)]
        told = f": {brief(' '.join(own), 90)[1:-1]}" if own else ""
        raise ConfigError(f"{error} (job {number} of {len(typed)}{told})") from error


def require(key: str, value: object, holds: bool, wanted: str) -> None:
    """Raise ConfigError unless ``holds``."""
    if not holds:
        raise ConfigError(f"{key}={brief(value)} should be {wanted}")
