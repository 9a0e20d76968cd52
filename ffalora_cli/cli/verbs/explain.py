"""``ffalora explain KEY``: what a key is, which value it has, and who gave it that value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.compose import catalogue
from ffalora_cli.config.build import build, is_known, leaf_keys, to_plain, unknown_key
from ffalora_cli.config.documentation import UNITS, key_type
from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.config.signature import in_identity

if TYPE_CHECKING:
    from ffalora_cli.compose.overrides import Setting

SCHEMA = 1
_WIDE = 39  # characters of a key in a list
_EXAMPLES = """\
examples:
  ffalora explain privacy.noise_multiplier
  ffalora explain federation.local_lr model=roberta_large method=lora
  ffalora explain privacy                        all keys of a group"""


def main(arguments: Sequence[str]) -> int:
    """Explain one key, or list the keys of a group or section."""
    parser = Parser("explain", "Say what a key of the configuration is.", _EXAMPLES)
    parser.add_argument("key", metavar="KEY", help="as in federation.rounds, or a group")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.read(arguments)
    key = options.key
    if "=" in key:
        raise ConfigError(f"explain {brief(key)[1:-1]}: first the key, then overrides")
    if not is_known(key) and key not in catalogue.groups():
        raise unknown_key(key)
    inner = [k for k in leaf_keys() if k.startswith(f"{key}.") and not k.endswith("*")]
    found = explained(inner or [key], options.overrides)
    if options.format == "json":
        print(json.dumps({"schema": SCHEMA, "keys": found}, indent=2))
        return DONE
    print("\n".join(_list(key, found) if inner else _one(found[0])))
    return DONE


def explained(keys: Sequence[str], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Everything about keys under some overrides, as JSON values.

    Raises:
        ConfigError: overrides that do not compose, a key this configuration does not have.
    """
    from ffalora_cli.compose.compose import choices_of, compose_job
    from ffalora_cli.compose.overrides import expand

    for key in keys:
        if key in ("experiment", "debug"):
            raise ConfigError(f"{key} is a group that sets keys of others; see ffalora ls {key}s")
    (job,) = expand(overrides, sweep=False)
    plain, choices = to_plain(build(compose_job(job))), choices_of(job)
    return [_explained(key, job, plain, choices) for key in keys]


def _explained(
    key: str,
    job: Sequence[Setting],
    plain: Mapping[str, Any],
    choices: Mapping[str, str | None],
) -> dict[str, Any]:
    from ffalora_cli.compose.compose import ORIGIN
    from ffalora_cli.compose.origins import documentation, who_set

    kind = key_type(key)
    line = who_set(key, choices)
    typed = next((s.text for s in reversed(job) if _sets(s, key)), None)
    if not typed and key in ORIGIN and line and _value(plain, key) == ORIGIN[key] != line.written:
        typed = next((s.text for s in job if s.key == "task.name"), None)  # unset by it
    return {
        "key": key,
        "value": _value(plain, key),
        "type": kind.words,
        "allowed": list(kind.allowed),
        "unit": UNITS.get(key),
        "doc": documentation(key, choices),
        "set_by": typed and "command line",
        "override": typed,
        "file": line.file if line else "ffalora_cli/config/schema.py",
        "line": line.line if line else None,
        "refers_to": line.written if line and not typed and "${" in line.written else None,
        "identity": in_identity(key),
    }


def _sets(setting: Setting, key: str) -> bool:
    """Whether it sets this key, or a section around it (a group choice is a file's)."""
    return not setting.chooses and (key == setting.key or key.startswith(f"{setting.key}."))


def _value(plain: Mapping[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        if value is None:  # a section that is null
            return None
        if not isinstance(value, Mapping) or part not in value:
            names = ", ".join(value) if isinstance(value, Mapping) else "no keys"
            raise ConfigError(f"{key} is not set in this configuration; there is {names}")
        value = value[part]
    return value


def _one(found: Mapping[str, Any]) -> list[str]:
    lines = labelled("key", found["key"])
    unit = f" {found['unit']}" if found["unit"] and found["value"] is not None else ""
    follows = f", follows {found['refers_to']}" if found["refers_to"] else ""
    lines += labelled("value", f"{_spelled(found['value'])}{unit}{follows}")
    lines += labelled("type", found["type"])
    if found["allowed"]:
        lines += labelled("allowed", " | ".join(found["allowed"]))
    if found["unit"]:
        lines += labelled("unit", found["unit"])
    if found["doc"]:
        lines += labelled("meaning", found["doc"])
    where = found["file"] + (f", line {found['line']}" if found["line"] else "")
    if found["set_by"]:
        lines += labelled("set by", f"command line ({found['override']}), instead of {where}")
    else:
        lines += labelled("set by", where)
    part = (
        "yes: another value is another run" if found["identity"] else "no: same run, same numbers"
    )
    return lines + labelled("identity", part)


def _list(key: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in found:
        mark = "" if row["identity"] else "  (not part of the identity)"
        text = f"{row['key']:<{_WIDE}}{_spelled(row['value'])}"
        lines.append((text if len(text) <= 78 else f"{text[:75]}...") + mark * (len(text) < 51))
    return [*lines, "", f"more about one: ffalora explain {found[0]['key']}"]


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
