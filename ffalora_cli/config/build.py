"""Plain dictionaries to the typed ``Config`` and back, strictly: nothing is guessed or coerced.

Standard library only. What a value may *be* is decided here; what values go *together* in
``rules.py``. Ours because structured configs of OmegaConf coerce ("1" is an int, "yes" a bool) and
their refusals name a class, not the key, the nearest one and a remedy.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ffalora_cli.config.errors import ConfigError, brief, choose, listed, nearest
from ffalora_cli.config.schema import FEW_CLIENTS, Config


def build(plain: Mapping[str, Any]) -> Config:
    """Construct the typed configuration.

    Args:
        plain: nested dictionaries, lists and scalars, every interpolation resolved.

    Returns:
        The frozen ``Config``; lists have become tuples, integers given for a float floats, and
        ``federation.num_clients: null`` a number where it does not depend on the data.

    Raises:
        ConfigError: an unknown, missing or mistyped key.
    """
    config: Config = _section(Config, plain, "")
    if config.federation.num_clients is None and config.partition.name != "natural":
        few = dataclasses.replace(config.federation, num_clients=FEW_CLIENTS)
        config = dataclasses.replace(config, federation=few)
    return config


def to_plain(config: Config) -> dict[str, Any]:
    """The inverse of ``build``: nested dictionaries, lists and scalars, ready for YAML or JSON."""
    plain: dict[str, Any] = _lists(dataclasses.asdict(config))
    return plain


@cache
def known_keys() -> tuple[str, ...]:
    """Every dotted key of the schema, sections included; ``key.*`` marks an open mapping."""
    return tuple(_keys(Config, ""))


@cache
def leaf_keys() -> tuple[str, ...]:
    """The dotted keys that hold one value."""
    keys = known_keys()
    return tuple(k for k in keys if not any(other.startswith(f"{k}.") for other in keys))


def is_known(key: str) -> bool:
    """Whether a dotted key exists in the schema, or lies inside an open mapping of it."""
    keys = known_keys()
    return key in keys or any(k.endswith("*") and key.startswith(k[:-1]) for k in keys)


def may_be_null(key: str) -> bool:
    """Whether a dotted, known key takes null."""
    try:
        check_value(key, None)
    except ConfigError:
        return False
    return True


def check_value(key: str, value: Any) -> None:
    """Check one typed-in value alone, so that the error names the key a person typed.

    Args:
        key: dotted and known.
        value: plain; text with a ``${...}`` reference is left for ``build``, which sees its value.

    Raises:
        ConfigError: a value of the wrong type, or outside a closed set.
    """
    if "${" in str(value):
        return
    expected: Any = Config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        expected = inner_type(expected)
        if dataclasses.is_dataclass(expected):
            hints: dict[str, Any] = _hints(expected)  # type: ignore[arg-type]
            if part not in hints:
                section = ".".join(parts[:depth])
                hint = nearest(part, hints) or next(iter(hints))
                raise ConfigError(f"{key} is not there; did you mean '{section}.{hint}'?")
            expected = hints[part]
        else:  # inside an open mapping
            expected = get_args(expected)[1] if get_origin(expected) is dict else Any
    if not dataclasses.is_dataclass(expected):
        _value(expected, value, key)
    elif not isinstance(value, Mapping):
        raise _section_expected(expected, value, key)


def nearest_key(key: str) -> str | None:
    """The closest existing key: same last part elsewhere first, then similar spelling."""
    leaves = [k for k in known_keys() if not k.endswith("*")]
    last = key.rsplit(".", 1)[-1]
    section = key.split(".", 1)[0]
    same_last = [k for k in leaf_keys() if k.rsplit(".", 1)[-1] == last]
    if same_last:
        return nearest(key, same_last) or same_last[0]
    siblings = [k for k in leaves if k.startswith(f"{section}.")]
    short = {k.rsplit(".", 1)[-1]: k for k in reversed(siblings or leaves)}
    close = nearest(last, short, 0.5 if siblings else 0.6)  # an end of any key is less of a hint
    return short[close] if close else nearest(key, leaves)


def of_earlier(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration in today's words: keys it is older than say what it did."""
    filled = dict(plain)
    for (section, key), value in EARLIER_DEFAULTS.items():
        if isinstance(filled.get(section), Mapping):
            filled[section] = {key: value, **filled[section]}
    model = filled.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("max_grad_norm"), float):
        clips = dict.fromkeys(model["targets"], model["max_grad_norm"])  # one for all patterns
        filled["model"] = {**model, "max_grad_norm": clips}
    for (dotted, word), today in EARLIER_WORDS.items():
        section, key = dotted.split(".")
        if isinstance(filled.get(section), Mapping) and filled[section].get(key) == word:
            filled[section] = {**filled[section], key: today}
    return filled


def earlier_words(plain: Mapping[str, Any]) -> list[str]:
    """One note for each value that has another name today."""
    notes = []
    for (key, word), today in EARLIER_WORDS.items():
        section, _, name = key.partition(".")
        values = plain.get(section)
        if isinstance(values, Mapping) and values.get(name) == word:
            notes.append(f"{key}={word} is read as {key}={today}")
    return notes


