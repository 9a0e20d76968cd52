"""Hashes of files: of content alone; a memory is believed only of files that did not change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from ffalora_cli import content
from ffalora_cli.content import content_hash


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that a test need not wait."""
    monkeypatch.setattr(content, "_SETTLED", -(10**12))


def lie(memory: Path) -> str:
    """Alter the only entry, so that whoever uses it is found out."""
    (entry,) = memory.glob("*.json")
    known = json.loads(entry.read_text())
    entry.write_text(json.dumps({**known, "sha256": "remembered"}))
    return "remembered"


def test_one_file_is_its_sha256_and_several_are_their_names_too(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"same"), two.write_bytes(b"same")
    assert content_hash(tmp_path, [one]) == hashlib.sha256(b"same").hexdigest()
    both = content_hash(tmp_path, [one, two])
    two.write_bytes(b"name")
    assert content_hash(tmp_path, [one, two]) != both
    two.write_bytes(b"same")
    assert content_hash(tmp_path, [one, two]) == both
    two.rename(tmp_path / "three")
    assert content_hash(tmp_path, [one, tmp_path / "three"]) != both


def test_a_hash_is_used_again_until_the_file_is_touched(tmp_path, settled):
    file, memory = tmp_path / "file", tmp_path / "memory"
    file.write_bytes(b"before")
    content_hash(tmp_path, [file], memory)
    assert lie(memory) == content_hash(tmp_path, [file], memory)
    facts = file.stat()
    file.write_bytes(b"after!")  # as long, in the same inode, with its old time put back
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_mtime_ns == facts.st_mtime_ns
    assert content_hash(tmp_path, [file], memory) == hashlib.sha256(b"after!").hexdigest()


def test_another_file_in_its_place_is_read(tmp_path, settled):
    file, memory = tmp_path / "file", tmp_path / "memory"
    file.write_bytes(b"before")
    content_hash(tmp_path, [file], memory)
    lie(memory)
    other = tmp_path / "other"
    other.write_bytes(b"after!")
    other.replace(file)
    assert content_hash(tmp_path, [file], memory) == hashlib.sha256(b"after!").hexdigest()


def test_what_was_just_written_is_not_remembered(tmp_path):
    file, memory = tmp_path / "file", tmp_path / "memory"
    file.write_bytes(b"new")
    content_hash(tmp_path, [file], memory)
    assert not memory.exists()
    long_ago = time.time_ns() - 10**12
    os.utime(file, ns=(long_ago, long_ago))  # its inode is new all the same
    content_hash(tmp_path, [file], memory)
    assert not memory.exists()


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_nothing(tmp_path, settled):
    file, memory = tmp_path / "file", tmp_path / "memory"
    file.write_bytes(b"content")
    wanted = hashlib.sha256(b"content").hexdigest()
    assert content_hash(tmp_path, [file], memory) == wanted
    (entry,) = memory.glob("*")
    for damage in (b"", b"[]", b"\xff", b'{"marks": 1}'):
        entry.write_bytes(damage)
        assert content_hash(tmp_path, [file], memory) == wanted
    assert content_hash(tmp_path, [file], file / "below a file") == wanted
