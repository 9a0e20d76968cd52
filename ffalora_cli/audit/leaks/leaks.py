"""Compares what leaves of a run with what leaves of its neighbours.

A field that no line of ``records/leaving.py`` names fails. One that differs fails unless its line
says that it may: ``noised`` and ``outside`` always, ``sizes`` where the unit was removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffalora_cli.audit.leaks.mirrors import Fields, at_hand, flat, tracked
from ffalora_cli.audit.leaks.neighbours import VARIANTS, Neighbour
from ffalora_cli.audit.outcome import Check, exact
from ffalora_cli.config.job import Job
from ffalora_cli.config.schema import Config
from ffalora_cli.export.export import FACTS, TOLERANCE, export
from ffalora_cli.export.model_card import CardFacts, model_card
from ffalora_cli.records.files import read_json
from ffalora_cli.records.leaving import kind, may_leave
from ffalora_cli.records.reading import RunRecords, read_run
from ffalora_cli.report.page.page import page
from ffalora_cli.report.table.rows import Question
from ffalora_cli.types import RoundRecord

Write = Callable[[RunRecords], list[str]]
"""A run's records -> lines of a text about it."""

_MAY_DIFFER = {
    "unit removed": ("noised", "outside", "sizes"),
    "unit changed": ("noised", "outside"),
}
_NAMED = 4  # fields spelled out in a finding
_NOW = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")  # when a page was made


def leak_checks(played: Sequence[Neighbour], job: Job, exports: Path) -> list[Check]:
    """Compare everything that leaves of three neighbouring runs.

    Args:
        played: by ``play_neighbours``.
        job: of all three.
        exports: folder to export to.

    Raises:
        ConfigError: the run cannot be exported here.
    """
    checks = [differ(played)]
    for tracker in at_hand():
        checks += tracker_checks(tracker, played, job)
    return checks + page_checks(played) + export_checks(played, job.config, exports)


def tracker_checks(tracker: str, played: Sequence[Neighbour], job: Job) -> list[Check]:
    """What a tracker holds of each; arguments as of ``leak_checks``."""
    held = [tracked(tracker, n.folder, job) for n in played]
    return _field_checks(tracker, held, job.config.privacy.unit)


def page_checks(played: Sequence[Neighbour]) -> list[Check]:
    """The report page of each."""
    return _text_checks("report page", _page(read_run(played[0].folder)), played, _page)


def export_checks(played: Sequence[Neighbour], config: Config, exports: Path) -> list[Check]:
    """The exported folder of each, which is what a push uploads, and the model card in it."""
    folders = [exports / n.folder.parent.name for n in played]
    for neighbour, folder in zip(played, folders, strict=True):
        export(read_run(neighbour.folder), folder)
    checks = _field_checks("export", [_files(f) for f in folders], config.privacy.unit)
    card = _lines((folders[0] / "README.md").read_text(encoding="utf-8"))
    return checks + _text_checks("model card", card, played, _card(config, folders[0]))


def differ(played: Sequence[Neighbour]) -> Check:
    """The comparison can see something: the released model is another one."""
    models = {(n.folder / "adapter.safetensors").read_bytes() for n in played}
    same = len(VARIANTS) - len(models)
    text = "the three runs end with different models, so the unit played a part"
    if same:
        text = "the model does not depend on the unit that was removed or changed"
    return exact("leaves: neighbours differ", same, text)


def _field_checks(channel: str, held: Sequence[Fields], unit: str) -> list[Check]:
    """One check a neighbour: every field of the channel against the run as it is."""
    original = held[0]
    checks = []
    for variant, other in zip(VARIANTS[1:], held[1:], strict=True):
        wrong, seen = [], {"equal": 0, "noised": 0, "sizes": 0, "outside": 0}
        for field in sorted(original.keys() | other.keys()):
            why = kind(field, unit)
            same = original.get(field) == other.get(field)
            if not may_leave(field, unit):
                wrong.append(f"{field} (no line of the list lets it leave)")
            elif not same and why not in _MAY_DIFFER[variant]:
                wrong.append(f"{field} (differs and is declared {why})")
            else:
                seen["equal" if same else str(why)] += 1
        found = ", ".join(f"{count} {name}" for name, count in seen.items() if count)
        checks.append(_check(channel, variant, wrong, f"{sum(seen.values())} fields: {found}"))
    return checks


