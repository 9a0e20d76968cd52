"""Refuses values that do not go together: one function a group, one sentence a refusal.

Every refusal names a key, what is wrong with it, and one remedy. Nothing heavy is read: rules that
need the data (fewer rows than clients, delta against n) stand where the data is.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Set
from operator import attrgetter
from pathlib import Path
from typing import Any

from ffalora_cli.config.arrivals import check_arrivals
from ffalora_cli.config.errors import ConfigError, brief, choose, require
from ffalora_cli.config.own_rows import refuse_rows
from ffalora_cli.config.partition_rules import check_partition
from ffalora_cli.config.privacy_rules import check_privacy
from ffalora_cli.config.schema import QUANTISED, Config
from ffalora_cli.config.secrets import held
from ffalora_cli.config.splits import evaluated_splits

NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")
_WHOLE = "1 or more"
_SHARE = "at least 0, below 1"
_SERVER = "federation.server_optimizer"
_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "seed adapter.seed head.seed partition.seed",
        lambda v: 0 <= v < 2**64,
        "0 or more and below 2^64: it is sent as 8 bytes",
    ),
    ("task.max_length", lambda v: v >= 4, "4 or more tokens"),
    ("task.image_size", lambda v: v >= 8, "8 or more pixels, or null for the model's own"),
    ("adapter.rank partition.min_client_size partition.max_tries", lambda v: v >= 1, _WHOLE),
    ("federation.rounds federation.local_steps", lambda v: v >= 1, _WHOLE),
    ("federation.local_batch_size federation.eval_every", lambda v: v >= 1, _WHOLE),
    ("evaluation.max_examples", lambda v: v >= 1, f"{_WHOLE}, or null for all"),
    ("federation.cohort_size", lambda v: v >= 1, f"{_WHOLE}, or null for everybody"),
    ("engine.threads", lambda v: v >= 1, f"{_WHOLE}, or null"),
    ("federation.budget_megabytes", lambda v: v > 0, "above 0, or null for none"),
    ("head.scale", lambda v: v > 0, "above 0 (a zero head passes no gradient)"),
    ("adapter.alpha federation.local_lr", lambda v: v > 0, "above 0"),
    (f"{_SERVER}.lr {_SERVER}.tau", lambda v: v > 0, "above 0"),
    ("federation.local_weight_decay federation.warmup_rounds", lambda v: v >= 0, "0 or more"),
    ("adapter.dropout federation.local_momentum", lambda v: 0 <= v < 1, _SHARE),
    (f"{_SERVER}.momentum {_SERVER}.beta2", lambda v: 0 <= v < 1, _SHARE),
    ("federation.dropout_rate federation.straggler_rate", lambda v: 0 <= v < 1, _SHARE),
    ("federation.clip_gradients", lambda v: v > 0, "above 0 (1 is usual), or null for no clip"),
    ("model.dropout", lambda v: v == "own" or 0 < v < 1, "own, a rate between 0 and 1, or null"),
    ("federation.lr_end", lambda v: 0 <= v <= 1, "a share of federation.local_lr, 0 to 1"),
)
"""Keys, which values each may have, in words; null is judged elsewhere."""
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check(
    config: Config,
    *,
    units: Set[str],
    refusal: str = "",
    needs_plain_averaging: bool = False,
    linear: bool = True,
) -> None:
    """Refuse impossible combinations before any heavy work.

    Args:
        config: from ``build``.
        units: privacy units the chosen method allows (its declaration; this room reads no method).
        refusal: why it allows no others, printed when one is asked for.
        needs_plain_averaging: whether the method excludes server optimisers.
        linear: whether its result is linear in the uploads (robust combination needs that).

    Raises:
        ConfigError: the first rule that does not hold.
    """
    for rule in (_top, _ranges, _task, _adapter, _partition, _federation):
        rule(config)
    _method(config, units, refusal, linear)
    check_privacy(config)
    _engine(config)
    _diagnostics(config)
    check_arrivals(config, linear)
    if needs_plain_averaging:
        _plain_averaging(config)


def _method(config: Config, units: Set[str], refusal: str, linear: bool) -> None:
    """Refuse a privacy unit that the method's guarantee does not cover."""
    local = config.privacy.unit == "client" and config.privacy.client_noise == "local"
    if config.privacy.unit not in units and not local:  # noised uploads: whatever the server does
        raise ConfigError(
            f"privacy.unit={config.privacy.unit}, method={config.method.name}: "
            f"{refusal or 'its guarantee does not cover it'}; use privacy={_private(units)}"
        )
    if config.privacy.unit == "client" and not (linear or local):
        raise ConfigError(
            f"privacy.unit=client: method={config.method.name} reads single uploads, and central "
            "noise is on their sum alone; set privacy.client_noise=local"
        )


