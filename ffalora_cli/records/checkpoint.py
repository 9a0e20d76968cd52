"""Checkpoints: one folder a round, there as a whole or not at all.

``ckpt/round-000012/`` holds the tensors of the state after round 12 (``state.safetensors``) and
``manifest.jsonl``: hashes of every file, the identity of the run, where its line files ended, and
the lines of round 12 itself, so that a crash between checkpoint and records loses neither; its
second line is the hash of the first. Order of a round: files and folder ``tmp-12`` to disk, rename,
parent to disk, then the lines. Nothing is pickled. The last two and the best are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.files import read_regular, sync_folder, to_json, to_safetensors, write_new
from ffalora_cli.records.journal import Mark

if TYPE_CHECKING:
    from ffalora_cli.types import Tensors

FOLDER, STATE, MANIFEST = "ckpt", "state.safetensors", "manifest.jsonl"
FORMAT = 1
KEPT = 2  # newest ones
_LARGEST = 2**36  # bytes of a file that is read at all
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
_HASH_LINE = 67  # quotes, 64 digits, newline
_ROUND, _TEMPORARY, _DAMAGED = "round-", "tmp-", "damaged-"


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round.

    Attributes:
        round: just finished; 0 = evaluated, not trained.
        tensors: of the state, by name.
        facts: of the state, JSON values.
        identity: of the run (config, data, weights, versions); a resume compares it.
        marks: by file name, where each line file ended before the lines of this round.
        lines: by file name, the lines of this round.
        score: of the headline, more is better; None where this round was not evaluated.
    """

    round: int
    tensors: Tensors
    facts: Mapping[str, Any]
    identity: Mapping[str, Any]
    marks: Mapping[str, Mark]
    lines: Mapping[str, bytes]
    score: float | None = None


class DamagedCheckpointError(Exception):
    """A checkpoint that is not as it was written; says what is wrong with it."""


@dataclass
class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        run: the run's folder.
        notes: one line for each checkpoint that was set aside.
    """

    run: Path
    notes: list[str] = field(default_factory=list)
    _scores: dict[int, float | None] = field(default_factory=dict)  # of the checkpoints there

    def write(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint durable, then drop those no longer wanted.

        Raises:
            OSError: when it cannot be written; what was there before is as it was.
        """
        root = self._root()
        temporary = root / f"{_TEMPORARY}{checkpoint.round}"
        state = to_safetensors(checkpoint.tensors)
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            write_new(temporary / STATE, state)
            write_new(temporary / MANIFEST, _manifest(checkpoint, {STATE: state}))
            sync_folder(temporary)
            os.rename(temporary, root / _name(checkpoint.round))
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(root)
        self._scores[checkpoint.round] = checkpoint.score
        self._prune(root)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are renamed aside and noted."""
        root, found = self.run / FOLDER, None
        self._scores.clear()
        _refuse_link(root)
        if not root.is_dir():
            return None
        for folder in sorted(root.glob(f"{_TEMPORARY}*")):
            if folder.is_symlink():
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)  # never finished, or no longer wanted
        for folder in sorted(root.glob(f"{_ROUND}*"), reverse=True):
            try:
                checkpoint = read_checkpoint(folder)
            except DamagedCheckpointError as error:
                self.set_aside(folder, str(error))
                continue
            self._scores[checkpoint.round] = checkpoint.score
            found = found or checkpoint
        return found

    def discard(self, round: int, reason: str) -> None:
        """Set aside a checkpoint that verifies but cannot be used."""
        self._scores.pop(round, None)
        self.set_aside(self.run / FOLDER / _name(round), reason)

    def set_aside(self, folder: Path, reason: str) -> None:
        """Rename a damaged checkpoint, so that it is neither used nor lost."""
        number = 1
        while (aside := folder.with_name(f"{_DAMAGED}{folder.name}-{number}")).exists():
            number += 1
        folder.rename(aside)
        self.notes.append(f"checkpoint {folder.name} is damaged ({reason}); kept as {aside}")

    def _root(self) -> Path:
        root = self.run / FOLDER
        _refuse_link(root)
        if not root.is_dir():
            root.mkdir()
            sync_folder(self.run)
        return root

    def _prune(self, root: Path) -> None:
        rounds = sorted(self._scores)
        scored = [(score, -r) for r, score in self._scores.items() if score is not None]
        kept = {*rounds[-KEPT:], *([-max(scored)[1]] if scored else [])}
        for round in set(rounds) - kept:
            # Renamed first: half a removed checkpoint must not look like a damaged one.
            unwanted = root / f"{_TEMPORARY}removed-{round}"
            os.rename(root / _name(round), unwanted)
            shutil.rmtree(unwanted, ignore_errors=True)
            del self._scores[round]


def peek(run: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that verifies; nothing is renamed, the run may be going on."""
    for folder in sorted((run / FOLDER).glob(f"{_ROUND}*"), reverse=True):
        try:
            return read_checkpoint(folder)
        except DamagedCheckpointError:
            continue
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        DamagedCheckpointError: anything missing, cut short or altered.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if folder.is_symlink():
            raise ValueError("a link")
        content = _read_manifest(folder / MANIFEST)
        files = {
            name: read_regular(folder / Path(name).name, _LARGEST) for name in content["files"]
        }
        for name, expected in content["files"].items():
            if hashlib.sha256(files[name]).hexdigest() != expected:
                raise ValueError(f"{name} does not match its hash")
        if folder.name != _name(content["round"]):
            raise ValueError(f"holds round {content['round']}")
        return Checkpoint(
            round=content["round"],
            tensors=load(files[STATE]),
            facts=dict(content["facts"]),
            identity=dict(content["identity"]),
            marks={name: _mark(mark) for name, mark in content["marks"].items()},
            lines={name: text.encode() for name, text in content["lines"].items()},
            score=None if content["score"] is None else float(content["score"]),
        )
    except OSError as error:
        raise DamagedCheckpointError(f"{error.strerror}") from None
    except MemoryError:
        raise DamagedCheckpointError("larger than this machine's memory") from None
    except (*_MALFORMED, SafetensorError) as error:
        text = str(error) if isinstance(error, ValueError) else "not a checkpoint"
        raise DamagedCheckpointError(text) from None


def _refuse_link(root: Path) -> None:
    """What is removed and renamed in it must be the run's own."""
    if root.is_symlink():
        raise ConfigError(f"{root}: is a link to another folder; remove it, or use --again")


def _name(round: int) -> str:
    return f"{_ROUND}{round:06d}"


def _mark(fact: Mapping[str, Any]) -> Mark:
    mark = Mark(**fact)
    if type(mark.bytes) is not int or mark.bytes < 0:
        raise ValueError("a file's length is no length")
    return mark


def _manifest(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> bytes:
    content = {
        "format": FORMAT,
        "round": checkpoint.round,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "identity": checkpoint.identity,
        "facts": checkpoint.facts,
        "marks": {name: asdict(mark) for name, mark in checkpoint.marks.items()},
        "lines": {name: lines.decode() for name, lines in checkpoint.lines.items()},
        "score": checkpoint.score,
    }
    body = to_json(content)
    return body + _hash_line(body)


def _hash_line(body: bytes) -> bytes:
    return f'"{hashlib.sha256(body).hexdigest()}"\n'.encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    raw = read_regular(path, _LARGEST)
    body, last = raw[:-_HASH_LINE], raw[-_HASH_LINE:]
    if last != _hash_line(body):
        raise ValueError(f"{path.name} does not match its hash")
    try:
        content = json.loads(body)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path.name} has another format")
    return content