def _text_checks(
    channel: str, text: list[str], played: Sequence[Neighbour], write: Write
) -> list[Check]:
    """One check a neighbour: written with the run's own declared fields, its text is the run's.

    So every difference between two texts is one that the list allows, whatever was made of it.
    """
    original = read_run(played[0].folder)
    checks = []
    for neighbour in played[1:]:
        declared = substituted(read_run(neighbour.folder), original, neighbour.variant)
        lines = write(declared)
        wrong = [f"{line.strip()[:60]!r}" for line in lines if line not in text]
        wrong += [f"{line.strip()[:60]!r} is gone" for line in text if line not in lines]
        fine = f"{len(lines)} lines follow from fields that may differ, and from what is equal"
        checks.append(_check(channel, neighbour.variant, wrong, fine))
    return checks


def _check(channel: str, variant: str, wrong: Sequence[str], fine: str) -> Check:
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    text = f"{', '.join(wrong[:_NAMED])}{more}" if wrong else fine
    return exact(f"leaves: {channel}, {variant}", len(wrong), text)


def substituted(run: RunRecords, original: RunRecords, variant: str) -> RunRecords:
    """A neighbour's records with every field that may differ taken from the original.

    What stays at home is the neighbour's own: a text that uses it differs.
    """
    unit = str(run.config["privacy"]["unit"])

    def mixed(ours: Any, theirs: Any, name: str) -> Any:
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours:
            return {key: mixed(v, theirs.get(key), f"{name}.{key}") for key, v in ours.items()}
        return theirs if kind(name, unit) in _MAY_DIFFER[variant] else ours

    def metrics(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
        return {key: mixed(value, theirs.get(key), f"metrics.{key}") for key, value in ours.items()}

    summary, best = dict(run.summary or {}), dict(original.summary or {})
    return replace(
        run,
        path=original.path,
        manifest=mixed(run.manifest, original.manifest, "manifest"),
        privacy=mixed(run.privacy, original.privacy, "privacy"),
        rounds=tuple(
            RoundRecord(r.round, metrics(r.metrics, o.metrics), r.clients, r.rejected)
            for r, o in zip(run.rounds, original.rounds, strict=True)
        ),
        summary={
            **mixed(summary, best, "summary"),
            **{part: metrics(summary[part], best[part]) for part in ("initial", "final")},
        },
    )


def _page(run: RunRecords) -> list[str]:
    return _lines(_NOW.sub("NOW", page([run], Question())))


def _card(config: Config, folder: Path) -> Write:
    """Writes the card of an export again, of other records."""
    said = read_json(folder / FACTS)
    facts = CardFacts(
        said["round"], "last", False, None, said["rows"], TOLERANCE, 0.0, said["sized"]
    )
    return lambda run: _lines(model_card(run, config, facts))


def _lines(text: str) -> list[str]:
    return [line for line in text.replace("</dd>", "</dd>\n").splitlines() if line.strip()]


def _files(folder: Path) -> Fields:
    """Every file of an export and what is in the ones that we write; also what a push uploads."""
    from safetensors.numpy import load_file

    fields: Fields = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        fields[f"file.{name}"] = ["is there"]
        if name.endswith(".safetensors"):
            fields |= {f"adapter.{k}": [v.tobytes()] for k, v in load_file(file).items()}
        elif name in ("export.json", "adapter_config.json"):
            pairs = flat(name.removesuffix(".json"), read_json(file))
            fields |= {field: [value] for field, value in pairs}
        elif name != "README.md":
            fields[f"file.{name}"] = [file.read_bytes()]
    return fields
