"""``ffalora ls``: what can be chosen, and what was run, from the files; no Hydra, no torch."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.streams import WIDTH
from ffalora_cli.cli.screen.streams import width as screen_width
from ffalora_cli.compose import catalogue
from ffalora_cli.config import plugins
from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL, evaluated

if TYPE_CHECKING:
    from ffalora_cli.records.reading import RunRecords

SCHEMA = 1
_OF_RUNS = """\
examples:
  ffalora ls runs
  ffalora ls runs method=lora,ffa_lora task=sst2
  ffalora ls runs --state stopped --format json"""
_SINGULAR = {
    "tasks": "task",
    "models": "model",
    "methods": "method",
    "partitions": "partition",
    "experiments": "experiment",
    "federations": "federation",
    "privacy": "privacy",
    "engines": "engine",
    "trackings": "tracking",
    "debugs": "debug",
}


def main(arguments: Sequence[str]) -> int:
    """Print one group, the names of all groups, or the runs."""
    if arguments[:1] == ["runs"]:
        return _runs(arguments[1:])
    examples = "examples:\n  ffalora ls methods\n  ffalora ls runs method=lora --state done"
    parser = Parser("ls", "List what can be chosen, or runs.", examples)
    parser.add_argument("what", nargs="?", help=", ".join(["runs", *list(_SINGULAR)[:7]]))
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="options of your own, too")
    parser.add_argument("--plugins", metavar="DIR", help="code of your own, too; it is run")
    options = parser.read(arguments)
    what = options.what
    if options.config_dir:
        catalogue.look_in(options.config_dir)
    if options.plugins:
        plugins.load_from(options.plugins)
    if what is None:
        for group in catalogue.groups():
            print(_entry(group, ", ".join(catalogue.options(group))))
        return DONE
    group = _SINGULAR.get(what, what)
    if group not in catalogue.groups():
        raise choose("", what, ("runs", *_SINGULAR))
    for option in catalogue.options(group):
        own = catalogue.own_file(group, option)
        print(_entry(option, catalogue.describe(group, option) + f" ({own})" * (own is not None)))
        if group == "method":
            print(_declaration(option))
    if group == "method":
        _list_installed()
    print(f"\nchoose one with: ffalora run {group}=NAME")
    return DONE


def _list_installed() -> None:
    """Methods from elsewhere: without a YAML of their own they are chosen by name alone."""
    from ffalora_cli.methods import registry

    for name in sorted({*registry.names()} - {*catalogue.options("method")}):
        title = getattr(registry.get(name), "title", name)
        print(_entry(name, f"{title} (not of ffalora): method.name={name}"))


def _entry(name: str, text: str, width: int = 20) -> str:
    return textwrap.fill(
        text,
        width=min(WIDTH, screen_width()),
        initial_indent=name.ljust(width),
        subsequent_indent=" " * width,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _declaration(name: str) -> str:
    """What a method says about itself, under its name."""
    from ffalora_cli.methods import registry

    if name not in registry.names():  # a YAML of one's own: another setting of a method
        return ""
    method = registry.get(name)
    lines = [
        method.reference,
        method.travels,
        f"up   {method.uplink_formula}",
        f"down {method.downlink_formula}",
        f"privacy units: {', '.join(sorted(method.units))}",
    ]
    return "\n".join(_entry("", line) for line in lines) + "\n"


def _runs(arguments: Sequence[str]) -> int:
    """Print the runs that fulfil every filter."""
    from ffalora_cli.cli.screen import runs_table
    from ffalora_cli.records.state import STATES
    from ffalora_cli.report.runs.settings import setting

    parser = Parser("ls runs", "List runs, newest first.", _OF_RUNS)
    parser.add_argument("filters", nargs="*", metavar="FILTER", help="key=value, or part of a name")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--state", choices=STATES, help="only runs in this state")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.read(arguments)
    found = [(run, _row(run)) for run in _selected(options.runs, options.filters)]
    found = [(run, row) for run, row in found if options.state in (None, row["state"])]
    keys = _differing([run for run, _ in found])
    rows = [row | {"settings": {key: setting(run, key) for key in keys}} for run, row in found]
    rows.sort(key=lambda r: (r["created"], r["run"]), reverse=True)
    if options.format == "json":
        print(json.dumps({"schema": SCHEMA, "runs": rows}, indent=2))
        return DONE
    print("\n".join(runs_table.lines(rows)))
    return DONE


def _differing(runs: Sequence[RunRecords]) -> list[str]:
    """Settings in which runs differ, without those that others bring along; the seed last."""
    from ffalora_cli.report.runs.settings import differing, setting

    if len(runs) < 2:
        return []
    seeds = ["seed"] if len({setting(run, "seed") for run in runs}) > 1 else []
    return [*differing(runs, over="seed")[0], *seeds]


def _selected(root: str, filters: Sequence[str]) -> list[RunRecords]:
    """Finished or not; without filters all of them, and an empty folder is no error."""
    from ffalora_cli.cli.screen.words import left_out
    from ffalora_cli.records.reading import find_runs
    from ffalora_cli.report.runs.selection import select_runs

    if not find_runs(root) and not filters:
        return []
    conditions_only = all("=" in word for word in filters)
    return select_runs(root, [*filters, root] if conditions_only else filters, left_out)


def _row(run: RunRecords) -> dict[str, Any]:
    """One run as JSON values; null where nothing was recorded."""
    from ffalora_cli.records.state import progress_of

    last: dict[str, float] = {}
    for record in run.rounds:
        last.update(record.metrics)
    config, summary = run.config, run.summary or {}
    headline = str(summary.get("headline") or evaluated(_at(config, "task", "metrics")[0]))
    return {
        "run": run.path.name,
        "folder": str(run.path),
        "created": str(run.manifest.get("created") or ""),
        "state": progress_of(run.path).state,
        "failure": run.failure.reason if run.failure else None,
        "round": run.rounds[-1].round if run.rounds else 0,
        "rounds": _at(config, "federation", "rounds"),
        "headline": headline,
        "value": _finite(last.get(headline)),
        "privacy_unit": _at(config, "privacy", "unit"),
        "epsilon_spent": _finite(last.get(EPSILON)),
        "uplink_bytes": last.get(UPLINK_TOTAL),
        "seconds": summary.get("seconds"),
        "signature": run.manifest.get("signature"),
    }


def _finite(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def _at(config: Mapping[str, Any], section: str, key: str) -> Any:
    try:
        return config[section][key]
    except (KeyError, TypeError):
        raise ConfigError(f"config.yaml of a run lacks {section}.{key}; run it again") from None
