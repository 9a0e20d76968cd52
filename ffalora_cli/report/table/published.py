"""Reads published numbers that our experiments can be held against, each with its source.

Marks: ``S`` read in the named paper's own table; ``2H`` second-hand, read in a review. What is only
recalled is not here. Accuracies in percent; ``spread`` is what its source calls a 95 % interval.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from importlib import resources

from ffalora_cli.metric_keys import evaluated

PAPER = "FFA-LoRA paper (arXiv 2403.12313)"
FEDSVD = "FedSVD paper (arXiv 2505.12805)"
MARKS = {
    "S": "read in the source's own table",
    "2H": "second-hand, read in a review of the paper",
}
GLUE = (
    ("mnli", evaluated("accuracy")),
    ("mnli", evaluated("accuracy", "validation_mismatched")),
    ("sst2", evaluated("accuracy")),
    ("qqp", evaluated("accuracy")),
    ("qnli", evaluated("accuracy")),
)
"""Task and metric of the columns of both papers' tables, in their order."""


@dataclass(frozen=True)
class Number:
    """One number, ours or published.

    Attributes:
        task: our name of it.
        metric: our name of it.
        setting: value of the table's axis, as it is typed.
        method: our name of it.
        source: who measured it; the table's ``found`` says where.
        mark: of ``MARKS``; empty for ours.
        value: percent.
        spread: half-width of a 95 % interval, percent; None where none is given.
        count: runs behind it; None where the source does not say.
    """

    task: str
    metric: str
    setting: str
    method: str
    source: str
    mark: str
    value: float
    spread: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper as an experiment of ours.

    Attributes:
        experiment: its name in ``configs/experiment``.
        axis: the key that its rows vary, beside task and method.
        settings: values of the axis, in the paper's order.
        protocol: the paper's other settings, by key.
        numbers: published.
        found: what is and is not known of it.
    """

    experiment: str
    axis: str
    settings: tuple[str, ...]
    protocol: dict[str, str]
    numbers: tuple[Number, ...]
    found: str


_PROTOCOL = {
    "model": "roberta_large",
    "head.mode": "frozen",
    "federation.num_clients": "3",
    "federation.rounds": "1000",
    "federation.local_steps": "10",
    "federation.local_batch_size": "200",
    "federation.local_optimizer": "sgd",
    "adapter.rank": "8",
    "adapter.alpha": "8",
}
_DP = {
    **_PROTOCOL,
    "partition": "severe",
    "privacy.delta": "1e-05",
    "privacy.accountant": "rdp",
}


def _numbers(experiment: str) -> tuple[Number, ...]:
    """The lines of ``published.csv`` that belong to an experiment, in their order."""
    found = []
    with resources.files(__package__).joinpath("published.csv").open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if line.pop("experiment") == experiment:
                value, spread, count = (line.pop(name) for name in ("value", "spread", "count"))
                interval, runs = float(spread) if spread else None, int(count) if count else None
                found.append(Number(**line, value=float(value), spread=interval, count=runs))
    return tuple(found)


_HETEROGENEITY = _numbers("heterogeneity")
_SEVERE = tuple(replace(n, setting="null") for n in _HETEROGENEITY if n.setting == "severe")
TABLES = (
    Table(
        "table1",
        "privacy.epsilon_target",
        ("null", "6", "3", "1"),
        _DP,
        (*_SEVERE, *_numbers("table1")),
        f"paper: of the DP table of the {PAPER} one pair of cells is known (2H), and contested by "
        "FedSVD; without privacy stands the severe split of its heterogeneity table. "
        f"FedSVD: {FEDSVD}, 5 runs without privacy, 10 at epsilon 6; 6 clients of which 3 a round, "
        "Dirichlet 0.5, 100 rounds, batch 128, one learning rate for all methods, clip 2, PRV "
        "accountant",
    ),
    Table(
        "heterogeneity",
        "partition",
        ("iid", "mild", "severe"),
        _PROTOCOL,
        _HETEROGENEITY,
        f"paper: {PAPER}, complete, without privacy; its learning rates are not given, and it "
        "reports the best accuracy of a run (--at best-validation does, too)",
    ),
    Table(
        "rank",
        "adapter.rank",
        ("2", "4", "8", "16"),
        {key: value for key, value in _DP.items() if key != "adapter.rank"},
        (),
        f"the {PAPER} has this table, with and without privacy; its values were not found",
    ),
    Table(
        "alpha",
        "adapter.alpha",
        ("2", "4", "8", "16", "32"),
        {key: value for key, value in _DP.items() if key != "adapter.alpha"},
        (),
        f"the {PAPER} has this ablation; its values were not found",
    ),
    Table(
        "local_steps",
        "federation.local_steps",
        ("1", "5", "10", "20"),
        {key: value for key, value in _DP.items() if "steps" not in key and "rounds" not in key},
        (),
        f"no such table of the {PAPER} was found: this one is ours",
    ),
)
"""What ``ffalora compare experiment=NAME --published`` knows."""
