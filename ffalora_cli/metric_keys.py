"""Names of the metrics of a round, as ``rounds.jsonl`` and the trackers have them.

Whoever writes or reads a metric takes its name from here; ``docs/metrics.md`` is made from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Metric:
    """What a key holds.

    Attributes:
        unit: of its values.
        better: which values are; empty where neither is.
        meaning: one sentence.
    """

    unit: str
    better: Literal["higher", "lower", "as its task says", ""]
    meaning: str


def evaluated(metric: str, split: str = "") -> str:
    """The key of a task's metric (or of its ``loss``) on a split; the first split is unnamed."""
    return f"eval/{split}/{metric}" if split else f"eval/{metric}"


def personalized(metric: str) -> str:
    """The key of the mean over clients, each scored with its own tensors."""
    return evaluated(f"personalized_{metric}")


def of_clients(metric: str) -> str:
    """What keys about clients that all have the global model begin with."""
    return evaluated(f"client_{metric}")


def interval(key: str) -> tuple[str, str]:
    """The keys of the ends of a share's 95 % interval."""
    return f"{key}_low", f"{key}_high"


def own_labels(key: str) -> str:
    """The key of the same mean, each client's classes weighted as in its own rows."""
    return f"{key}_own_labels"


def short_name(key: str) -> str:
    """A key as people read it: a task's metric goes by its own name."""
    return key.removeprefix("eval/")


def gap_of(site: str) -> str:
    """The key of one adapted layer's aggregation gap."""
    return f"{GAP}/{site}"


def bytes_of(what: str, total: bool = False) -> str:
    """The key of bytes of one round, or of all rounds up to it; ``what`` is in ``BYTES``."""
    return f"comm/{what}_bytes{'_total' if total else ''}"


LOSS = evaluated("loss")
EXAMPLES, UNITS, TRAIN_LOSS = "train/examples", "train/units", "train/loss"
NONFINITE, CLIPPED = "train/nonfinite_examples", "train/clipped_share"
LEARNING_RATE = "train/lr"
DROPPED, LATE = "train/dropped_clients", "train/late_uploads"
REJECTED = "train/rejected_uploads"
PADDING, HALVINGS = "engine/padding_share", "engine/memory_halvings"
ROUND_SECONDS, SAMPLES_PER_SECOND = "time/round_seconds", "time/samples_per_second"
EPSILON = "privacy/epsilon_spent"
CLIP, UNCLIPPED = "privacy/max_grad_norm", "privacy/unclipped_share"
GAP, UPDATE_NORM = "mechanism/aggregation_gap", "mechanism/update_norm"
NOISE_PRODUCT, NOISE_LINEAR = "mechanism/noise_product", "mechanism/noise_linear"
NOISE_RATIO = "mechanism/noise_ratio"
CLIENT_DRIFT, CLIENT_COSINE = "mechanism/client_drift", "mechanism/client_cosine"
UPLINK, UPLINK_TOTAL = bytes_of("uplink"), bytes_of("uplink", total=True)
DOWNLINK_TOTAL = bytes_of("downlink", total=True)

BYTES = {
    "uplink": "from clients to the server, all kinds",
    "downlink": "from the server to clients, all kinds",
    "adapter": "of adapter tensors, both ways",
    "head": "of the head, both ways",
    "merge": "of what is merged into the frozen weights, both ways",
    "index": "that say which elements are sent, both ways",
    "setup": "of seeds and of what is sent once to begin with, both ways",
    "framing": "of headers and padding of the payloads, both ways",
}
"""Directions and kinds of bytes, in words that follow "bytes"."""

