"""Finds what runs differ in: settings, which make rows, and all else that a reader should know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TEXT_CLASSIFICATION
from ffalora_cli.config.signature import relevant
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.names import PAPER, Names
from ffalora_cli.report.runs.selection import GROUP_KEYS, spelled, typed, value_at, values_of
from ffalora_cli.tasks.registry import get as kind_of_task

_Item = TypeVar("_Item")
_Key = TypeVar("_Key")

_SEEDS = ("partition.seed", "adapter.seed", "head.seed")  # follow ``seed`` unless set
_FIRST = (
    "task", "model", "method", "partition", "privacy.epsilon_target", "privacy.unit",
    "partition.dirichlet_alpha",
)  # fmt: skip
"""Keys that name a choice, in the order they become columns."""

_FOLLOWERS = ("task.", "model.", "method.", "partition.", "privacy.", "head.")
_FOLLOWING_KEYS = ("federation.local_lr",)
"""Where a choice of a group brings values along: shown apart when the columns determine them."""


@dataclass(frozen=True)
class Split:
    """How runs fall into rows.

    Attributes:
        columns: keys whose values make a row: those asked for (else those that differ), further.
        further: columns nobody asked for; without them a mean would be none over seeds.
        seeds: other seeds that differ; a row may have several of each.
        following: keys whose values the columns determine.
    """

    columns: tuple[str, ...]
    further: tuple[str, ...]
    seeds: tuple[str, ...]
    following: tuple[str, ...]


def split(runs: Sequence[RunRecords], by: Sequence[str], over: str) -> Split:
    """Decide which settings make rows.

    Args:
        runs: to be put side by side.
        by: keys that were asked for; none: those that differ, else the method.
        over: the key that is averaged over.

    Raises:
        ConfigError: for a key that does not exist.
    """
    found, following = differing(runs, over)
    columns = [column_of(key) for key in by] or found or ["method"]
    for key in (*columns, over):
        values_of(runs[0], key)
    further: list[str] = []
    seeds: list[str] = []
    told: list[str] = []
    for key in found:
        if key in columns:
            continue
        if determines(runs, [*columns, *further], key):
            told.append(key)
        else:
            (seeds if title(key) == "seed" else further).append(key)
    return Split((*columns, *further), tuple(further), tuple(seeds), (*told, *following))


def differing(runs: Sequence[RunRecords], over: str) -> tuple[list[str], list[str]]:
    """Keys whose values differ between runs.

    Example:
        Six runs of ``ffalora run -m method=lora,ffa_lora seed=0,1,2`` over ``seed`` give
        ``(["method"], ["federation.local_lr", "method.trained_factors"])``: the rates and factors
        are the methods' own. With ``federation.local_lr=0.3`` typed for one of them they give
        ``(["method", "federation.local_lr"], ["method.trained_factors"])``.

    Args:
        runs: to be compared.
        over: the key that is averaged over; seeds that follow it are left out with it.

    Returns:
        (keys that make columns, keys whose values those columns determine). The learning rate that
        a model recommends for a method is of the second kind; anything set by hand of the first.
    """
    by_hand = {column_of(key) for run in runs for key, _ in typed(run.manifest)}
    leaves = [
        {
            key: value
            for key, value in _leaves(relevant(run.config), "")
            if has_head(run) or not key.startswith(("head.", "method.head"))
        }
        for run in runs
    ]
    ignored = {over}
    if over == "seed":
        ignored |= {
            key
            for key in _SEEDS
            if all(value_at(run.config, key) == value_at(run.config, "seed") for run in runs)
        }
    names = sorted({key for flat in leaves for key in flat} - ignored)
    changed = [key for key in names if len({spelled(flat.get(key)) for flat in leaves}) > 1]
    keys = list(dict.fromkeys(column_of(key) for key in changed))
    keys.sort(key=lambda key: (_FIRST.index(key) if key in _FIRST else len(_FIRST), key))
    columns: list[str] = []
    following: list[str] = []
    for key in keys:
        brought = _is_brought(key) and columns and determines(runs, columns, key)
        (following if brought and key not in by_hand else columns).append(key)
    return columns, following


def carried(runs: Sequence[RunRecords], columns: Sequence[str]) -> list[str]:
    """Columns whose values the others bring along: a rate tuned by hand for each method.

    The baseline of a row differs from it in them, too.
    """
    found: list[str] = []
    for key in columns:
        rest = [column for column in columns if column != key and column not in found]
        if rest and _is_brought(key) and determines(runs, rest, key):
            found.append(key)
    return found


def determines(runs: Sequence[RunRecords], columns: Sequence[str], key: str) -> bool:
    """Whether runs that agree in the columns agree in the key."""
    rows = grouped(runs, lambda run: row_of(run, columns))
    return all(len({setting(run, key) for run in same}) == 1 for same in rows.values())


def said_of(
    runs: Sequence[RunRecords], columns: Sequence[str], key: str, names: Names = PAPER
) -> str:
    """``federation.local_lr: 0.05 (LoRA), 0.5 (FFA-LoRA)``: the values of a determined key."""
    for column in columns:  # the first column that determines it alone says it shortest
        if determines(runs, [column], key):
            columns = [column]
            break
    said = []
    for value, having in grouped(runs, lambda run: setting(run, key)).items():
        rows = dict.fromkeys(
            "/".join(map(names.value, columns, row_of(run, columns))) for run in having
        )
        said.append(f"{value} ({' '.join(rows)})")
    return f"{key}: {', '.join(said).replace('null', 'none')}"


def grouped(items: Iterable[_Item], of: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Items by what they have in common, in the order of the first of each."""
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(of(item), []).append(item)
    return groups


