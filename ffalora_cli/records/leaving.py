"""Lists what of a run may leave its folder; read by card, page, trackers, exports and hub.

In a private run nothing may leave that is a function of private rows without noise: no hash, no
count, no label, no time of a single round. A field that no line names does not leave, whatever the
run; ``ffalora audit --tier release`` removes and changes a unit and looks at everything that does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ffalora_cli.metric_keys import (
    CLIP,
    EPSILON,
    UNCLIPPED,
    evaluated,
    own_labels,
    personalized,
)
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    pass

Kind = Literal["public", "sizes", "noised", "outside", "home", "never"]
"""Why a field of a private run may leave, or that it may not:

- ``public``: the same whatever the private rows are;
- ``sizes``: follows from how many units each client has (and, where a partition leaves one text on
  several clients, on how many), which is taken as public: the statement says so;
- ``noised``: follows from released tensors alone;
- ``outside``: named as outside the guarantee by the statement (times);
- ``home``: leaves a run without privacy only;
- ``never``: leaves no run.
"""

LINES: tuple[tuple[str, Kind, Kind], ...] = (
    # field (``*``: within a name, ``**``: anything), at a unit inside a client, at unit client.
    # The mix of labels is the client's own, whatever rows were scored.
    (f"metrics.{own_labels(evaluated('*'))}", "home", "home"),
    # A client's own tensors are clipped and noised at units inside it, but never at unit client.
    (f"metrics.{personalized('*')}", "noised", "home"),
    (f"metrics.{evaluated('*')}", "noised", "noised"),
    # Bytes follow from who took part, which a client-level guarantee protects.
    ("metrics.comm/*", "sizes", "home"),
    (f"metrics.{EPSILON}", "sizes", "sizes"),
    # The adaptive clip and the noised share that moves it are paid for by the plan.
    (f"metrics.{CLIP}", "noised", "noised"),
    (f"metrics.{UNCLIPPED}", "noised", "noised"),
    # A round's seconds follow from the rows that were drawn and from their lengths.
    ("metrics.time/*", "home", "home"),
    ("metrics.train/*", "home", "home"),  # loss, clipped share, counts
    ("metrics.engine/*", "home", "home"),  # padding tells the drawn lengths
    ("metrics.*", "home", "home"),
    ("summary.schema_version", "public", "public"),
    ("summary.status", "public", "public"),
    ("summary.headline", "public", "public"),
    ("summary.rounds", "sizes", "sizes"),  # a budget may end a run early
    ("summary.ended", "outside", "outside"),  # to the minute, as the seconds
    ("summary.seconds", "outside", "outside"),
    ("summary.value", "noised", "noised"),  # not of a headline that stays at home
    ("summary.best.*", "noised", "noised"),
    ("manifest.schema_version", "public", "public"),
    ("manifest.id", "public", "public"),
    ("manifest.signature", "public", "public"),  # of the configuration alone
    ("manifest.created", "outside", "outside"),
    ("manifest.command", "public", "public"),
    ("manifest.seeds.*", "public", "public"),
    ("manifest.ffalora", "public", "public"),
    ("manifest.python", "public", "public"),
    ("manifest.versions.*", "public", "public"),
    ("manifest.git", "public", "public"),
    ("manifest.git.*", "public", "public"),
    ("manifest.platform", "public", "public"),
    ("manifest.device", "public", "public"),
    ("manifest.threads", "public", "public"),
    ("manifest.max_tokens", "public", "public"),
    ("manifest.trainable_parameters", "public", "public"),
    ("manifest.frozen_parameters", "public", "public"),
    ("manifest.model_fingerprint", "public", "public"),
    ("manifest.model.source", "never", "never"),  # may be a folder; the configuration names it
    ("manifest.model.*", "public", "public"),
    ("manifest.forked_from", "public", "public"),
    ("manifest.forked_from.id", "public", "public"),
    ("manifest.forked_from.signature", "public", "public"),
    ("manifest.forked_from.round", "public", "public"),
    ("manifest.data.eval_on", "public", "public"),
    ("manifest.data.version", "public", "public"),
    # A hold-out is cut from the training rows, and its fingerprint made from theirs.
    ("manifest.data.evals.*", "public", "public"),
    ("manifest.data.evals.holdout.fingerprint", "home", "home"),
    ("manifest.data.evals.*.fingerprint", "public", "public"),
    ("manifest.data_fingerprints.train", "home", "home"),
    ("manifest.data_fingerprints.holdout", "home", "home"),
    ("manifest.data_fingerprints.*", "public", "public"),
    ("manifest.identity.data.clients", "home", "home"),
    ("privacy.schema", "public", "public"),
    ("privacy.sentence", "sizes", "sizes"),
    ("privacy.unit", "public", "public"),
    ("privacy.protects", "public", "public"),
    ("privacy.relation", "public", "public"),
    ("privacy.sampling", "public", "public"),
    ("privacy.sampling_note", "public", "public"),
    ("privacy.accountant", "public", "public"),
    ("privacy.library", "public", "public"),
    ("privacy.delta", "public", "public"),
    ("privacy.delta_below_one_over_n", "sizes", "sizes"),
    ("privacy.max_grad_norm", "public", "public"),
    ("privacy.mechanism.clip", "public", "public"),
    ("privacy.mechanism.clip_note", "public", "public"),
    ("privacy.mechanism.sensitivity", "public", "public"),
    ("privacy.mechanism.noise_by", "public", "public"),
    ("privacy.calibration", "public", "public"),
    ("privacy.epsilon_target", "public", "public"),
    ("privacy.epsilon_max.*", "sizes", "sizes"),
    ("privacy.num_clients", "public", "public"),
    ("privacy.largest.epsilon.*", "sizes", "sizes"),
    ("privacy.largest.replace_one", "sizes", "sizes"),
    ("privacy.largest.one_row", "sizes", "sizes"),
    ("privacy.largest.two_units", "sizes", "sizes"),
    ("privacy.largest.three_units", "sizes", "sizes"),
    ("privacy.largest.no_amplification", "sizes", "sizes"),
    ("privacy.tuning.*", "sizes", "sizes"),
    ("privacy.covered", "public", "public"),
    ("privacy.noise.*", "public", "public"),
    ("privacy.outside", "public", "public"),
    ("config.paths", "never", "never"),
    ("config.paths.**", "never", "never"),
    ("config.**", "public", "public"),
    # An exported folder, which is also what goes to the hub.
    ("export.schema", "public", "public"),
    ("export.ffalora", "public", "public"),
    ("export.signature", "public", "public"),
    ("export.base.*", "public", "public"),
    ("export.round", "noised", "noised"),  # the best one is chosen by the released model's scores
    ("export.chosen", "public", "public"),
    ("export.merged", "public", "public"),
    ("export.client", "public", "public"),
    ("export.rows", "sizes", "sizes"),
    ("export.tolerance", "public", "public"),
    ("export.difference", "home", "home"),  # of scores of rows that may be private ones
    ("adapter_config.**", "public", "public"),
    ("adapter.**", "noised", "noised"),
    ("file.README.md", "public", "public"),  # that it is there; card, above, is what it says
    ("file.export.json", "public", "public"),
    ("file.adapter_config.json", "public", "public"),
    ("file.adapter_model.safetensors", "noised", "noised"),
    ("file.config.json", "public", "public"),
    ("file.model.safetensors", "noised", "noised"),
    ("file.tokenizer*", "public", "public"),
    ("file.special_tokens_map.json", "public", "public"),
    ("file.added_tokens.json", "public", "public"),
    ("file.vocab.*", "public", "public"),
    ("file.merges.txt", "public", "public"),
    ("file.spiece.model", "public", "public"),
    ("file.sentencepiece.bpe.model", "public", "public"),
    ("file.chat_template.jinja", "public", "public"),
    # What a tracker adds itself. A private run's rounds are sent together at its end, so these are
    # times of the run's end (``trackers.worker``).
    ("tracker.time", "outside", "outside"),
    ("tracker.**", "public", "public"),
)
"""The first line that fits a field decides."""


@cache
def kind(field: str, unit: str) -> Kind | None:
    """Why a field may leave under a privacy unit, or that it may not; None where no line fits.

    Args:
        field: e.g. ``metrics.eval/accuracy``, ``manifest.versions.torch``, ``export.round``.
        unit: ``none``, one inside a client, or ``client``; without privacy what may leave is
            ``public``.
    """
    for pattern, inside, client in _lines():
        if pattern.fullmatch(field):
            found = client if unit == "client" else inside
            return "public" if unit == "none" and found != "never" else found
    return None


def may_leave(field: str, unit: str) -> bool:
    """Whether a field may leave the run folder."""
    return kind(field, unit) not in (None, "home", "never")


def metric_may_leave(metric: str, unit: str) -> bool:
    """Whether a metric of a round may leave; ``best/...`` goes by its own name."""
    return may_leave(f"metrics.{metric.removeprefix('best/')}", unit)


def leaving(tree: Mapping[str, Any], name: str, unit: str) -> dict[str, Any]:
    """The part of nested values that may leave.

    Args:
        tree: e.g. a manifest.
        name: what the list calls it, e.g. ``manifest``.
        unit: of privacy.
    """
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        field = f"{name}.{key}"
        inner = leaving(value, field, unit) if isinstance(value, Mapping) and value else None
        if inner or may_leave(field, unit):
            kept[key] = value if inner is None else inner
    return kept


def released(run: RunRecords) -> RunRecords:
    """A run as others may see it: of its records what may leave, times to the minute.

    Everything made to be shared is made from this; ``config`` stays whole and is written by
    ``trackers.base`` and ``export.model_card`` without folders of this machine.
    """
    unit = str(run.config["privacy"]["unit"])
    if unit == "none":
        return replace(run, manifest=leaving(run.manifest, "manifest", unit))
    manifest = leaving(run.manifest, "manifest", unit)
    if manifest.get("created"):
        manifest["created"] = to_minute(manifest["created"])
    return replace(
        run,
        manifest=manifest,
        rounds=tuple(RoundRecord(r.round, _metrics(r.metrics, unit)) for r in run.rounds),
        privacy=None if run.privacy is None else leaving(run.privacy, "privacy", unit),
        summary=None if run.summary is None else released_summary(run.summary, unit),
        failure=None,
    )


def released_summary(summary: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """What of a summary may leave; of a headline that stays at home no value does."""
    if unit == "none":
        return dict(summary)
    kept = leaving(summary, "summary", unit)
    if "seconds" in kept:
        kept["seconds"] = 60.0 * round(kept["seconds"] / 60.0)
    if "ended" in kept:
        kept["ended"] = to_minute(kept["ended"])
    headline = summary.get("headline")
    if headline is not None and not metric_may_leave(str(headline), unit):
        kept.pop("value", None)
        kept.pop("best", None)
    for part in ("initial", "final"):
        if part in summary:
            kept[part] = _metrics(summary[part], unit)
    return kept


def to_minute(time: str) -> str:
    """An ISO time without its seconds."""
    return datetime.fromisoformat(time).replace(second=0, microsecond=0).isoformat()


def _metrics(metrics: Mapping[str, float], unit: str) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if metric_may_leave(key, unit)}


@cache
def _lines() -> tuple[tuple[re.Pattern[str], Kind, Kind], ...]:
    return tuple((_pattern(line), inside, client) for line, inside, client in LINES)


def _pattern(line: str) -> re.Pattern[str]:
    """``*`` is anything but a dot, ``**`` is anything; ``file.*`` names keep their dots."""
    dot = "." if line.startswith("file.") else "[^.]"
    parts = re.split(r"(\*\*?)", line)
    words = {"*": f"{dot}*", "**": ".*"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def without_folder(override: str) -> str:
    """A word of a command as others may see it: without a folder of one machine."""
    key, given, value = override.partition("=")
    if not given:
        return "FOLDER" if key.startswith(("/", "~")) else key
    own = key.lstrip("+").startswith("paths.") or value.startswith((".", "/", "~"))
    return f"{key}=FOLDER" if own else override
