"""``ffalora show``: what a run did, read from its records alone."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.cli.arguments import Parser, file_to_write
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen import table, words
from ffalora_cli.cli.screen.privacy_words import print_statement
from ffalora_cli.cli.screen.streams import width
from ffalora_cli.config.build import build
from ffalora_cli.config.errors import ConfigError, brief, choose
from ffalora_cli.config.schema import Config
from ffalora_cli.metric_keys import evaluated
from ffalora_cli.tasks.generated_answers import COMPARISONS

if TYPE_CHECKING:
    from ffalora_cli.records.reading import RunRecords

_EXAMPLES = """examples:
  ffalora show 3f2a --clients
  ffalora show 3f2a --labels --format latex
  ffalora show 3f2a --settings -o settings.tex"""
_FORMATS = ("table", "md", "latex", "csv")
_SUFFIXES = {".tex": "latex", ".csv": "csv", ".md": "md"}
_ANSWERS = 5
_ROUNDS = 12  # evaluated rounds shown; all are in rounds.jsonl
_VERSIONS = ("torch", "transformers", "opacus", "dp-accounting")


def main(arguments: Sequence[str]) -> int:
    """Print a run for a person, or as JSON."""
    from ffalora_cli.records.reading import find_run, read_run

    parser = Parser("show", "Print what a run did, and how its numbers came about.", _EXAMPLES)
    parser.add_argument("run", help="a folder, or the beginning of its name or signature")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="everything recorded, as JSON")
    parser.add_argument("--privacy", action="store_true", help="the privacy statement alone")
    parser.add_argument("--answers", action="store_true", help="five generated answers")
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument("--clients", action="store_true", help="a table of its clients' scores")
    tables.add_argument("--labels", action="store_true", help="a table of clients and labels")
    tables.add_argument("--settings", action="store_true", help="a table of hyper-parameters")
    parser.add_argument("--all", action="store_true", help="with --settings: every key")
    parser.add_argument("--format", default=None, help="of a table: table, md, latex or csv")
    parser.add_argument("-o", "--output", help="file of a table: .tex, .csv or .md")
    options = parser.read(arguments)
    table_asked = options.clients or options.labels or options.settings
    form = _form(options, table_asked)
    records = read_run(find_run(options.runs, options.run, words.aside))
    try:
        if table_asked:
            _table(records, options, form)
        elif options.answers:
            _print(_answers(records))
        else:
            _show(records, options.privacy, options.json)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{records.path}: its records do not say what records say "
            f"({type(error).__name__}: {brief(str(error))}); restore them or run it again"
        ) from error
    return DONE


def _form(options: argparse.Namespace, asked: bool) -> str:
    """The format of a table: as typed, or as the file's name says."""
    for option in ("--format", "--output", "--all"):
        if getattr(options, option[2:]) and not (options.settings if option == "--all" else asked):
            wanted = "--settings" if option == "--all" else "--clients, --labels or --settings"
            raise ConfigError(f"{option} is about a table; add {wanted}")
    if options.output and not options.format:
        suffix = os.path.splitext(options.output)[1]
        if suffix not in _SUFFIXES:
            raise choose("--output", options.output, _SUFFIXES)
        return _SUFFIXES[suffix]
    form = options.format or "table"
    known = _FORMATS[1:] if options.output else _FORMATS
    if form not in known:
        raise choose("--format", form, known)
    return form


def _table(records: RunRecords, options: argparse.Namespace, form: str) -> None:
    """Print one of the run's tables, or write it to a file."""
    from ffalora_cli.cli.screen.grid import print_grid, written
    from ffalora_cli.records.files import write_whole
    from ffalora_cli.report.names import PAPER, Names
    from ffalora_cli.report.table import of_run

    names = Names(raw=True) if form == "csv" else PAPER  # for programs: keys, and shares of one
    if options.settings:
        grid = of_run.settings(records, names, options.all)
    else:
        grid = (of_run.clients if options.clients else of_run.labels)(records, names)
    if options.output is None:
        print_grid(grid, form)
        return
    file = file_to_write("--output", options.output)
    write_whole(file, (written(grid, form) + "\n").encode())
    words.aside(f"written: {file}")


def _show(records: RunRecords, privacy: bool, as_json: bool) -> None:
    if privacy:
        print_statement(records, as_json)
    elif as_json:
        print(json.dumps(_plain(records), indent=2))
    else:
        _print(_lines(records))


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print("".join(letter if letter.isprintable() else "?" for letter in line))