def row_of(run: RunRecords, columns: Sequence[str]) -> tuple[str, ...]:
    """What a run has under each of some keys."""
    return tuple(setting(run, key) for key in columns)


def setting(run: RunRecords, key: str) -> str:
    """What a run has under a ``--by`` key, as it is typed; a group's key is its name."""
    if key == "privacy" and run.privacy is None:
        return "none"
    values = values_of(run, key)
    if key == "tag":
        return ",".join(map(str, values)) or "-"
    return spelled(values[0]) if values else "-"


def column_of(key: str) -> str:
    """A key as a column: ``method`` for ``method.name``, ``partition`` for both of its names."""
    names = {dotted: group for group, dotted in GROUP_KEYS.items() if group != "privacy"}
    names |= {"partition.name": "partition", "partition.label_mix": "partition"}
    return names.get(key, key)


def title(key: str) -> str:
    """The last word of a key, which is what people call it: ``epsilon_target``, ``rank``."""
    return key.rsplit(".", 1)[-1]


def _is_brought(key: str) -> bool:
    return key.startswith(_FOLLOWERS) or key in _FOLLOWING_KEYS


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@dataclass(frozen=True)
class Aspect:
    """Something that runs should have in common.

    Attributes:
        name: in the plural, as a sentence says it.
        of: its value for a run; None where it does not apply.
        why: what is wrong with comparing runs that differ in it.
    """

    name: str
    of: Callable[[RunRecords], str | None]
    why: str


def scored_split(run: RunRecords) -> tuple[str | None, Mapping[str, Any]]:
    """Name and facts of the split that the headline is computed on, which is the first."""
    evals = value_at(run.manifest, "data.evals") or {}
    return next(iter(evals.items()), (None, {}))


def train_rows(run: RunRecords) -> str | None:
    """Beginning of the fingerprint of all training rows; None where none was recorded."""
    return _beginning(value_at(run.manifest, "data_fingerprints.train"))


def client_rows(run: RunRecords) -> str | None:
    """Fingerprint of which client has which rows; None where it was not recorded."""
    return _recorded("identity.data.clients")(run)


def _evaluation_rows(run: RunRecords) -> str | None:
    return _beginning(scored_split(run)[1].get("fingerprint"))


def _evaluation_split(run: RunRecords) -> str | None:
    name, _ = scored_split(run)
    return f"{name} (tune)" if name and value_at(run.manifest, "data.eval_on") == "tune" else name


def _beginning(fingerprint: object) -> str | None:
    return str(fingerprint)[:8] if fingerprint else None


def has_head(run: RunRecords) -> bool:
    """Whether the run's kind of task has a head; that of a package that is not here may have."""
    try:
        return kind_of_task(str(value_at(run.config, "task.kind") or TEXT_CLASSIFICATION)).headed
    except ConfigError:
        return True


def _private(key: str) -> Callable[[RunRecords], str | None]:
    return lambda run: None if run.privacy is None else str(run.privacy.get(key))


def _recorded(key: str) -> Callable[[RunRecords], str | None]:
    def read(run: RunRecords) -> str | None:
        found = value_at(run.manifest, key)
        return None if found is None else str(found)

    return read