def _keys(schema: type, prefix: str) -> Iterator[str]:
    for name, expected in _hints(schema).items():
        key, expected = f"{prefix}{name}", inner_type(expected)
        yield key
        if dataclasses.is_dataclass(expected):
            yield from _keys(expected, f"{key}.")  # type: ignore[arg-type]
        elif get_origin(expected) is dict:
            yield f"{key}.*"


def inner_type(expected: Any, value: Any = None) -> Any:
    """What a value is if it is not null; where it may be a list, a word or else, as it is."""
    if get_origin(expected) not in (Union, types.UnionType):
        return expected
    several = [a for a in get_args(expected) if a is not type(None)]
    kind: Any = tuple if isinstance(value, list | tuple) else Literal
    fits = [a for a in several if get_origin(a) is kind]
    return fits[0] if fits and isinstance(value, list | tuple | str) else several[0]


@cache  # reading them anew for every job takes as long as all the rest
def _hints(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema)


def _section(schema: type, value: Any, key: str) -> Any:
    """One dataclass from one dictionary; ``key`` is its dotted name, empty at the top."""
    if not isinstance(value, Mapping):
        raise _section_expected(schema, value, key)
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in _field_names(schema):
            raise unknown_key(f"{prefix}{name}")
    hints = _hints(schema)
    arguments = {}
    for item in dataclasses.fields(schema):
        if item.name in value:
            arguments[item.name] = _value(hints[item.name], value[item.name], prefix + item.name)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{item.name} is missing; every key needs a value: add it")
    return schema(**arguments)


def unknown_key(key: str) -> ConfigError:
    """The error for a key the schema does not have."""
    hint = nearest_key(key)
    top = listed(_field_names(Config))
    advice = f"did you mean {hint!r}?" if hint else f"top-level keys are {top}"
    return ConfigError(f"{brief(key, 60)[1:-1]} is not a configuration key; {advice}")


def _field_names(schema: type) -> list[str]:
    return [item.name for item in dataclasses.fields(schema)]


def _value(expected: Any, value: Any, key: str) -> Any:
    """Check one value against a type annotation of the schema."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _value(inner_type(expected, value), value, key)
    if origin is Literal:
        value = EARLIER_WORDS.get((key, value), value) if isinstance(value, str) else value
        if not isinstance(value, str) or value not in arguments:
            raise choose(key, value, arguments)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mistyped(key, value, "a list, as in [a, b]")
        return tuple(_value(arguments[0], v, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _mistyped(key, value, "a mapping, as in {name: value}")
        return {str(k): _value(arguments[1], v, f"{key}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(expected):
        return _section(expected, value, key)  # type: ignore[arg-type]
    return _anything(value, key) if expected is Any else _scalar(expected, value, key)


def _scalar(expected: type, value: Any, key: str) -> Any:
    """A str, bool, int or float, exactly; only an integer for a float is widened."""
    if expected is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _mistyped(key, value, "a number that a float can hold") from None
    if type(value) is not expected:
        quoted = (
            f""", as in '{key}="{value}"'""" if expected is str and type(value) in _SPOKEN else ""
        )
        raise _mistyped(key, value, _SPOKEN[expected] + quoted + _WITHOUT.get(key, ""))
    shown = str(value).replace("\n", "") if key.startswith(_OF_LINES) else value
    if isinstance(shown, str) and _UNPRINTABLE.search(shown):
        raise _mistyped(key, value, "text without control characters")
    if isinstance(value, float) and not math.isfinite(value):
        raise _mistyped(key, value, "a finite number" + _WITHOUT.get(key, ""))
    return value


def _anything(value: Any, key: str) -> Any:
    """A value of no stated type: scalars as above, whatever they are nested in."""
    if isinstance(value, Mapping):
        return {str(k): _anything(v, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_anything(item, f"{key}[{i}]") for i, item in enumerate(value)]
    return value if type(value) not in _SPOKEN else _scalar(type(value), value, key)


def _section_expected(schema: Any, value: Any, key: str) -> ConfigError:
    return _mistyped(key, value, f"a section with the keys {listed(_field_names(schema))}")


def _mistyped(key: str, value: Any, wanted: str) -> ConfigError:
    kind = "null" if value is None else type(value).__name__
    got = "null" if value is None else f"{brief(value)} ({kind})"
    got = str(value).lower() if isinstance(value, bool) else got
    return ConfigError(f"{key or 'the configuration'} is {got}; it should be {wanted}")


EARLIER_WORDS = {("privacy.unit", "example"): "row"}
"""Values that were renamed, by key; recorded configurations of older runs have them."""
EARLIER_DEFAULTS = {("partition", "keep_together"): "row"}
"""What runs older than a key did, where its default is something else today."""

_OF_LINES = ("task.prompt", "task.completion", "task.generate.stop")  # texts that may have several
_WITHOUT = dict.fromkeys(
    ("privacy.epsilon_target", "privacy.noise_multiplier"), "; without privacy: privacy=none"
)
"""What is meant by values that are no number of these keys: inf, none."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # no file, record or line holds them
_SPOKEN = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
