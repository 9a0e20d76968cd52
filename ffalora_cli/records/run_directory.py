"""Writes and reads the folder of a run.

| file                  | when          | holds                                                  |
| --------------------- | ------------- | ------------------------------------------------------ |
| manifest.json         | first         | where the numbers come from (``manifest.py``)          |
| config.yaml           | first         | the resolved config                                    |
| label_counts.json     | first         | rows of each label at each client; stays here          |
| rounds.jsonl          | every round   | one RoundRecord a line                                 |
| communication.jsonl   | every round   | ledger rows                                            |
| privacy_ledger.jsonl  | before a round| what it costs each client (``privacy/ledger.py``)      |
| ckpt/                 | every round   | what a resume needs (``checkpoint.py``)                |
| generated.jsonl       | where due     | the last generated answers, a line each; stays here    |
| privacy.json          | after the last| the privacy statement                                  |
| adapter.safetensors   | after the last| factors and head, with rank, alpha, base model         |
| clients.safetensors   | after the last| what stayed with the clients, if anything did          |
| summary.json          | last          | the result; its presence means that the run is finished|
| failed.json           | on a failure  | round and reason; taken away when the run goes on      |
| forks.jsonl           | when forked   | runs that began with its rounds: id, folder, round     |

These files are the truth; a tracker is a copy. NaN and infinities are stored as ``null``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job
from ffalora_cli.records.files import plain, sync_folder, to_json, to_safetensors, write_whole
from ffalora_cli.records.journal import Journal
from ffalora_cli.records.lock import FolderLock, check_unlocked
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
MANIFEST, CONFIG, PRIVACY = "manifest.json", "config.yaml", "privacy.json"
ROUNDS, COMMUNICATION = "rounds.jsonl", "communication.jsonl"
LEDGER = "privacy_ledger.jsonl"
ADAPTER, CLIENTS, SUMMARY = "adapter.safetensors", "clients.safetensors", "summary.json"
FAILED = "failed.json"
FORKS = "forks.jsonl"
GENERATED = "generated.jsonl"
LABEL_COUNTS = "label_counts.json"  # an exported folder's labels.json says names, and may leave
_WHOLE = (MANIFEST, CONFIG, LABEL_COUNTS, PRIVACY, ADAPTER, CLIENTS, SUMMARY, FAILED, GENERATED)

_WORD = re.compile(r"[A-Za-z0-9._-]{1,80}")
_MAX_FOLDER = 120  # a W&B run id, which is the folder's name, has at most 128 characters


def round_lines(record: RoundRecord, rows: Iterable[Any] = ()) -> dict[str, bytes]:
    """What a round adds to its files, by file name: one record, and its ledger rows if any.

    Args:
        record: of the round.
        rows: of the communication ledger, mappings or dataclasses.
    """
    version = {"schema_version": SCHEMA_VERSION}
    ledger = b"".join(to_json({**version, **plain(row)}) for row in rows)
    return {COMMUNICATION: ledger, ROUNDS: to_json({**version, **plain(record)})}


def open_run(
    runs: str | Path, name: str, signature: str, again: bool = False, named: bool = True
) -> RunDirectory:
    """Find the folder of a run without touching the disk.

    Args:
        runs: folder of all runs (``paths.runs``).
        name: the run's name.
        signature: of its config; equal configs have equal signatures.
        again: take a fresh folder (``-2``, ``-3``, ...) instead of one that is there.
        named: by a person; otherwise a folder of another name is taken, if its signature is this.

    Returns:
        A finished run (``.finished``), one that stopped on the way (``.begun``), or a new one; the
        latter two to be written after ``claim()``.

    Raises:
        ConfigError: for a name that does not fit a folder, a folder outside ``runs``, and a folder
            in which another process is writing.
    """
    path = run_path(runs, name, signature)
    run = open_folder(path if named or again else _of_signature(path, signature))
    copy = 1
    while again and (run.finished or run.begun):
        copy += 1
        run = open_folder(run_path(runs, name, signature, copy))
    return run


def run_path(runs: str | Path, name: str, signature: str, copy: int = 1) -> Path:
    """Where a run is, or will be; ``copy`` counts the folders of one signature.

    Raises:
        ConfigError: for a name that does not fit a folder, and a folder outside ``runs``.
    """
    for key, word in (("name", name), ("signature", signature)):
        if not _WORD.fullmatch(word):
            raise ConfigError(
                f"{key}={word!r} is not a folder name; use 1 to 80 of the letters A-Z a-z 0-9 . _ -"
            )
    root = Path(runs).expanduser()
    folder = f"{name}-{signature}" if copy == 1 else f"{name}-{signature}-{copy}"
    path = root / folder
    if len(folder) > _MAX_FOLDER:
        raise ConfigError(f"name: folder {folder[:40]}... is too long; shorten name by a few words")
    if path.resolve().parent != root.resolve():
        raise ConfigError(f"{path}: is a link to another folder; remove it or choose another name")
    return path


def open_folder(path: Path) -> RunDirectory:
    """The run in this very folder (``.finished``, ``.begun``, or new), not yet claimed.

    Raises:
        ConfigError: when another process is writing it.
    """
    if path.is_symlink():
        raise ConfigError(f"{path}: is a link to another folder; name the folder itself")
    if (path / SUMMARY).exists():
        return RunDirectory(path, finished=True)
    check_unlocked(path)
    return RunDirectory(path, begun=path.exists())


@dataclass
class RunDirectory:
    """The folder of one run, open for writing between ``claim`` and ``close``."""

    path: Path  # of the folder
    finished: bool = False  # whether it has its summary
    begun: bool = False  # whether it was there, unfinished, when it was opened
    _lock: FolderLock | None = None

    def __post_init__(self) -> None:
        self.journals = {name: Journal(self.path / name) for name in (ROUNDS, COMMUNICATION)}

    @property
    def id(self) -> str:
        """The run's id, in the local records and in trackers."""
        return self.path.name

    @property
    def note(self) -> str | None:
        """One line about a lock that was taken over, if one was."""
        return self._lock.note if self._lock is not None else None

    def claim(self) -> RunDirectory:
        """Make the folder where it is not there, and lock it.

        Raises:
            ConfigError: when it cannot be made or written, or another process is writing it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise ConfigError(
                f"paths.runs: {self.path} cannot be made or written ({error.strerror}); "
                "set paths.runs to a folder you can write to"
            ) from None
        self.finished = (self.path / SUMMARY).exists()  # by another process, meanwhile
        for name in _WHOLE:
            for unfinished in self.path.glob(f".{name}.*"):
                unfinished.unlink()  # by a crash in ``write_whole``
        for journal in self.journals.values():
            self._refuse_link(journal.path)
            journal.catch_up()
        self._refuse_link(self.path / LEDGER)
        self._refuse_link(self.path / "wandb")  # of a tracker; nothing of ours leads outside
        return self

    def _refuse_link(self, path: Path) -> None:
        """A planted link, or anything but a file or folder, would lead what is written elsewhere.

        Raises:
            ConfigError: names it. The folder is released.
        """
        if path.is_symlink() or not (path.is_file() or path.is_dir() or not path.exists()):
            self.close()
            raise ConfigError(f"{path}: is a link or a device, not a file of a run; remove it")

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder; what was written stays, and where nothing was it goes."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            with suppress(OSError):  # not empty
                self.path.rmdir()

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write ``manifest.json`` (see ``manifest.build_manifest``)."""
        write_whole(self.path / MANIFEST, to_json(manifest, indent=2))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as YAML, keys in the order given."""
        import yaml

        text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=100)
        write_whole(self.path / CONFIG, text.encode())

    def write_labels(
        self, rows: Sequence[Sequence[int]], labels: Sequence[str], names: Sequence[str] | None
    ) -> None:
        """Write training rows ``[clients, labels]``, and what labels and clients are called."""
        found = {"rows": rows, "labels": labels, "names": names}
        write_whole(self.path / LABEL_COUNTS, to_json({"schema_version": SCHEMA_VERSION, **found}))

    def write_privacy(self, statement: Mapping[str, Any]) -> None:
        """Write the privacy statement."""
        write_whole(self.path / PRIVACY, to_json(statement, indent=2))

    def write_generated(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write generated answers instead of those of an earlier round."""
        write_whole(self.path / GENERATED, b"".join(map(to_json, lines)))

    def append(self, lines: Mapping[str, bytes]) -> None:
        """Append ``round_lines`` to their files; on disk when this returns."""
        for name, text in lines.items():
            self.journals[name].append(text)

    def write_adapter(
        self,
        tensors: Mapping[str, torch.Tensor],
        rank: int,
        alpha: float,
        base_model: str,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """Write factors and head as safetensors; names, rank, alpha and base model as metadata."""
        metadata = {
            "schema_version": str(SCHEMA_VERSION),
            "format": "pt",  # what transformers and peft look for
            "names": " ".join(sorted(tensors)),
            "rank": str(rank),
            "alpha": str(alpha),
            "base_model": base_model,
            **(extra or {}),
        }
        write_whole(self.path / ADAPTER, to_safetensors(tensors, metadata))

    def write_clients(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write personal tensors as ``ClientStates.to_tensors`` gives them."""
        write_whole(self.path / CLIENTS, to_safetensors(tensors))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``: from now on the run is finished. Releases the folder."""
        write_whole(self.path / SUMMARY, to_json(summary, indent=2))
        self.finished = True
        self.close()


def run_folder(job: Job) -> Path:
    """Where the run of a job is, or will be.

    Raises:
        ConfigError: for a name that does not fit a folder.
    """
    path = job.folder or run_path(job.config.paths.runs, job.config.name, job.signature)
    return path if job.named or job.folder else _of_signature(path, job.signature)


def _of_signature(path: Path, signature: str) -> Path:
    """The folder at ``path``, else one beside it of the same signature: finished, then begun ones.

    A run is typed in several ways, and names were made in another way once.
    """
    if path.exists():
        return path
    try:
        names = _signatures(path.parent, path.parent.stat().st_mtime_ns)
    except OSError:
        return path
    others = [path.with_name(name) for name in names.get(signature, ())]
    done = [other for other in others if (other / SUMMARY).exists()]
    return next(iter((*done, *others)), path)


@lru_cache(4)
def _signatures(root: Path, changed: int) -> Mapping[str, list[str]]:
    """Names of folders by the signature they end with; ``changed`` is when any came or went."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(root)):
        found.setdefault(name.rpartition("-")[2], []).append(name)
    return found