MEANINGLESS = (
    Aspect("tasks", lambda run: spelled(value_at(run.config, "task.name")), "scores of"),
    Aspect(
        "task versions",
        lambda run: f"version {spelled(value_at(run.config, 'task.version'))}",
        "rows or labels changed between",
    ),
    Aspect("evaluation splits", _evaluation_split, "scores are on"),
    Aspect("evaluation rows", _evaluation_rows, "scores are on rows with fingerprints"),
)
"""Runs that differ here cannot stand in one column of scores."""

_EPSILONS = "their epsilons do not measure the same thing"
WORTH_SAYING = (
    Aspect("privacy units", _private("unit"), _EPSILONS),
    Aspect("neighbouring relations", _private("relation"), _EPSILONS),
    Aspect("samplings", _private("sampling"), _EPSILONS),
    Aspect("accountants", _private("accountant"), "one proves a smaller epsilon for equal noise"),
    Aspect(
        "heads",
        lambda run: value_at(run.config, "head.mode") if has_head(run) else None,
        "a head that is trained adds parameters, and bytes where it is sent",
    ),
    Aspect("training rows", train_rows, "they did not learn from the same rows"),
    Aspect("ffalora versions", _recorded("ffalora"), "a change of code may be behind it"),
    Aspect(
        "arithmetics",
        lambda run: f"numerics {run.manifest.get('numerics', 1)}",
        "equal settings and seeds gave other bits",
    ),
    Aspect("torch versions", _recorded("versions.torch"), "results may differ by rounding"),
    Aspect("devices", _recorded("device"), "results may differ by rounding"),
)
"""Runs that differ here may be compared, by someone who knows."""


def differences(runs: Sequence[RunRecords], aspects: Sequence[Aspect]) -> dict[Aspect, list[str]]:
    """Aspects in which runs differ, with the values there are; runs it does not apply to aside."""
    found = {}
    for aspect in aspects:
        values = sorted({value for run in runs if (value := aspect.of(run)) is not None})
        if len(values) > 1:
            found[aspect] = values
    return found


def changed_weights(runs: Sequence[RunRecords]) -> list[str]:
    """Sources of models that gave different frozen weights to different runs."""
    recorded = [run for run in runs if run.manifest.get("model_fingerprint")]
    having = grouped(recorded, lambda run: str(value_at(run.config, "model.source")))
    return sorted(
        source
        for source, own in having.items()
        if len({str(run.manifest["model_fingerprint"])[-8:] for run in own}) > 1
    )


def recorded_inputs(run: RunRecords) -> dict[str, str]:
    """Fingerprints of what a run was made from, by what a sentence calls it; no file is read."""
    rows = run.manifest.get("data_fingerprints") or {}
    found = {f"{name} rows": value for name, value in rows.items()} | {
        "clients": client_rows(run),
        "weights": run.manifest.get("model_fingerprint"),
        "model configuration or head": value_at(run.manifest, "identity.model"),
        "tokenizer": value_at(run.manifest, "identity.tokenizer"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def other_inputs(runs: Sequence[RunRecords]) -> list[str]:
    """What differs between the inputs of runs, as far as each of them recorded it."""
    inputs = [recorded_inputs(run) for run in runs]
    names = dict.fromkeys(name for own in inputs for name in own)
    return [name for name in names if len({own[name] for own in inputs if name in own}) > 1]


def once(runs: Sequence[RunRecords]) -> tuple[list[RunRecords], list[RunRecords]]:
    """Runs without repetitions, and the repetitions.

    The same signature with reproducible noise, on the same recorded inputs, is the same run.
    """
    kept: dict[object, list[RunRecords]] = {}
    repeated = []
    for run in runs:
        secure = value_at(run.config, "privacy.noise") == "secure"
        key = str(run.path) if secure and run.privacy else run.manifest.get("signature")
        same = kept.setdefault(key, [])
        if all(other_inputs([run, other]) for other in same):
            same.append(run)
        else:
            repeated.append(run)
    return [run for same in kept.values() for run in same], repeated


def pairing(run: RunRecords, over: str) -> tuple[str, ...]:
    """What two runs must share to be a pair: the key averaged over, and who has which rows.

    The first is text for the reader; the rest are fingerprints of clients and rows. Where those of
    clients were not recorded (a private run's do not leave its machine), the settings that decide
    them stand in.
    """
    clients = client_rows(run)
    if clients is None:
        keys = ("partition", "federation.num_clients", "task.holdout_seed", "task.holdout_fraction")
        clients = " ".join(spelled(value_at(run.config, key)) for key in keys)
    return (
        f"{over} {spelled(value_at(run.config, over))}",
        clients,
        str(train_rows(run)),
        str(_evaluation_rows(run)),
    )
