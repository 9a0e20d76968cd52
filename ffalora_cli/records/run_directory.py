"""One folder a run: what is written when, and how it is read back.

| file                  | when          | holds                                                  |
| --------------------- | ------------- | ------------------------------------------------------ |
| manifest.json         | first         | where the numbers come from (``manifest.py``)          |
| config.yaml           | first         | the resolved config                                    |
| rounds.jsonl          | every round   | one RoundRecord a line                                 |
| communication.jsonl   | every round   | ledger rows                                            |
| privacy.json          | after the last| the privacy statement                                  |
| adapter.safetensors   | after the last| factors and head, with rank, alpha, base model         |
| clients.safetensors   | after the last| what stayed with the clients, if anything did          |
| summary.json          | last          | the result; its presence means that the run is finished|

These files are the truth; a tracker is a mirror. NaN and infinities are stored as ``null``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.files import append, plain, sync_folder, to_json, write_whole
from ffalora_cli.records.lock import FolderLock, is_locked
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
MANIFEST, CONFIG, PRIVACY = "manifest.json", "config.yaml", "privacy.json"
ROUNDS, COMMUNICATION = "rounds.jsonl", "communication.jsonl"
ADAPTER, CLIENTS, SUMMARY = "adapter.safetensors", "clients.safetensors", "summary.json"

_WORD = re.compile(r"[A-Za-z0-9._-]{1,80}")
_MAX_FOLDER = 120  # a W&B run id, which is the folder's name, has at most 128 characters


def open_run(runs: str | Path, name: str, signature: str, again: bool = False) -> RunDirectory:
    """Find the folder of a run without touching the disk.

    Args:
        runs: folder of all runs (``paths.runs``).
        name: the run's name.
        signature: of its config; equal configs have equal signatures.
        again: take a fresh folder (``-2``, ``-3``, ...) instead of a finished one.

    Returns:
        A finished run (``.finished``), or one to be written after ``create()``. What a crash left
        behind is moved aside by ``create()``; ``.note`` says so.

    Raises:
        ConfigError: for a name that does not fit a folder, a folder outside ``runs``, and a folder
            in which another process is writing.
    """
    for key, word in (("name", name), ("signature", signature)):
        if not _WORD.fullmatch(word):
            raise ConfigError(
                f"{key}={word!r} is not a folder name; use 1 to 80 of the letters A-Z a-z 0-9 . _ -"
            )
    root = Path(runs).expanduser()
    run = _at(root, f"{name}-{signature}")
    copy = 1
    while again and run.finished:
        copy += 1
        run = _at(root, f"{name}-{signature}-{copy}")
    return run


def _at(root: Path, folder: str) -> RunDirectory:
    path = root / folder
    if len(folder) > _MAX_FOLDER:
        raise ConfigError(f"name: folder {folder[:40]}... is too long; shorten name by a few words")
    if path.resolve().parent != root.resolve():
        raise ConfigError(f"{path}: is a link to another folder; remove it or choose another name")
    if (path / SUMMARY).exists():
        return RunDirectory(path, finished=True)
    if not path.exists():
        return RunDirectory(path)
    if is_locked(path):
        raise ConfigError(f"{path}: another process is writing this run; wait for it or set name=")
    number = 1
    while (aside := root / f"{folder}.incomplete-{number}").exists():
        number += 1
    return RunDirectory(path, aside=aside)


@dataclass
class RunDirectory:
    """The folder of one run, open for writing between ``create`` and ``close``."""

    path: Path
    finished: bool = False
    aside: Path | None = None  # where an unfinished folder of this name goes
    _lock: FolderLock | None = None

    @property
    def id(self) -> str:
        """The run's id, in the local records and in trackers."""
        return self.path.name

    @property
    def note(self) -> str | None:
        """One line for the user about an unfinished run of the same config, if there is one."""
        if self.aside is None:
            return None
        return f"an unfinished run was here; its records are kept in {self.aside}"

    def create(self) -> RunDirectory:
        """Make the folder and claim it; an unfinished one of the same name is renamed first.

        Raises:
            ConfigError: when the folder cannot be made.
        """
        try:
            if self.aside is not None:
                self.path.rename(self.aside)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(
                f"paths.runs: {self.path} cannot be made ({error.strerror}); "
                "set paths.runs to a folder you can write to"
            ) from None
        self._lock = FolderLock(self.path)
        sync_folder(self.path.parent)
        return self

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder; what was written stays."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write ``manifest.json`` (see ``manifest.build_manifest``)."""
        write_whole(self.path / MANIFEST, to_json(manifest, indent=2))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as YAML, keys in the order given."""
        import yaml

        text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=100)
        write_whole(self.path / CONFIG, text.encode())

    def write_privacy(self, statement: Mapping[str, Any]) -> None:
        """Write the privacy statement."""
        write_whole(self.path / PRIVACY, to_json(statement, indent=2))

    def append_round(self, record: RoundRecord) -> None:
        """Append one round to ``rounds.jsonl``; on disk when this returns."""
        append(self.path / ROUNDS, to_json({"schema_version": SCHEMA_VERSION, **plain(record)}))

    def append_communication(self, rows: Iterable[Any]) -> None:
        """Append ledger rows (mappings or dataclasses) to ``communication.jsonl``."""
        lines = [to_json({"schema_version": SCHEMA_VERSION, **plain(row)}) for row in rows]
        if lines:
            append(self.path / COMMUNICATION, b"".join(lines))

    def write_adapter(
        self,
        tensors: Mapping[str, torch.Tensor],
        rank: int,
        alpha: float,
        base_model: str,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """Write factors and head as safetensors; names, rank, alpha and base model as metadata."""
        import torch
        from safetensors.torch import save

        metadata = {
            "schema_version": str(SCHEMA_VERSION),
            "format": "pt",  # what transformers and peft look for
            "names": " ".join(sorted(tensors)),
            "rank": str(rank),
            "alpha": str(alpha),
            "base_model": base_model,
            **(extra or {}),
        }
        # Views of one buffer, as stacks hand them out, are refused by safetensors: copy each.
        owned = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        write_whole(self.path / ADAPTER, save(owned, metadata))

    def write_clients(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write personal tensors as ``ClientStates.to_tensors`` gives them."""
        from safetensors.torch import save

        write_whole(self.path / CLIENTS, save({n: t.contiguous() for n, t in tensors.items()}))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``: from now on the run is finished. Releases the folder."""
        write_whole(self.path / SUMMARY, to_json(summary, indent=2))
        self.finished = True
        self.close()
