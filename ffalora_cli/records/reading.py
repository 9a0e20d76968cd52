"""Reads runs back from their folders, for ``show``, ``compare`` and the tests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError, brief, nearest
from ffalora_cli.config.rules import is_path
from ffalora_cli.records.files import read_json, read_json_lines, read_regular
from ffalora_cli.records.run_directory import (
    COMMUNICATION,
    CONFIG,
    GENERATED,
    LABEL_COUNTS,
    MANIFEST,
    PRIVACY,
    ROUNDS,
    SCHEMA_VERSION,
    SUMMARY,
)
from ffalora_cli.records.state import Failure, read_failure
from ffalora_cli.types import RoundRecord

_LARGEST_CONFIG, _DEEPEST = 2**20, 32  # bytes, nested sections
_OPENING = ("[", "{", "<block mapping start>", "<block sequence start>")
_ENOUGH_DIGITS = 4  # of a signature, to mean it


@dataclass(frozen=True)
class RunRecords:
    """What one run left on disk."""

    path: Path
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]  # metrics stored as null come back as NaN
    privacy: Mapping[str, Any] | None
    summary: Mapping[str, Any] | None  # None: the run did not finish
    cut_short: bool  # an incomplete last line of rounds.jsonl was left out
    failure: Failure | None = None  # why it did not go on; None: it is done, or can go on

    @property
    def finished(self) -> bool:
        """Whether the run ended as it should."""
        return self.summary is not None

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Rounds in which a metric was recorded, and its values."""
        points = [(r.round, r.metrics[metric]) for r in self.rounds if metric in r.metrics]
        return [number for number, _ in points], [value for _, value in points]