_UNIT: Final = "of the metric"
_TASK: Final = "as its task says"
_MEAN = "mean over the clients of the cohort (at most 100)"
METRICS: dict[str, Metric] = {
    LOSS: Metric("nats", "lower", "Mean loss of the global model on the first evaluation split."),
    evaluated("loss", "<split>"): Metric("nats", "lower", "The same on a further split."),
    own_labels(personalized("<metric>")): Metric(
        _UNIT, _TASK, f"Clients' own models, classes weighted as a client's own rows: {_MEAN}."
    ),
    f"{personalized('<metric>')}_min": Metric(
        _UNIT, _TASK, "Clients' own models: the worst client of the cohort."
    ),
    personalized("<metric>"): Metric(
        _UNIT, _TASK, f"Score of the global model with a client's own tensors: {_MEAN}."
    ),
    own_labels(of_clients("<metric>")): Metric(
        _UNIT, _TASK, f"The global model, classes weighted as a client's own rows: {_MEAN}."
    ),
    evaluated("generated_unfinished"): Metric(
        "share", "lower", "Generated answers that `task.generate.max_new_tokens` cut."
    ),
    **dict.fromkeys(
        interval(evaluated("<metric>")),
        Metric("share", "", "End of the 95 % interval (Wilson) of a share of generated answers."),
    ),
    evaluated("<metric>"): Metric(
        _UNIT,
        _TASK,
        "A metric of `task.metrics` or, of generated answers, of `task.generate.metrics`, of the "
        "global model on the first evaluation split.",
    ),
    evaluated("<metric>", "<split>"): Metric(_UNIT, _TASK, "The same on a further split."),
    TRAIN_LOSS: Metric("nats", "lower", "Mean loss over the rows trained on, before each step."),
    EXAMPLES: Metric("rows", "", "Rows trained on, all clients and local steps."),
    UNITS: Metric("units", "", "Units of privacy trained on, where one may be several rows."),
    NONFINITE: Metric("rows", "lower", "Rows left out: their gradient was not finite."),
    CLIPPED: Metric("share", "", "Units whose gradient was clipped."),
    LEARNING_RATE: Metric("rate", "", "Of the round's local steps (`federation.lr_schedule`)."),
    DROPPED: Metric("clients", "lower", "Clients of the cohort that did not answer."),
    LATE: Metric("uploads", "lower", "Uploads that came after the round had closed."),
    REJECTED: Metric("uploads", "lower", "Uploads that broke the contract and were left out."),
    PADDING: Metric("share", "lower", "Computed tokens that are padding."),
    HALVINGS: Metric("times", "lower", "How often a micro-batch was halved for want of memory."),
    ROUND_SECONDS: Metric("seconds", "lower", "The round without its evaluation."),
    SAMPLES_PER_SECOND: Metric("rows/second", "higher", "Rows trained on a second."),
    EPSILON: Metric("epsilon", "lower", "Spent by now, of the worst unit, as `privacy.json` says."),
    CLIP: Metric("norm", "", "The clip of this round, where it adapts (`privacy.clip_quantile`)."),
    UNCLIPPED: Metric("share", "", "Noised share of unclipped units, by which the clip moves."),
    GAP: Metric(
        "share",
        "lower",
        "What averaging the factors loses, over all layers (`diagnostics=mechanism`): norm of "
        "mean(B A) - mean(B) mean(A) over that of mean(B A) less the B A of the round before.",
    ),
    gap_of("<layer>"): Metric("share", "lower", "The same of one adapted layer."),
    UPDATE_NORM: Metric(
        "norm", "", "Of the clients' mean update of dW, all layers: the gap's whole."
    ),
    NOISE_PRODUCT: Metric(
        "norm", "lower", "Root mean square of z_B z_A in a client's dW, of the planned noise."
    ),
    NOISE_LINEAR: Metric("norm", "lower", "The same of z_B A + B z_A."),
    NOISE_RATIO: Metric("ratio", "lower", "The product over the linear terms."),
    CLIENT_DRIFT: Metric(
        "ratio",
        "",
        "Distance of a client's update from the mean one, root mean square, over the mean's norm.",
    ),
    CLIENT_COSINE: Metric("cosine", "", "Between two clients' updates, mean over pairs."),
    **{
        bytes_of(what, total): Metric(
            "bytes", "lower", f"Bytes {words}{', all rounds so far' if total else ''}."
        )
        for total in (False, True)
        for what, words in BYTES.items()
    },
}
"""Every key by its pattern (``<...>``: any name); the first that fits a key describes it."""


def described(key: str) -> Metric | None:
    """What a key holds; None for one that no run writes today."""
    for pattern, metric in METRICS.items():
        parts = re.split(r"<\w+>", pattern)
        if re.fullmatch("[^/]+".join(map(re.escape, parts)), key):
            return metric
    return None
