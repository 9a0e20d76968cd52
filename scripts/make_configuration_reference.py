"""Write ``docs/configuration.md`` from the schema and the comments of the YAML files.

Run it after changing a key, an option or a comment; a test compares the file with its output.
"""

from __future__ import annotations

from pathlib import Path

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.compose import choices_of, compose_job
from ffalora_cli.compose.origins import documentation, who_set
from ffalora_cli.config.build import build, leaf_keys, to_plain
from ffalora_cli.config.documentation import UNITS, key_type
from ffalora_cli.config.signature import in_identity

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
_DEFAULT = 60  # characters of a default that is written out
_TOP = "The run itself"

_HEAD = """\
# Configuration reference

Written by `scripts/make_configuration_reference.py` from the schema
(`ffalora_cli/config/schema.py`) and the comments in `configs/`; do not edit it here.

Every key is set on a command line as `key=value`, every group chosen as `group=name`; `-m` sweeps
both. Later wins: the options of the groups, `configs/config.yaml`, `experiment`, `debug`, the
command line. `ffalora explain KEY` says the same about one key, with the value it has under given
overrides and the file and line that set it; `ffalora validate` checks a whole command line.

Defaults are those of `ffalora run` alone; `${...}` follows another key. Keys marked `*` are not
part of a run's identity: they cannot change its results (`ffalora_cli/config/signature.py`).
"""


def reference() -> str:
    """The whole page as Markdown."""
    plain, choices = to_plain(build(compose_job([]))), choices_of([])
    keys = [key.removesuffix(".*") for key in leaf_keys()]
    parts = [_HEAD]
    sections = dict.fromkeys(key.split(".")[0] if "." in key else "" for key in keys)
    for section in sections:
        own = [k for k in keys if (k.split(".")[0] if "." in k else "") == section]
        parts.append(f"## {f'`{section}`' if section else _TOP}\n")
        if section in catalogue.groups():
            parts.append(_options(section, choices[section]))
        parts.append("| key | default | values | meaning |\n| --- | --- | --- | --- |")
        parts += [_row(key, plain, choices) for key in own]
        parts.append("")
    for group in ("experiment", "debug"):
        parts += [f"## `{group}`\n", _options(group, None)]
    return "\n".join(parts).rstrip() + "\n"


def _options(group: str, default: str | None) -> str:
    lines = []
    for option in catalogue.options(group):
        mark = " (default)" if option == default else ""
        lines.append(f"- `{group}={option}`{mark}: {catalogue.describe(group, option)}")
    return "\n".join(lines) + "\n"


def _row(key: str, plain: dict, choices: dict[str, str | None]) -> str:
    kind, place = key_type(key), who_set(key, choices)
    value: object = plain
    for part in key.split("."):
        value = value and value[part]  # type: ignore[index]
    written = place.written if place and place.written else _spelled(value)
    default = written if len(written) <= _DEFAULT else "see the file"
    values = f"`{'`, `'.join(kind.allowed)}`" if kind.allowed else kind.words
    unit = f" ({UNITS[key]})" if key in UNITS else ""
    meaning = documentation(key, choices)
    star = "" if in_identity(key) else " *"
    return f"| `{key}`{star} | `{default}` | {values}{unit} | {_cell(meaning)} |"


def _spelled(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]  # type: ignore[index]
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return "{}" if not value else "{...}"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