def _plain_averaging(config: Config) -> None:
    """Refuse a server optimiser: of its keys, those that are at fault are named."""
    plain = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
    wrong = {k: v for k, v in plain.items() if getattr(config.federation.server_optimizer, k) != v}
    if wrong:
        given = " ".join(f"{_SERVER}.{k}={attrgetter(f'{_SERVER}.{k}')(config)}" for k in wrong)
        wanted = " ".join(f"{_SERVER}.{k}={v}" for k, v in wrong.items())
        raise ConfigError(
            f"{given}: method={config.method.name} needs the uploads' plain mean; set {wanted}"
        )


def refuse_secrets(plain: Mapping[str, Any]) -> None:
    """Refuse a configuration that holds a secret of the environment, in a key or in a value.

    It would end up in ``config.yaml``, the manifest and the tracker.

    Raises:
        ConfigError: names the key and the variable, not the value.
    """
    if found := held(plain):
        key, variable = found
        raise ConfigError(
            f"{key or 'a key'} holds the value of ${variable}, and it would end up in the "
            "records; leave it out: the libraries read the environment themselves"
        )


def is_path(text: str) -> bool:
    """Whether any file system could have a path of this length and with these characters."""
    return "\0" not in text and len(text) <= 3000 and all(len(p) <= 255 for p in text.split("/"))


def _top(config: Config) -> None:
    _inside("task.name", config.task.name)  # the run's name is made of both
    _inside("model.name", config.model.name)
    _inside("name", config.name)
    for key, text in (
        ("paths.data", config.paths.data),
        ("paths.runs", config.paths.runs),
        ("paths.cache", config.paths.cache),
        ("model.source", config.model.source),
    ):
        if text is not None and not is_path(text):
            raise ConfigError(f"{key}={brief(text)} is too long for a path; give a shorter one")
        if text is not None and text[:1] == "~" == os.path.expanduser(text)[:1]:
            raise ConfigError(f"{key}={brief(text)}: no such user; write the whole path")
    data = config.paths.data
    if data is not None and not os.path.isdir(os.path.expanduser(data)):
        refuse_rows(f"paths.data={data}", data)
        raise ConfigError(
            f"paths.data={brief(data, 80)} is not a folder; give the folder that holds "
            f"{config.task.name}/, or null for packaged data, cache and hub"
        )
    for key, path in (("paths.runs", config.paths.runs), ("paths.cache", config.paths.cache)):
        if path is not None and _is_blocked(path):
            raise ConfigError(f"{key}={brief(path, 80)} is a file or in one; give a folder")
    if not config.paths.runs:
        raise ConfigError("paths.runs is empty; give a folder, as in paths.runs=runs")


def _ranges(config: Config) -> None:
    for keys, fits, wanted in _RANGES:
        for key in keys.split():
            value = attrgetter(key)(config)
            require(key, value, value is None or fits(value), wanted)


def _is_blocked(path: str) -> bool:
    """Whether a folder cannot be there because a file or device is."""
    whole = Path(path).expanduser()
    return any(os.path.exists(p) and not os.path.isdir(p) for p in (whole, *whole.parents))


def _inside(key: str, text: str) -> None:
    """Refuse what is joined to a folder and would lead out of it."""
    if not NAME.fullmatch(text) or set(text) == {"."}:
        raise ConfigError(
            f"{key}={brief(text)} cannot name a folder or file; "
            f"use 1 to 80 letters, digits, . _ -, as in {_plain_name(text)!r}"
        )


def _plain_name(text: str) -> str:
    """The nearest text that can name a folder: accents dropped, the rest underscores."""
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", ascii_only).strip("._")[:20] or "mine"


def _package(key: str, text: str) -> None:
    """Refuse what is no top package and a folder in it: looking for ``a.b`` would import ``a``."""
    module, _, folder = text.partition("/")
    if not module.isidentifier() or ".." in folder.split("/"):
        raise ConfigError(
            f"{key}={brief(text)} should be an installed package and a folder in it, as in bbc/rows"
        )


def _task(config: Config) -> None:
    task = config.task
    for split, stem in task.splits.items():
        _inside(f"task.splits.{brief(split)[1:-1]}", stem)
    if task.package is not None:
        _package("task.package", task.package)
    if config.model.source.startswith("package:"):
        _package("model.source", config.model.source.removeprefix("package:"))
    evaluated_splits(task)


