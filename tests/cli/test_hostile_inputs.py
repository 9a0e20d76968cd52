"""Planted links, forged files, pickles, remote code: one line each, and nothing outside changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import chaos_hostile
from chaos_planted import PLANTED, TYPED


@pytest.fixture(scope="module")
def scene():
    with chaos_hostile.stage() as scene:
        yield scene


def test_there_are_many() -> None:
    assert len({*TYPED, *PLANTED}) >= 60


@pytest.mark.parametrize("name", [*TYPED, *PLANTED])
def test_it_ends_in_one_line_and_does_nothing(name, scene) -> None:
    assert chaos_hostile.wrong(scene, name) is None


def test_the_watch_sees_a_pickle_that_is_opened(scene) -> None:
    """The detector itself can fail a test: a loader that unpickles is caught."""
    import pickle

    scene.fresh(b"")
    with scene.watch.armed():
        pickle.loads(scene.payload())
    assert any("pickle.find_class" in event for event in scene.watch.seen)
    assert scene.sentinel.exists()
