"""Lists what of a run may leave its folder; read by card, page, trackers, exports and hub.

In a private run nothing may leave that is a function of private rows without noise: no hash, no
count, no label, no time of a single round. A field that no line names does not leave, whatever the
run; ``ffalora audit --tier release`` removes and changes a unit and looks at everything that does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Literal

from ffalora_cli.metric_keys import (
    CLIP,
    EPSILON,
    LEARNING_RATE,
    UNCLIPPED,
    evaluated,
    own_labels,
    personalized,
)
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.types import RoundRecord

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

_PUBLIC = {
    "summary": "schema_version status headline",
    "manifest": (  # the signature is of the configuration alone
        "schema_version id signature command seeds.* ffalora numerics python versions.* git git.* "
        "platform device threads max_tokens padding trainable_parameters frozen_parameters "
        "model_fingerprint model.* forked_from forked_from.id forked_from.signature "
        "forked_from.round data.eval_on data.version data.evals.* data.evals.*.fingerprint "
        "data_fingerprints.*"
    ),
    "privacy": (
        "schema unit protects relation sampling sampling_note accountant library delta "
        "max_grad_norm mechanism.clip mechanism.clip_note mechanism.sensitivity "
        "mechanism.noise_by calibration epsilon_target participation participation.* num_clients "
        "covered noise.* outside"
    ),
    "config": "**",
    # An exported folder, which is also what goes to the hub.
    "export": "schema ffalora signature base.* chosen merged client tolerance sized",
    "adapter_config": "**",
    "file": (  # that README.md is there; card, in the release audit, is what it says
        "README.md export.json adapter_config.json labels.json config.json tokenizer* "
        "special_tokens_map.json "
        "added_tokens.json vocab.* merges.txt spiece.model sentencepiece.bpe.model "
        "chat_template.jinja generation_config.json preprocessor_config.json "
        "model.safetensors.index.json"
    ),
    "tracker": "**",  # what a tracker adds itself
}
_SIZES = {
    "privacy": (
        "sentence delta_below_one_over_n epsilon_max.* largest.epsilon.* largest.replace_one "
        "largest.one_row largest.two_units largest.three_units largest.no_amplification tuning.*"
    ),
    "summary": "rounds",  # a budget may end a run early
    "export": "rows",
}


def _each(kind: Kind, names: Mapping[str, str]) -> Iterator[tuple[str, Kind, Kind]]:
    """Lines of fields that are of one kind at every unit; names by what they stand in."""
    return ((f"{tree}.{one}", kind, kind) for tree, all_ in names.items() for one in all_.split())


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
    # Of uploads where these are released, of global tensors and of the planned noise.
    ("metrics.mechanism/**", "noised", "noised"),
    # A round's seconds follow from the rows that were drawn and from their lengths.
    ("metrics.time/*", "home", "home"),
    (f"metrics.{LEARNING_RATE}", "public", "public"),  # of the configuration alone
    ("metrics.train/*", "home", "home"),  # loss, clipped share, counts
    ("metrics.engine/*", "home", "home"),  # padding tells the drawn lengths
    ("metrics.*", "home", "home"),
    *_each(  # may be folders
        "never", {"config": "paths paths.** model.cache task.folder", "manifest": "model.source"}
    ),
    # A hold-out is cut from the training rows, and its fingerprint made from theirs. The difference
    # of an export is of scores of rows that may be private ones.
    *_each(
        "home",
        {
            "manifest": "data.evals.holdout.fingerprint data_fingerprints.train "
            "data_fingerprints.holdout identity.data.clients",
            "labels": "rows labels names",
            "export": "difference",
        },
    ),
    # A private run's rounds are sent together at its end, so a tracker's times are of that end
    # (``trackers.worker``); those of a summary are to the minute.
    *_each("outside", {"summary": "ended seconds", "manifest": "created", "tracker": "time"}),
    # Not the value of a headline that stays at home; an exported round is the best one by the
    # released model's scores.
    *_each("noised", {"summary": "value best.*", "export": "round", "adapter": "**"}),
    *_each("noised", {"file": "adapter_model.safetensors model*.safetensors"}),
    *_each("sizes", _SIZES),
    *_each("public", _PUBLIC),
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
    manifest = released_manifest(run.manifest, unit)
    if unit == "none":
        return replace(run, manifest=manifest)
    return replace(
        run,
        manifest=manifest,
        rounds=tuple(RoundRecord(r.round, _metrics(r.metrics, unit)) for r in run.rounds),
        privacy=None if run.privacy is None else leaving(run.privacy, "privacy", unit),
        summary=None if run.summary is None else released_summary(run.summary, unit),
        failure=None,
    )


def released_manifest(manifest: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """What of a manifest may leave."""
    kept = leaving(manifest, "manifest", unit)
    if unit != "none" and kept.get("created"):
        kept["created"] = _to_minute(kept["created"])
    return kept


def released_summary(summary: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """What of a summary may leave; of a headline that stays at home no value does."""
    if unit == "none":
        return dict(summary)
    kept = leaving(summary, "summary", unit)
    if "seconds" in kept:
        kept["seconds"] = 60.0 * round(kept["seconds"] / 60.0)
    if "ended" in kept:
        kept["ended"] = _to_minute(kept["ended"])
    headline = summary.get("headline")
    if headline is not None and not metric_may_leave(str(headline), unit):
        kept.pop("value", None)
        kept.pop("best", None)
    for part in ("initial", "final"):
        if part in summary:
            kept[part] = _metrics(summary[part], unit)
    return kept


def _to_minute(time: str) -> str:
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
    own = key.lstrip("+").startswith(("paths.", "task.folder")) or value.startswith((".", "/", "~"))
    return f"{key}=FOLDER" if own else override
