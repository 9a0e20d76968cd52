"""Which metrics of a private run may leave its folder: one table, private unless it says released.

Private is what was computed from training rows, or from who took part, without noise. A metric that
no line names is private in a private run, and a test asks for a line.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

Tag = Literal["private", "released"]

TAGS: tuple[tuple[str, dict[str, Tag]], ...] = (
    # The mix of labels is the client's own, whatever rows were scored.
    ("eval/*_own_labels", {"inside": "private", "client": "private"}),
    # Scored on the common evaluation split with each client's own tensors: these are clipped and
    # noised at units inside a client, but never at unit client.
    ("eval/personalized_accuracy*", {"inside": "released", "client": "private"}),
    # The released global model on public evaluation rows.
    ("eval/*", {"inside": "released", "client": "released"}),
    # Bytes follow from who took part, which a client-level guarantee protects.
    ("comm/*", {"inside": "released", "client": "private"}),
    ("privacy/epsilon_spent", {"inside": "released", "client": "released"}),
    # The adaptive clip and the noised share that moves it are paid for by the plan.
    ("privacy/max_grad_norm", {"inside": "released", "client": "released"}),
    ("privacy/unclipped_share", {"inside": "released", "client": "released"}),
    # Seconds of a round: coarse, and named in the statement as outside the guarantee.
    ("time/round_seconds", {"inside": "released", "client": "released"}),
    # Samples per second times seconds is how many rows were drawn, and so the clients' sizes.
    ("time/samples_per_second", {"inside": "private", "client": "private"}),
    ("train/*", {"inside": "private", "client": "private"}),  # loss, clipped share, counts
    ("engine/*", {"inside": "private", "client": "private"}),  # padding tells the drawn lengths
)


def tag(metric: str, unit: str) -> Tag | None:
    """The tag of a metric under a privacy unit; the first line that fits; None without one.

    Args:
        metric: key of ``RoundRecord.metrics``, or of a summary's ``best`` (``best/...``).
        unit: ``none``, one inside a client, or ``client``; without privacy everything is released.
    """
    name = metric.removeprefix("best/")
    for pattern, by_unit in TAGS:
        if fnmatchcase(name, pattern):
            if unit == "none":
                return "released"
            return by_unit["client" if unit == "client" else "inside"]
    return None


def may_leave(metric: str, unit: str) -> bool:
    """Whether a key may leave the run folder; facts of the run itself (no ``/``) may."""
    bare = metric.removeprefix("best/")
    return unit == "none" or "/" not in bare or tag(bare, unit) == "released"