def _answers(records: RunRecords) -> list[str]:
    """Some of the last generated answers beside their references, evenly chosen."""
    from ffalora_cli.records.reading import read_generated

    found = read_generated(records.path)
    chosen = found[:: max(1, len(found) // _ANSWERS)][:_ANSWERS]
    lines = words.labelled("round", f"{chosen[0]['round']}, {len(chosen)} of {len(found)} answers")
    for one in chosen:
        lines.append("")
        for part in ("prompt", "answer", "reference"):
            text = str(one[part]).strip()
            for number, line in enumerate(text.splitlines() or [""]):
                lines += words.labelled("" if number else part, line)
        scores = [f"{name} {one[name]['score']:.3g}" for name in COMPARISONS if name in one]
        lines += words.labelled("scored", ", ".join(scores))
    return lines


def _lines(records: RunRecords) -> list[str]:
    config = build(records.config)
    what = f"{config.method.name} on {config.task.name} with {config.model.name}"
    lines = words.labelled("run", f"{what}, {words.clients(config)}")
    lines += words.labelled("protocol", words.protocol(config))
    lines += ["", *_rounds(records, config), ""]
    summary = dict(records.summary or _unfinished(records))
    summary |= {"run_dir": str(records.path), "privacy": records.privacy}
    lines += words.closing(summary, config.task.metrics)
    for remark in summary.get("notes") or ():
        lines += words.labelled("note", str(remark))
    if records.summary is None:
        go_on = f"go on with: ffalora resume {shlex.quote(str(records.path))}"
        what = f"failed: {records.failure.reason}" if records.failure else "did not finish"
        note = f"this run {what}; these are its last records; {go_on}"
        lines += words.labelled("note", note)
    return lines + _provenance(records.manifest)


def _rounds(records: RunRecords, config: Config) -> list[str]:
    """The evaluated rounds as a table, thinned evenly to a screenful; the last is always there."""
    key = evaluated(config.task.metrics[0])
    scored = [record for record in records.rounds if key in record.metrics]
    step = max(1, math.ceil(len(scored) / _ROUNDS))
    kept = scored[::-1][::step][::-1]
    lines = [table.Line(r.round, config.federation.rounds, r.metrics) for r in kept]
    filled = table.filled(table.columns(config, live=False), lines)
    columns = table.fitting(filled, width())
    return [table.heading(columns), *(table.row(columns, line) for line in lines)]


def _unfinished(records: RunRecords) -> dict[str, Any]:
    """What a summary would say about the rounds that were recorded."""
    final: dict[str, float] = {}
    for record in records.rounds:
        final.update(record.metrics)
    return {"final": final, "rounds": records.rounds[-1].round if records.rounds else 0}


def _provenance(manifest: Mapping[str, Any]) -> list[str]:
    """Which code, data, weights and seeds made the numbers."""
    git = manifest.get("git")
    code = f"ffalora {manifest.get('ffalora')}"
    if git:
        code += f" at {str(git['commit'])[:12]}{' with local changes' if git['dirty'] else ''}"
    versions = manifest.get("versions") or {}
    packages = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name))
    seeds = ", ".join(f"{name} {seed}" for name, seed in (manifest.get("seeds") or {}).items())
    data = manifest.get("data_fingerprints") or {}
    lines = words.labelled("made", f"{manifest.get('created')} on {manifest.get('device')}")
    lines += words.labelled("code", f"{code}; Python {manifest.get('python')}, {packages}")
    for split, fingerprint in data.items():
        lines += words.labelled("data", f"{split} {fingerprint}")
    for text in _hub(manifest):
        lines += words.labelled("hub", text)
    lines += words.labelled("weights", str(manifest.get("model_fingerprint")))
    lines += words.labelled("seeds", seeds)
    lines += words.labelled("signature", str(manifest.get("signature")))
    return lines + words.labelled("command", " ".join(manifest.get("command") or ()))


def _hub(manifest: Mapping[str, Any]) -> list[str]:
    """Commits of what came from the Hugging Face hub."""
    model = manifest.get("model") or {}
    origin = str(((manifest.get("data") or {}).get("train") or {}).get("origin", ""))
    found = [f"{model.get('source')} commit {model['commit']}"] if model.get("commit") else []
    if origin.startswith("hub:"):
        repository, _, commit = origin.removeprefix("hub:").rpartition("@")
        found.append(f"{repository} commit {commit}")
    return found


def _plain(records: RunRecords) -> dict[str, Any]:
    """Everything as strict JSON: a NaN, which JSON does not have, becomes null as in the files."""
    rounds = [
        {
            "round": record.round,
            "metrics": {k: v if math.isfinite(v) else None for k, v in record.metrics.items()},
            "clients": [dict(client) for client in record.clients],
        }
        for record in records.rounds
    ]
    return {
        "path": str(records.path),
        "finished": records.finished,
        "failure": records.failure.reason if records.failure else None,
        "manifest": dict(records.manifest),
        "config": dict(records.config),
        "privacy": None if records.privacy is None else dict(records.privacy),
        "summary": None if records.summary is None else dict(records.summary),
        "rounds": rounds,
    }
