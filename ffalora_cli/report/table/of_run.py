"""Makes the tables that a paper has of one run: its clients, their labels, its settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.signature import relevant
from ffalora_cli.metric_keys import evaluated, short_name
from ffalora_cli.records.leaving import may_leave
from ffalora_cli.records.reading import RunRecords, read_labels
from ffalora_cli.report.figures.clients import measures, scores
from ffalora_cli.report.names import PAPER, Names
from ffalora_cli.report.runs.selection import spelled, value_at
from ffalora_cli.report.table.formats import ABSENT, Grid
from ffalora_cli.tasks.registry import is_percent

_AT_HOME = "a private run: these numbers are no part of its guarantee and stay in its folder"
_SPENT = "epsilon_spent"
_FEW = 8  # labels that stand side by side even where clients are fewer

SECTIONS: Mapping[str, str] = {
    "data": (
        "task task.max_length partition partition.dirichlet_alpha partition.label_mix "
        "partition.shards_per_client federation.num_clients"
    ),
    "model": (
        "model engine.precision adapter.form adapter.targets adapter.layers adapter.rank "
        "adapter.alpha adapter.init adapter.dropout model.dropout head.mode"
    ),
    "federation": (
        "method federation.cohort_size federation.cohort_sampling federation.rounds "
        "federation.weights federation.server_optimizer.name federation.server_optimizer.lr "
        "federation.server_optimizer.momentum federation.combination"
    ),
    "local training": (
        "federation.local_steps federation.local_batch_size federation.local_optimizer "
        "federation.local_lr federation.lr_schedule federation.warmup_rounds federation.lr_end "
        "federation.local_momentum federation.local_weight_decay federation.clip_gradients"
    ),
    "privacy": (
        "privacy.unit privacy.epsilon_target privacy.delta privacy.max_grad_norm privacy.clip "
        "privacy.clip_quantile privacy.noise_multiplier privacy.accountant privacy.sampling "
        "privacy.client_noise privacy.participation_quantile"
    ),
    "repetition": "seed",
}
"""Keys of a hyper-parameter table as a paper's appendix has it."""
_OFF: Mapping[str, Any] = {
    "adapter.form": "lora",
    "adapter.dropout": 0.0,
    "federation.cohort_sampling": "full",
    "federation.combination": "mean",
    "federation.lr_schedule": "constant",
    "federation.warmup_rounds": 0,
    "federation.lr_end": 0.0,
    "engine.precision": "fp32",
    "federation.server_optimizer.name": "sgd",
    "federation.server_optimizer.lr": 1.0,
    "federation.server_optimizer.momentum": 0.0,
    "federation.local_momentum": 0.0,
    "federation.local_weight_decay": 0.0,
    "privacy.clip": "flat",
    "privacy.sampling": "poisson",
    "privacy.client_noise": "central",
}
"""Values at which a key is left out: nothing is done; what is null always is."""


def settings(run: RunRecords, names: Names = PAPER, everything: bool = False) -> Grid:
    """Settings by section: what a reader needs, or everything that can change a result.

    Args:
        run: finished or not.
        names: how keys and values are written.
        everything: every key of the configuration's identity, as it is typed.
    """
    config = run.config
    head = ("section", "setting", "value")
    if everything:
        rows = [(key.split(".")[0], key, spelled(value)) for key, value in _flat(relevant(config))]
        return Grid(head, tuple(rows), words=3)
    private = config["privacy"]["unit"] != "none"
    found = []
    for section, keys in SECTIONS.items():
        if section == "privacy" and not private:
            keys = "privacy.unit"
        for key in keys.split():
            value = _value(run, key)
            if value is not None and value != _OFF.get(key):
                text = value if key == _NOISE else names.value(key, spelled(value))
                found.append((section, names.key(key), text))
    if not names.raw:  # for people a section is named once
        named = [one[0] for one in found]
        found = [
            ("" if a == b else b, *c[1:])
            for a, b, c in zip(["", *named], named, found, strict=False)
        ]
    return Grid(head, tuple(found), words=3)


_NOISE = "privacy.noise_multiplier"


def _value(run: RunRecords, key: str) -> Any:
    """What a run had: where the configuration leaves it to data or plan, what they made of it."""
    value = value_at(run.config, key if "." in key or key == "seed" else f"{key}.name")
    if value is None and key == "federation.num_clients":
        sizes = run.manifest.get("client_sizes")
        return len(sizes) if sizes else None
    if key == _NOISE and run.privacy is not None:
        clients = run.privacy.get("clients")
        if isinstance(clients, Mapping):
            return _from_to(clients["noise_multiplier"].values())
        return _from_to([client["noise_multiplier"] for client in clients or ()])
    return spelled(value) if key == _NOISE and value is not None else value


def _from_to(values: Any) -> str | None:
    """``1.04`` or ``0.98–1.04``."""
    ends = [f"{value:.4g}" for value in sorted(values)]
    return "–".join(dict.fromkeys((ends[0], ends[-1]))) if ends else None


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in section.items():
        key = f"{prefix}{name}"
        found += _flat(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)]
    return found


