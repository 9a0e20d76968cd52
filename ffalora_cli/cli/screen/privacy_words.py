"""Words the privacy statement, as ``ffalora show RUN --privacy`` prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ffalora_cli.cli.screen.units import count
from ffalora_cli.cli.screen.words import labelled, privacy_sentence
from ffalora_cli.config.errors import counted
from ffalora_cli.privacy.claim.statement import EARLIER
from ffalora_cli.privacy.rounding import delta_text, epsilon_text

if TYPE_CHECKING:
    from ffalora_cli.records.reading import RunRecords
    from ffalora_cli.report.runs.spent_together import Lineage

_COLUMNS = (  # key of a client's values, heading, width
    ("client", "client", 6),
    ("examples", "n", 9),
    ("sample_rate", "rate", 9),
    ("noise_multiplier", "noise", 9),
    ("steps_planned", "planned", 9),
    ("steps_taken", "taken", 8),
    ("epsilon_planned", "eps plan", 9),
    ("epsilon_spent", "eps spent", 10),
)


def print_statement(run: RunRecords, as_json: bool) -> None:
    """Print a run's statement for a person, or as it was recorded; and who shares its rounds."""
    from ffalora_cli.records.files import plain
    from ffalora_cli.report.runs.spent_together import lineage

    privacy, relatives = run.privacy, lineage(run)
    if as_json:
        said = None if privacy is None else dict(privacy)
        if said is not None and relatives is not None:
            said["lineage"] = plain(asdict(relatives))
        print(json.dumps(said, indent=2))
        return
    for line in statement_lines(privacy):
        print(line)
    for line in lineage_lines(relatives):
        print(line)


def lineage_lines(found: Lineage | None) -> list[str]:
    """A fork and its original name each other, and what all of them spend."""
    if found is None:
        return []
    lines = [""]
    if found.original:
        spent = "" if found.before is None else f", by then epsilon {epsilon_text(found.before)}"
        lines += labelled(
            "fork of",
            f"{found.original}, after its round {found.round}{spent} (in the claim above)",
        )
    if found.forks:
        lines += labelled("forks", ", ".join(found.forks))
    if found.missing:
        lines += labelled("missing", f"{', '.join(found.missing)}: not in the sum")
    if (both := found.together) is not None:
        said = f"epsilon {epsilon_text(both.epsilon)}" if both.epsilon is not None else "not stated"
        lines += labelled("together", f"{said} ({both.how})")
    return lines


def statement_lines(privacy: Mapping[str, Any] | None) -> list[str]:
    """The statement in lines of at most 80 characters.

    Args:
        privacy: as ``privacy.json`` has it; None without privacy.
    """
    lines = labelled("claim", privacy_sentence(privacy))
    if not privacy or "protects" not in privacy:  # none, or of an earlier schema
        return lines
    lines += labelled("protects", privacy["protects"])
    if privacy["sampling_note"]:
        lines += labelled("sampling", privacy["sampling_note"])
    if (often := privacy.get("participation")) is not None:  # younger than the first statements
        lines += labelled("rounds", often["note"])
    delta, least = privacy["delta"], privacy["one_over_n"]
    relation = "below" if delta < least else "NOT below"
    share = delta_text(float(f"{least:.3g}"))
    lines += labelled("delta", f"{delta_text(delta)}, {relation} 1/n = {share} of the largest n")
    lines += labelled("clip", _clip(privacy))
    lines += labelled("noise", privacy["noise"]["note"])
    lines += ["", *_clients(privacy["clients"]), ""]
    lines += _others(privacy)
    lines += labelled("covered", f"{len(privacy['covered'])} tensors, uploaded or not")
    lines += labelled("library", privacy["library"])
    for warning in privacy["warnings"]:
        lines += labelled("warning", warning)
    lines += ["", "not covered:"]
    for channel in privacy["outside"]:
        lines += labelled("  -", channel)
    return lines


def _clients(clients: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every client, or the quantiles of many."""
    if isinstance(clients, Mapping):
        names = list(next(iter(clients.values())))
        heads = (f"{name.replace('_', ' '):>15}"[-12:] for name in names)
        lines = [f"{'over all clients':<18}{''.join(heads)}"]
        for key, row in clients.items():
            cells = (f"{_cell(key, row[name]):>12}" for name in names)
            lines.append(f"{key.replace('_', ' '):<18}{''.join(cells)}")
        return lines
    columns = [c for c in _COLUMNS if c[0] in clients[0]]
    rows = [
        "".join(_cell(key, row[key]).rjust(width) for key, _, width in columns) for row in clients
    ]
    return ["".join(heading.rjust(width) for _, heading, width in columns), *rows]


def _others(privacy: Mapping[str, Any]) -> list[str]:
    """The same noise under other assumptions."""
    largest, tuning = privacy["largest"], privacy["tuning"]
    values = ", ".join(
        f"{name.upper()} {epsilon_text(v)}" for name, v in largest["epsilon"].items()
    )
    lines = labelled(
        "beside it",
        f"client {largest['client']} alone, the same noise: {values}; replace one "
        f"{epsilon_text(largest['replace_one'])}; without amplification (every unit once an epoch) "
        f"{epsilon_text(largest['no_amplification'])}{_groups(largest, privacy['unit'])}",
    )
    if tuning["distribution"] == EARLIER:
        cost = "no epsilon is stated"
        if tuning["epsilon"] is not None:
            cost = f"epsilon {epsilon_text(tuning['epsilon'])}"
        runs = counted(int(tuning["trials"]), "run")
        said = f"with the {runs} that chose its settings: {cost} (unit {tuning['unit']}, delta "
        return lines + labelled(
            "tuning", f"{said}{delta_text(tuning['delta'])}, {tuning['method']})"
        )
    if tuning["epsilon"] is None:
        said = "one run is claimed; a search costs more (privacy.trials)"
        return lines + labelled("tuning", said)
    number = f"{tuning['trials']:g} runs, a fixed number"
    if tuning["distribution"] != "fixed":
        number = f"a {tuning['distribution']} number of runs, {tuning['trials']:g} on average"
    how = "RDP"  # of an earlier schema
    if "method" in tuning:
        how = f"unit {tuning['unit']}, delta {delta_text(tuning['delta'])}, {tuning['method']}"
    cost = f"epsilon {epsilon_text(tuning['epsilon'])} ({how})"
    return lines + labelled("tuning", f"best of {number}: {cost}")


def _clip(privacy: Mapping[str, Any]) -> str:
    """The rule that ran: its norm, what it is taken over, and how it moves."""
    mechanism = privacy["mechanism"]
    text = f"{privacy['max_grad_norm']:g}, {mechanism['clip']}: {mechanism['clip_note']}"
    adaptive = mechanism["adaptive_clip"]
    if adaptive is None:
        return text
    return f"{text}; adaptive, to quantile {adaptive['quantile']:g}: {adaptive['note']}"


def _groups(largest: Mapping[str, Any], unit: str) -> str:
    """One row of a unit, and several units together, as far as they have a bound."""
    noun = "unit" if unit == "column" else unit
    names = {
        "one_row": f"one of several rows of a {noun}",
        "two_units": f"two {noun}s together",
        "three_units": "three",
    }
    return "".join(
        f"; {words} {epsilon_text(largest[key])}"
        for key, words in names.items()
        if largest.get(key) is not None
    )


def _cell(key: str, value: Any) -> str:
    if key.startswith("epsilon"):
        return epsilon_text(value)
    if isinstance(value, int):
        return count(value)
    return value if isinstance(value, str) else f"{value:.4g}"
