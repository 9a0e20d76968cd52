"""Checkpoints: whole or not at all, verified, the newest good one wins, nothing hostile loads."""

from __future__ import annotations

import json
import os
import random

import pytest
import torch
from safetensors.torch import load

from ffalora_cli.records.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    DamagedCheckpointError,
    peek,
    read_checkpoint,
)
from ffalora_cli.records.files import to_safetensors
from ffalora_cli.records.journal import Journal, Mark


def checkpoint(round, score=None):
    stack = torch.arange(24.0).reshape(2, 12) + round
    return Checkpoint(
        round=round,
        tensors={"tensors/b": stack[1, :8].view(4, 2), "clients/row": torch.arange(3)},
        facts={"round": round, "order": {"tensors": ["b"]}},
        identity={"config": "abc"},
        marks={"rounds.jsonl": Mark(0, "e3b0")},
        lines={"rounds.jsonl": b'{"round": 1}\n'},
        score=score,
    )


def written(run, *rounds, scores=None):
    folder = CheckpointFolder(run)
    for round in rounds:
        folder.write(checkpoint(round, (scores or {}).get(round)))
    return folder


def names(run):
    return sorted(path.name for path in (run / "ckpt").iterdir())


def test_what_is_read_is_what_was_written(tmp_path):
    written(tmp_path, 7)
    back = CheckpointFolder(tmp_path).newest()
    wanted = checkpoint(7)
    assert {n: v.tolist() for n, v in back.tensors.items()} == {
        n: v.tolist() for n, v in wanted.tensors.items()
    }
    for part in ("round", "facts", "identity", "marks", "lines", "score"):
        assert getattr(back, part) == getattr(wanted, part)


def test_the_last_two_and_the_best_are_kept(tmp_path):
    written(tmp_path, 0, 1, 2, 3, 4, scores={0: 0.1, 1: 0.9, 2: 0.5, 4: 0.9})
    assert names(tmp_path) == ["round-000001", "round-000003", "round-000004"]
    again = CheckpointFolder(tmp_path)
    assert again.newest().round == 4  # scores are known again after a restart
    again.write(checkpoint(5, 0.2))
    assert names(tmp_path) == ["round-000001", "round-000004", "round-000005"]


def test_every_flipped_bit_and_every_cut_is_detected(tmp_path):
    written(tmp_path, 1)
    folder = tmp_path / "ckpt" / "round-000001"
    generator = random.Random(0)
    for file in folder.iterdir():
        whole = file.read_bytes()
        for _ in range(300):
            bit = generator.randrange(8 * len(whole))
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            for content in (bytes(broken), whole[: bit // 8], whole + b"\n"):
                file.write_bytes(content)
                with pytest.raises(DamagedCheckpointError):
                    read_checkpoint(folder)
        file.write_bytes(whole)
    assert read_checkpoint(folder).round == 1


def test_the_newest_that_verifies_wins_and_damaged_ones_are_named(tmp_path):
    written(tmp_path, 1, 2)
    (tmp_path / "ckpt" / "round-000002" / "state.safetensors").write_bytes(b"")
    (tmp_path / "ckpt" / "tmp-3").mkdir()
    assert peek(tmp_path).round == 1 and "tmp-3" in names(tmp_path)  # peeking moves nothing
    folder = CheckpointFolder(tmp_path)
    assert folder.newest().round == 1
    (note,) = folder.notes
    assert "round-000002 is damaged" in note and "\n" not in note
    assert names(tmp_path) == ["damaged-round-000002-1", "round-000001"]


def nested(folder):
    body = b'{"format": 1, "files": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    sign(folder, body)


def sign(folder, body):
    import hashlib

    digest = hashlib.sha256(body).hexdigest()
    (folder / "manifest.jsonl").write_bytes(body + f'"{digest}"\n'.encode())


def edit(folder, **changes):
    content = json.loads((folder / "manifest.jsonl").read_bytes().splitlines()[0])
    sign(folder, json.dumps({**content, **changes}).encode() + b"\n")


HOSTILE = {
    "nested": nested,
    "other round": lambda f: edit(f, round=9),
    "outside": lambda f: edit(f, files={"../../../etc/passwd": "0"}),
    "no files": lambda f: edit(f, files={}),
    "marks": lambda f: edit(f, marks={"rounds.jsonl": {"bytes": 1, "evil": 2}}),
    "lines": lambda f: edit(f, lines=["x"]),
    "score": lambda f: edit(f, score="high"),
    "list": lambda f: sign(f, b"[]\n"),
    "format": lambda f: edit(f, format=2),
    "pipe": lambda f: (os.unlink(f / "state.safetensors"), os.mkfifo(f / "state.safetensors")),
    "link": lambda f: (
        os.rename(f / "state.safetensors", f.parent.parent / "elsewhere"),
        os.symlink(f.parent.parent / "elsewhere", f / "state.safetensors"),
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints_are_set_aside(kind, tmp_path):
    written(tmp_path, 1, 2)
    HOSTILE[kind](tmp_path / "ckpt" / "round-000002")
    folder = CheckpointFolder(tmp_path)
    assert folder.newest().round == 1
    assert len(folder.notes) == 1


def test_a_failed_write_leaves_the_one_before(tmp_path, monkeypatch):
    folder = written(tmp_path, 1)

    def full(handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        folder.write(checkpoint(2))
    assert names(tmp_path) == ["round-000001"] and CheckpointFolder(tmp_path).newest().round == 1


def test_equal_tensors_are_equal_files():
    """The library orders metadata by a randomised hash: 32 files would not be one by chance."""
    tensors = {"a": torch.arange(5.0), "b": torch.zeros(0, 2)}
    metadata = {str(i): "x" * i for i in range(20)}
    files = {to_safetensors(tensors, metadata) for _ in range(32)}
    assert len(files) == 1
    back = load(files.pop())
    assert torch.equal(back["a"], tensors["a"]) and back["b"].shape == (0, 2)


def test_a_journal_knows_what_it_held(tmp_path):
    journal = Journal(tmp_path / "lines")
    journal.append(b"one\n")
    mark = journal.mark()
    journal.append(b"two\n")
    assert journal.holds(mark) and journal.holds(Mark(0, ""))
    journal.rewind(mark)
    assert (tmp_path / "lines").read_bytes() == b"one\n" and journal.mark() == mark
    other = Journal(tmp_path / "lines")
    other.catch_up()
    assert other.mark() == mark
    (tmp_path / "lines").write_bytes(b"0ne\n")
    assert not journal.holds(mark)
    (tmp_path / "lines").unlink()
    assert not journal.holds(mark)