def clients(run: RunRecords, names: Names = PAPER) -> Grid:
    """One row a client: its rows, how often it took part, its scores; the means below.

    Scores are those of the last round that scored it: of its own model on the common split, where
    it has one, and with the classes weighted as in its own rows. The global model's score is one
    number, in the notes.

    Raises:
        ConfigError: no client ever took part.
    """
    known = [m for m in reversed(measures(run)) if scores(run, m)]
    rounds = Counter(int(line["client"]) for record in run.rounds for line in record.clients)
    if not rounds:
        raise ConfigError(f"{run.path}: no client has taken part yet; wait for its first round")
    found = read_labels(run.path)
    sizes = run.manifest.get("client_sizes") if found is None else found.sizes
    numbers = list(range(len(sizes)) if sizes else sorted(rounds))
    columns: dict[str, list[Any]] = {"client": [_name(found, client) for client in numbers]}
    if sizes:
        columns["rows"] = [sizes[client] for client in numbers]
    columns["rounds"] = [rounds[client] for client in numbers]
    for measure in (*known, _SPENT):
        last = dict(scores(run, measure))
        if last:
            columns[measure] = [last.get(client) for client in numbers]
    rows = [[_cell(key, value, names) for value in values] for key, values in columns.items()]
    body = list(zip(*rows, strict=True))
    if known:
        shown = (_cell(k, _mean(v) if k in known else "", names) for k, v in columns.items())
        body.append(("mean", *list(shown)[1:]))
    titles = tuple(_title(key, names) for key in columns)
    return Grid(titles, tuple(body), words=1, notes=tuple(_client_notes(run, known, names)))


def _client_notes(run: RunRecords, known: Sequence[str], names: Names) -> list[str]:
    notes = [f"{_title(measure, names)}: {measures(run)[measure][0]}" for measure in known]
    if not known:
        notes.append(next(iter(measures(run).values()))[1])
    metric = evaluated(run.config["task"]["metrics"][0])
    seen = run.series(metric)[1]
    if seen:
        value = _cell(short_name(metric), seen[-1], names)
        notes.append(f"the global model's {_title(short_name(metric), names)}: {value}")
    if run.config["privacy"]["unit"] != "none":
        notes.append(_AT_HOME)
    return notes


def labels(run: RunRecords, names: Names = PAPER) -> Grid:
    """Training rows of each label at each client; many labels of few clients stand one a row.

    Raises:
        ConfigError: the run is older than this record.
    """
    found = read_labels(run.path)
    if found is None:
        raise ConfigError(
            f"{run.path}: it did not record its labels (it is older than this); type "
            f"ffalora partition {' '.join(run.manifest.get('overrides') or ())}".rstrip()
        )
    kinds = found.labels if len(found.labels) > 1 else ()
    whose = [_name(found, c) for c in range(len(found.rows))]
    table = [[*row, sum(row)] for row in found.rows]  # [clients, labels + 1]
    if not kinds:
        table = [row[-1:] for row in table]
    totals = [sum(column) for column in zip(*table, strict=True)]
    across = (*kinds, "rows")
    if len(kinds) > max(_FEW, len(whose)):
        rows = [(kind, *numbers) for kind, *numbers in zip(across, *table, totals, strict=True)]
        head = ("label", *whose, "all")
    else:
        rows = [(who, *numbers) for who, numbers in zip(whose, table, strict=True)]
        rows.append(("all", *totals))
        head = ("client", *across)
    private = run.config["privacy"]["unit"] != "none"
    body = tuple(tuple(map(str, row)) for row in rows)
    return Grid(head, body, words=1, notes=(_AT_HOME,) if private else ())


def shareable(run: RunRecords) -> list[tuple[str, Grid]]:
    """The tables of a run that others may see, by title.

    Args:
        run: what of it may leave (``leaving.released``).
    """
    found = [("settings", settings(run))]
    if any(record.clients for record in run.rounds):
        found.append(("clients", clients(run)))
    unit = str(run.config["privacy"]["unit"])
    if may_leave("labels.rows", unit) and read_labels(run.path) is not None:
        found.append(("labels of the training rows", labels(run)))
    return found


def _name(found: Any, client: int) -> str:
    return str(client) if found is None or found.names is None else found.names[client]


def _title(key: str, names: Names) -> str:
    if names.raw:
        return key
    if key == _SPENT:
        return f"{names.key('privacy.epsilon_target')} spent"
    return key.replace("_", " ") + (" (%)" if is_percent(key) else "")


def _cell(title: str, value: Any, names: Names) -> str:
    """A number as its column has it: shares in percent, but for programs as they are."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if not isinstance(value, float):
        return str(value)
    if names.raw:
        return repr(value)
    return f"{100 * value:.1f}" if is_percent(title) else f"{value:.2f}"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