@dataclass(frozen=True)
class Labels:
    """How a run's training rows were dealt."""

    rows: tuple[tuple[int, ...], ...]  # [clients, labels]
    labels: tuple[str, ...]  # one that says nothing, where a task has none
    names: tuple[str, ...] | None  # of the clients, where the data names them

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each client."""
        return tuple(map(sum, self.rows))


def read_run(path: str | Path) -> RunRecords:
    """Read a run's folder, finished or not.

    Raises:
        ConfigError: when it is not a run, is damaged (more than a half last line), or was written
            by a newer schema.
    """
    folder = Path(path)
    manifest = _versioned(folder / MANIFEST, read_json(folder / MANIFEST))
    lines, cut_short = read_json_lines(folder / ROUNDS)
    summary, privacy = folder / SUMMARY, folder / PRIVACY
    return RunRecords(
        path=folder,
        manifest=manifest,
        config=read_config(folder),
        rounds=tuple(_round(folder / ROUNDS, line) for line in lines),
        privacy=read_json(privacy) if privacy.exists() else None,
        summary=_versioned(summary, read_json(summary)) if summary.exists() else None,
        cut_short=cut_short,
        failure=None if summary.exists() else read_failure(folder),
    )


def read_communication(path: str | Path) -> list[dict[str, Any]]:
    """The ledger rows of a run, in the order they were written."""
    file = Path(path) / COMMUNICATION
    return [_versioned(file, row) for row in read_json_lines(file)[0]]


def read_labels(path: str | Path) -> Labels | None:
    """The label table of a run; None of one that is older than the record."""
    file = Path(path) / LABEL_COUNTS
    if not file.exists():
        return None
    found = _versioned(file, read_json(file))
    try:
        rows = tuple(tuple(map(int, row)) for row in found["rows"])
        names = None if found["names"] is None else tuple(map(str, found["names"]))
        return Labels(rows, tuple(map(str, found["labels"])), names)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{file}: not a label table; run the experiment again") from None


def read_generated(path: str | Path) -> list[dict[str, Any]]:
    """The last generated answers of a run.

    Raises:
        ConfigError: it has none.
    """
    file = Path(path) / GENERATED
    if not file.exists():
        raise ConfigError(
            f"{path}: no answers were generated; a language model's task does it where "
            "task.generate.rows is set"
        )
    return read_json_lines(file)[0]


def find_runs(runs: str | Path) -> list[Path]:
    """Folders of all runs below ``runs``, by name."""
    root = Path(os.path.expanduser(runs))
    if not is_path(str(root)) or not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if (folder / MANIFEST).is_file())


def find_run(runs: str | Path, run: str, newest: Callable[[str], None] | None = None) -> Path:
    """The folder meant by ``run``: a path, or a beginning of a name or signature.

    Args:
        runs: folder of all runs.
        run: as typed; a whole name or signature is no beginning of another one.
        newest: for who only reads: where several match it is told so, and the newest is taken.

    Raises:
        ConfigError: when none matches, which names the nearest; when several do and ``newest`` is
            None, which names them.
    """
    if is_path(run) and (Path(run) / MANIFEST).is_file():
        return Path(run)
    names = {folder.name: folder for folder in find_runs(runs)}
    if run in names:
        return names[run]
    whole = [name for name in names if run and _is_whole(name, run)]
    begun = whole or [name for name in names if run and name.startswith(run)]
    matches = sorted(begun or signed(names, run), key=lambda name: _age(names[name]), reverse=True)
    if len(matches) > 1:
        several = f"{brief(run, 100)} matches {len(matches)} runs"
        if newest is None:
            some = ", ".join(matches[:3]) + (", ..." if len(matches) > 3 else "")
            raise ConfigError(f"{several}, newest first: {some}; type more of one, or its end")
        newest(f"{several}; this is the newest, {matches[0]}")
    if matches:
        return names[matches[0]]
    hint = nearest(run, names)
    remedy = f"did you mean {hint!r}?" if hint else f"look into {brief(str(runs))} (paths.runs)"
    raise ConfigError(f"run {brief(run, 100)} was not found; {remedy}")


def _is_whole(folder: str, text: str) -> bool:
    """Whether it is all of the name or all of the signature in the name of a folder."""
    name, _, signature = folder.rpartition("-")
    return text == name or (text == signature and len(text) >= _ENOUGH_DIGITS)


def _age(folder: Path) -> tuple[str, int]:
    """Sorts runs by when they began; those of one second by their files."""
    manifest = folder / MANIFEST
    return str(read_json(manifest).get("created") or ""), manifest.stat().st_mtime_ns


def signed(names: Iterable[str], text: str) -> list[str]:
    """Folders ``<name>-<signature>[-<copy>]`` whose signature begins with ``text``, 4 digits."""
    if len(text) < _ENOUGH_DIGITS:
        return []
    pattern = re.compile(rf".*-{re.escape(text)}[0-9a-f]*(-\d+)?")
    return [name for name in names if pattern.fullmatch(name)]


def _versioned(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    version = content.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise ConfigError(
            f"{file}: schema_version {version!r}, this ffalora reads up to {SCHEMA_VERSION}; "
            "upgrade ffalora"
        )
    return content


def _round(file: Path, line: dict[str, Any]) -> RoundRecord:
    _versioned(file, line)
    try:
        metrics = {key: _number(value) for key, value in line["metrics"].items()}
        clients, rejected = (_objects(line.get(key, ())) for key in ("clients", "rejected"))
        return RoundRecord(int(line["round"]), metrics, clients, rejected)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ConfigError(f"{file}: not a round record; run the experiment again") from None


def _objects(values: Any) -> tuple[dict[str, Any], ...]:
    if not all(isinstance(value, dict) for value in values):
        raise ValueError("not objects")
    return tuple(values)


def _number(value: Any) -> float:
    """As it was recorded, so that a resumed run sums up the same numbers; null is NaN."""
    if value is None:
        return float("nan")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("not a number")


def _loader() -> Any:
    """PyYAML's safe loader, in C where it was built with it: the same values in a seventh."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_yaml(text: str) -> None:
    """Refuse references, which unfold without end, and a depth that only a forger needs."""
    import yaml

    depth = 0
    # Lazily: a nest is left before it costs anything.
    for token in yaml.scan(text, _loader()):
        opens, closes = token.id in _OPENING, token.id in ("]", "}", "<block end>")
        depth += opens - closes
        if depth > _DEEPEST or isinstance(token, yaml.AliasToken):
            raise ValueError("no config of ours")


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run, as it is in the folder.

    Raises:
        ConfigError: when it is missing or damaged.
    """
    import yaml

    file = folder / CONFIG
    try:
        text = read_regular(file, _LARGEST_CONFIG).decode()
        _check_yaml(text)
        config = _loader()(text).get_single_data()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); is this a run?") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise ConfigError(f"{file}: damaged, not YAML; run the experiment again") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: damaged, not a mapping; run the experiment again")
    return config
