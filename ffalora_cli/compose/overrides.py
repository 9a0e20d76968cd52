"""Overrides checked and expanded one by one, before Hydra composes anything.

Hydra reports the first thing its machinery trips over; a person needs the key they mistyped and
its nearest spelling. So keys and options are compared with the schema and the files here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, RangeSweep, Transformer
from hydra.errors import HydraException

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.grids import with_axes
from ffalora_cli.compose.hydra_keys import not_used
from ffalora_cli.compose.yaml_files import TYPED, check_option
from ffalora_cli.config import plugins
from ffalora_cli.config.build import is_known, leaf_keys, may_be_null, unknown_key
from ffalora_cli.config.errors import ConfigError, brief, choose, listed, nearest
from ffalora_cli.config.own_rows import KEYS, refuse_rows

_OPTIONAL = ("experiment", "debug")  # groups that may be null
_OFF = ("privacy", "tracking")  # groups with an option that is none
_MAX_JOBS = 10_000  # a longer sweep is a slip of the keyboard
_WORD = re.compile(r"~?[\w./:-]+")
_PUNCTUATION = re.compile(r"[^\w.-]")
_LITERAL = re.compile(r"null|true|false|[+-]?(nan|inf|[\d_.]+(e[+-]?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, both included, that a search may take."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Axis = Interval | tuple[str, ...]  # a tuple: one of these values


@dataclass(frozen=True, eq=False)
class Setting:
    """One key of one job and its value, or a group and its option: parsed and checked."""

    key: str  # dotted, or the name of a group
    value: Any  # plain; of a group, the text of its option
    text: str  # ``key=value``, for records and for another process to read

    @property
    def chooses(self) -> bool:
        """Whether it is the option of a group."""
        return self.key in catalogue.groups()


def expand(overrides: Sequence[str], sweep: bool) -> list[list[Setting]]:
    """Check overrides and expand sweeps into jobs.

    Args:
        overrides: as typed; the last of two for the same key counts.
        sweep: whether sweeps are allowed (``-m``).

    Returns:
        Settings of each job; the last sweep varies fastest, as in Hydra's own sweeper.

    Raises:
        ConfigError: an override that cannot be read, or names nothing that exists.
    """
    choices: dict[str, list[Setting]] = {}
    for text, override in _read(overrides, sweep):
        if override.is_sweep_override() and not sweep:
            raise ConfigError(f"{brief(text, 80)[1:-1]} gives several values; add -m to sweep them")
        choices[override.key_or_group] = _settings(override)
    total = 1
    for values in choices.values():
        total *= len(values)
    if total > _MAX_JOBS:
        raise ConfigError(f"-m: the sweep has {total} jobs, more than {_MAX_JOBS}; sweep less")
    return [list(job) for job in itertools.product(*choices.values())]


def split_space(overrides: Sequence[str]) -> tuple[list[str], dict[str, Axis]]:
    """Overrides with one value, as texts, and what a search may vary.

    ``interval(a, b)`` is a range of numbers (``int(...)`` of whole ones, ``tag(log, ...)`` on a
    logarithmic scale), as in Hydra's grammar; everything with a list of values is a choice.

    Raises:
        ConfigError: as ``expand``, and for an interval without extent.
    """
    fixed: dict[str, str] = {}
    space: dict[str, Axis] = {}
    for _, override in _read(overrides, sweep=True):
        key, value = override.key_or_group, override.value()
        fixed.pop(key, None)
        space.pop(key, None)
        if override.is_interval_sweep():
            space[key] = _interval(key, value)
        elif len(found := _settings(override)) > 1:
            space[key] = tuple(setting.text.partition("=")[2] for setting in found)
        else:
            fixed[key] = found[0].text
    return list(fixed.values()), space


def _read(overrides: Sequence[str], sweep: bool) -> Iterator[tuple[str, Override]]:
    """Every override, the grid of an experiment first, as text and parsed; its key exists."""
    _look(overrides)
    for text in with_axes(overrides, sweep):
        override = _parse(text)
        _check_key(override, text)
        # A job of a sweep is a command of its own, to which a key of the grid would be typed.
        if override.key_or_group in TYPED and text not in overrides:
            raise ConfigError(
                f"hydra.sweeper.params: {override.key_or_group} is typed, not set by a file; "
                "remove it there"
            )
        yield text, override


def _look(overrides: Sequence[str]) -> None:
    """Take options from the typed folder and code from the typed one, before names are looked up.

    What a file says of these is not followed: a folder of configs that somebody downloaded would
    run code.
    """
    for key, take in (("paths.configs", catalogue.look_in), ("paths.plugins", plugins.load_from)):
        typed = [text for text in overrides if text.lstrip("+").partition("=")[0] == key]
        for override in map(_parse, typed[-1:]):
            value = override.value()
            if override.is_sweep_override() or not isinstance(value, str | None):
                raise ConfigError(f"{key} is one folder, as in {key}=DIR")
            if value is not None:
                take(value)


def _interval(key: str, value: Any) -> Interval:
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    log = "log" in value.tags
    if value.start >= value.end or (log and value.start <= 0):
        above = "two ends above zero, the" if log else "the"
        raise ConfigError(
            f"{key}=interval({value.start},{value.end}) should have {above} lower one first"
        )
    return Interval(value.start, value.end, log, whole)


def _parse(text: str) -> Override:
    key, equals, value = text.partition("=")
    if not text.startswith("~") and not equals:
        refuse_rows(text, text)
        hint = nearest(key, (*catalogue.groups(), *leaf_keys()))
        example = f"{hint or 'key'}=VALUE"
        raise ConfigError(f"{brief(text, 60)} is not an override; write {example}")
    # Hydra's unquoted words are ASCII, no ``~/runs`` and no option 1e3: such a word is quoted.
    option = key in catalogue.groups()
    words = value.split(",") if option else [value]
    if all(map(_WORD.fullmatch, words)) and (option or value[0] == "~" or not value.isascii()):
        value = ",".join(word if word == "null" else f"'{word}'" for word in words)
    try:
        return OverridesParser.create().parse_override(f"{key}={value}" if equals else text)
    except ValueError as error:
        raise ConfigError(f"{brief(text, 80)[1:-1]}: no number has so many digits") from error
    except (HydraException, RecursionError) as error:
        known = key.lstrip("+~")
        if not _PUNCTUATION.search(known):  # the key is what cannot be read, if it is none
            _check_known(known)
        known = brief(known, 30)[1:-1] or "key"
        raise ConfigError(
            f"{brief(text, 80)} cannot be read; quote the value inside the shell's quotes, "
            f"as in {known}=\"'a, b'\""
        ) from error


def _check_key(override: Override, text: str) -> None:
    """Refuse keys and groups that do not exist, and forms that cannot mean anything here."""
    key = override.key_or_group
    if "_target_" in key:
        raise ConfigError(f"{brief(key, 60)[1:-1]}: configs never import code; remove _target_")
    if override.is_hydra_override() or key == "hydra":
        raise not_used(key)
    if override.is_delete():
        _check_known(key)
        raise ConfigError(
            f"{brief(text, 60)[1:-1]}: nothing is removed; set it instead: {key}={_nothing(key)}"
        )
    if override.package is not None:
        raise ConfigError(f"{brief(text, 60)[1:-1]}: a group cannot be moved; write {key}=NAME")
    if key.rpartition(".")[2] in KEYS and not is_known(key):
        refuse_rows(text, text.partition("=")[2])
    _check_known(key)
    if key in catalogue.groups():
        return
    inner = [leaf for leaf in leaf_keys() if leaf.startswith(f"{key}.") and leaf[-1] != "*"]
    if not inner or override.is_sweep_override() or isinstance(override.value(), dict):
        return
    if not (override.value() is None and may_be_null(key)):
        raise ConfigError(f"{key} is a section; set one of {listed(inner)}")


def _nothing(key: str) -> str:
    """The value of a group or key that says that there is none of it."""
    if key in _OFF:
        return "none"
    return "null" if key in _OPTIONAL or (is_known(key) and may_be_null(key)) else "VALUE"


def _check_known(key: str) -> None:
    """Refuse what is neither a group nor a key, and name the nearest."""
    if key in catalogue.groups() or is_known(key):
        return
    hint = nearest(key, catalogue.groups()) if "." not in key else None
    if hint:
        names = listed(catalogue.options(hint))
        raise ConfigError(
            f"{brief(key, 60)[1:-1]} is not a group or key; did you mean {hint!r} ({names})?"
        )
    raise unknown_key(key)


def _settings(override: Override) -> list[Setting]:
    """The settings one override stands for; more than one for a sweep."""
    key = override.key_or_group
    if not override.is_sweep_override():
        return [_setting(key, override.get_value_element_as_str(), override.value())]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{key}: an interval has no list of values; use range or choice, "
            "or search it: hydra/sweeper=optuna"
        )
    if not _is_glob(override):
        return _swept(override)
    if key not in catalogue.groups():
        raise ConfigError(f"{key}: glob picks options of a group; use choice(a, b) for a key")
    names = [n for n in catalogue.options(key) if n in override.value().filter([n])]  # type: ignore[union-attr]
    if not names:
        raise ConfigError(f"{key}: the glob matches none of {listed(catalogue.options(key))}")
    return [_setting(key, name, name) for name in names]


def _setting(key: str, text: str, value: Any) -> Setting:
    if key in catalogue.groups():
        text = value = value if isinstance(value, str) else text  # 'lora' is lora
        _check_option(key, text)
    elif isinstance(value, str) and _LITERAL.fullmatch(text):  # str(1): read again, a number
        text = f"'{text}'"
    return Setting(key, value, f"{key}={text}")


def _swept(override: Override) -> list[Setting]:
    """The values of a list or range; one that has too many is not written out first."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        if value.step == 0:
            raise ConfigError(f"{key}: a range in steps of 0 never ends; use range(start, stop)")
        if abs(value.stop - value.start) / abs(value.step) > _MAX_JOBS:
            raise ConfigError(f"{key}: the range has more than {_MAX_JOBS} values; sweep less")
    try:
        elements = [(Transformer.str(each), _plain(each)) for each in override.sweep_iterator()]
    except (HydraException, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{key}: this sweep has no values; write {key}=a,b") from error
    return [_setting(key, text, each) for text, each in elements]


def _plain(element: Any) -> Any:
    """One element of a sweep without Hydra's quotes."""
    if isinstance(element, list):
        return [_plain(each) for each in element]
    if isinstance(element, dict):
        return {_plain(key): _plain(each) for key, each in element.items()}
    return element.text if isinstance(element, QuotedString) else element


def _is_glob(override: Override) -> bool:
    return type(override.value()).__name__ == "Glob"


def _check_option(group: str, value: str) -> None:
    options = catalogue.options(group)
    if value in options:
        check_option(group, value)
        return
    if value == "null" and group in _OPTIONAL:
        return
    if value == "null":
        raise ConfigError(f"{group}=null: a run needs one; {group}=NAME with {listed(options)}")
    also = ""
    if group == "task":
        refuse_rows(f"task={value}", value)
        also = "" if nearest(value, options) else "; rows of your own: ffalora new task FILE"
    if value.startswith(("{", "[")):
        raise ConfigError(f"{group} takes one option: {group}=NAME with {listed(options)}")
    raise ConfigError(f"{choose(group, value, options)}{also}{catalogue.looked_in()}")
