"""Published numbers that our experiments can be held against, each with where it was read.

Marks: ``S`` read in the named paper's own table; ``2H`` second-hand, read in a review. What is only
recalled is not here. Accuracies in percent; ``spread`` is what its source calls a 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PAPER = "FFA-LoRA paper (arXiv 2403.12313)"
FEDSVD = "FedSVD paper (arXiv 2505.12805)"
MARKS = {
    "S": "read in the source's own table",
    "2H": "second-hand, read in a review of the paper",
}
GLUE = (
    ("mnli", "eval/accuracy"),
    ("mnli", "eval/validation_mismatched/accuracy"),
    ("sst2", "eval/accuracy"),
    ("qqp", "eval/accuracy"),
    ("qnli", "eval/accuracy"),
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

# Percent, in the order of GLUE.
_HETEROGENEITY = {
    ("iid", "lora"): (86.90, 87.15, 94.42, 84.47, 91.38),
    ("iid", "ffa_lora"): (87.13, 87.21, 95.14, 86.31, 92.64),
    ("mild", "lora"): (87.01, 87.33, 93.55, 84.41, 91.36),
    ("mild", "ffa_lora"): (87.04, 87.36, 94.10, 85.33, 91.62),
    ("severe", "lora"): (82.03, 82.50, 94.32, 83.51, 88.95),
    ("severe", "ffa_lora"): (85.05, 85.62, 94.32, 84.35, 90.35),
}

# Percent and half-width, in the order of GLUE, by epsilon; 5 runs without privacy, 10 at epsilon 6.
_FEDSVD = {
    ("null", "lora"): "74.79±14.92 75.09±15.04 85.89±12.12 61.75±10.06 71.40±12.78",
    ("null", "ffa_lora"): "82.75±1.72 83.45±1.84 94.06±0.18 78.00±3.08 86.61±1.22",
    ("null", "fedsvd"): "83.96±2.12 84.32±2.27 94.26±0.51 79.82±2.43 88.98±1.43",
    ("6", "lora"): "65.45±6.14 67.02±5.93 89.41±2.18 58.59±5.27 60.70±5.27",
    ("6", "ffa_lora"): "55.56±8.58 56.39±8.94 91.42±0.87 64.35±3.26 72.39±4.96",
    ("6", "fedsvd"): "71.68±3.31 73.03±2.90 91.32±0.85 72.42±2.36 75.50±4.20",
    ("3", "lora"): "49.91±12.16 50.53±12.18 61.87±9.08 55.27±7.89 50.00±0.35",
    ("3", "ffa_lora"): "57.76±7.09 59.19±7.02 91.08±1.23 68.68±4.34 62.35±8.07",
    ("3", "fedsvd"): "70.65±3.97 72.02±3.96 90.46±0.66 72.65±2.60 77.10±1.60",
}


def _heterogeneity(splits: tuple[str, ...], table1: bool = False) -> Iterator[Number]:
    for (split, method), values in _HETEROGENEITY.items():
        for (task, metric), value in zip(GLUE, values, strict=True):
            setting = "null" if table1 else split
            if split in splits:
                yield Number(task, metric, setting, method, "paper", "S", value)


def _fedsvd() -> Iterator[Number]:
    counts = {"null": 5, "6": 10, "3": None}
    for (epsilon, method), text in _FEDSVD.items():
        for (task, metric), cell in zip(GLUE, text.split(), strict=True):
            value, spread = map(float, cell.split("±"))
            count = counts[epsilon]
            yield Number(task, metric, epsilon, method, "FedSVD", "S", value, spread, count)


def _dp_table() -> Iterator[Number]:
    for method, value in (("lora", 39.46), ("ffa_lora", 78.81)):
        yield Number("mnli", "eval/accuracy", "6", method, "paper", "2H", value)


TABLES = (
    Table(
        "table1",
        "privacy.epsilon_target",
        ("null", "6", "3", "1"),
        _DP,
        (*_heterogeneity(("severe",), table1=True), *_dp_table(), *_fedsvd()),
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
        tuple(_heterogeneity(("iid", "mild", "severe"))),
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
