"""Planted links, forged files, pickles, remote code: one line each, and nothing outside changes."""

from __future__ import annotations

import os

import pytest
import yaml

from scripts.chaos import hostile
from scripts.chaos.planted import PLANTED, anchor_bomb, python_tag
from scripts.chaos.typed import TYPED
from scripts.chaos.watch import HangError


@pytest.fixture(scope="module")
def scene():
    with hostile.stage() as scene:
        yield scene


def test_there_are_many() -> None:
    assert len({*TYPED, *PLANTED}) >= 60


def case(name: str) -> object:
    """Of the two families that train on, the pickle stands for the rest by default."""
    slow = name.startswith(("state: ", "rows: ")) and not name.endswith("pickle")
    return pytest.param(name, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("name", [case(name) for name in (*TYPED, *PLANTED)])
def test_it_ends_in_one_line_and_does_nothing(name, scene) -> None:
    assert hostile.wrong(scene, name) is None


def test_the_watch_sees_a_pickle_that_is_opened(scene) -> None:
    """The detector itself can fail a test: a loader that unpickles is caught."""
    import pickle

    scene.fresh(b"")
    with scene.watch.armed():
        pickle.loads(scene.payload())
    assert any("pickle.find_class" in event for event in scene.watch.seen)
    assert scene.sentinel.exists()


def test_the_watch_sees_a_pipe_that_is_waited_for(scene, tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(HangError), scene.watch.armed(seconds=0.2):
        pipe.read_bytes()


def test_the_planted_yaml_is_as_bad_as_it_looks(tmp_path) -> None:
    """Opened unsafely, the tag runs; unfolded, the anchors are 400 million texts."""
    sentinel = tmp_path / "sentinel"
    yaml.unsafe_load(python_tag(sentinel))
    assert sentinel.exists()
    sizes: dict[int, int] = {}

    def texts(value: object) -> int:
        if not isinstance(value, list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = sum(map(texts, value))
        return sizes[id(value)]

    bomb = anchor_bomb()
    options = yaml.safe_load(bomb)["options"]
    assert len(bomb) < 1000 and texts(options["a8"]) == 9**9


def test_a_run_that_starts_over_without_a_word_is_seen() -> None:
    assert hostile._without_note("state", "note      reading data") is not None