def _adapter(config: Config) -> None:
    adapter = config.adapter
    if adapter.targets not in config.model.targets:
        raise choose("adapter.targets", adapter.targets, config.model.targets)
    if not config.model.targets[adapter.targets]:
        raise ConfigError(f"model.targets.{adapter.targets} is empty; name at least one layer")
    layers = adapter.layers
    least = min(layers, default=-1) + 1 if isinstance(layers, tuple) else layers
    require(
        "adapter.layers",
        list(layers) if isinstance(layers, tuple) else layers,
        least is None or least >= 1,
        "the last so many layers (1 or more), numbers of layers from 0, or null for all",
    )


def _partition(config: Config) -> None:
    partition = config.partition
    check_partition(
        partition,
        config.federation.num_clients,
        len(config.task.classes),
        has_owners=config.task.client_column is not None,
    )
    column = config.task.unit_column
    together = ("text", "row", *([column] if column else []))
    if partition.keep_together not in together:
        raise choose("partition.keep_together", partition.keep_together, together)


def _federation(config: Config) -> None:
    federation = config.federation
    size, clients = federation.cohort_size, federation.num_clients
    scheme = federation.cohort_sampling
    if size is not None and clients is not None and size > clients:
        raise ConfigError(
            f"federation.cohort_size={size} exceeds federation.num_clients={clients}; "
            "lower it, or null for everybody"
        )
    if scheme == "full" and size not in (None, clients):
        raise ConfigError(
            f"federation.cohort_size={size} contradicts federation.cohort_sampling=full; "
            "use federation.cohort_sampling=poisson or fixed, or federation.cohort_size=null"
        )
    if scheme != "full" and size is None:
        raise ConfigError(
            f"federation.cohort_size is null, and federation.cohort_sampling={scheme} needs a "
            f"number; set federation.cohort_size={max(1, (clients or 2) // 2)}, say, or "
            "federation.cohort_sampling=full"
        )
    if federation.warmup_rounds >= federation.rounds:
        raise ConfigError(
            f"federation.warmup_rounds={federation.warmup_rounds} leaves none of federation.rounds="
            f"{federation.rounds} at the full rate; set federation.warmup_rounds="
            f"{federation.rounds - 1} or less"
        )
    if federation.lr_schedule == "constant" and federation.lr_end:
        raise ConfigError(
            f"federation.lr_end={federation.lr_end:g} has no effect with federation.lr_schedule="
            "constant; use federation.lr_schedule=cosine or linear, or federation.lr_end=0"
        )


def check_precision(precision: str, device: str) -> None:
    """Refuse TF32 without a GPU.

    Args:
        precision: ``engine.precision``.
        device: ``engine.device``, or what ``auto`` has turned out to be.

    Raises:
        ConfigError: it would change nothing.
    """
    if precision == "tf32" and device == "cpu":
        raise ConfigError(
            "engine.precision=tf32 is a GPU's, and this run is on the CPU; "
            "use engine.precision=fp32 (or bf16)"
        )


def _engine(config: Config) -> None:
    engine = config.engine
    if not _DEVICE.fullmatch(engine.device):
        raise ConfigError(
            f"engine.device={brief(engine.device)} is not one of auto, cpu, cuda, cuda:0, ...; "
            "auto takes a GPU when there is one"
        )
    check_precision(engine.precision, engine.device)
    if engine.precision in QUANTISED and (engine.name != "stacked" or engine.shard):
        what = "engine.shard=true" if engine.shard else f"engine.name={engine.name}"
        raise ConfigError(
            f"engine.precision={engine.precision}: {what} reads the weights themselves; use "
            "engine=stacked without sharding, or engine.precision=bf16"
        )
    if engine.max_tokens is not None and engine.max_tokens < config.task.max_length:
        raise ConfigError(
            f"engine.max_tokens={engine.max_tokens} cannot hold one row of task.max_length="
            f"{config.task.max_length}; raise it, or null for automatic"
        )
    for key in ("gradient_checkpointing", "shard"):
        if engine.name != "stacked" and getattr(engine, key):
            raise ConfigError(
                f"engine.{key}=true: engine.name={engine.name} does not do that; use engine=stacked"
            )
    if not config.tracking.project:
        raise ConfigError("tracking.project is empty; name a project, as in ffalora")


def _diagnostics(config: Config) -> None:
    privacy = config.privacy
    released = privacy.unit != "client" or privacy.client_noise == "local"
    if config.diagnostics == "mechanism" and not released:
        raise ConfigError(
            "diagnostics=mechanism reads single uploads, and with privacy.unit=client only their "
            "noised sum is released; set diagnostics=none, or privacy.client_noise=local"
        )


def _private(units: Set[str]) -> str:
    """The groups of ``configs/privacy`` that a person would choose of these units."""
    return " or ".join(word for word in ("client", "text") if word in units) or "none"
