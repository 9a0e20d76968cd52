"""The world around a run misbehaves: its folder goes, its disk turns read-only, its clock jumps."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time

import pytest

from ffalora_cli.cli.signals import stop_on_signals
from ffalora_cli.experiment.session import Session
from ffalora_cli.stopping import StopFlag
from scripts.chaos import breaks
from scripts.chaos import workload as chaos


@pytest.fixture(scope="module")
def built():
    """One kind of run; every trial is a fork."""
    with chaos.workloads(["private"]) as (loads, root):
        yield loads["private"], root, breaks.unbroken(loads["private"], root)


def after_round(number, act):
    """For ``Workload.trial``: ``act(session)`` when this round is on disk."""
    commit = Session.commit

    def arm():
        def and_act(session, record):
            commit(session, record)
            if record.round == number:
                act(session)

        Session.commit = and_act

    return arm


def read_only(session):
    opened = os.open

    def refuse(path, flags, *args, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *args, **more)

    os.open = refuse
    os.mkdir = lambda path, *args, **more: refuse(path, os.O_CREAT)


def test_a_disk_that_turns_read_only_ends_the_run_in_one_line_and_loses_no_round(built):
    load, root, wanted = built
    breaks.fresh(root / "trial")
    code, said = load.trial(root / "trial", after_round(1, read_only))
    assert code == 1 and "Read-only file system" in said and "\n" not in said
    assert chaos.rounds_on_disk(root / "trial" / "run") == 2
    code, said = load.trial(root / "trial")
    assert code == 0 and "continuing after round 1" in said
    assert chaos.result(root / "trial" / "run") == wanted


def test_a_folder_that_vanishes_ends_the_run_in_one_line_and_leaves_none_half_made(built):
    load, root, wanted = built
    breaks.fresh(root / "trial")
    code, said = load.trial(
        root / "trial", after_round(1, lambda session: shutil.rmtree(session.directory.path))
    )
    assert code == 1 and "No such file" in said and "\n" not in said
    assert not (root / "trial" / "run" / "manifest.json").exists()
    breaks.fresh(root / "trial")
    assert load.trial(root / "trial")[0] == 0
    assert chaos.result(root / "trial" / "run") == wanted


def test_a_clock_that_runs_backwards_changes_nothing(built):
    load, root, wanted = built
    breaks.fresh(root / "trial")

    def backwards():
        now = iter(range(2_000_000_000, 0, -86_400))
        time.time = lambda: float(next(now))
        time.time_ns = lambda: next(now) * 10**9

    middle = breaks.calls(load, root) // 2
    code, _ = load.trial(root / "trial", lambda: (backwards(), chaos.kill_at(middle)()))
    assert code == -signal.SIGKILL and chaos.rounds_on_disk(root / "trial" / "run") >= 1
    assert load.trial(root / "trial", backwards)[0] == 0
    assert chaos.result(root / "trial" / "run") == wanted


def test_a_second_signal_stops_at_once_and_loses_no_finished_round(built):
    """The first is never polled here, as in a step that hangs."""
    load, root, wanted = built
    breaks.fresh(root / "trial")

    def arm():
        def deaf(session):
            StopFlag.poll = lambda flag: None
            load.stop.defer()
            os.kill(os.getpid(), signal.SIGTERM)
            assert load.stop._signal == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal did not stop it")

        manager = stop_on_signals()
        load.stop = manager.__enter__()
        load.keep = manager
        after_round(2, deaf)()

    code, said = load.trial(root / "trial", arm)
    assert (code, said) == (128 + signal.SIGINT, "")
    code, said = load.trial(root / "trial")
    assert code == 0 and "continuing after round 2" in said
    assert chaos.result(root / "trial" / "run") == wanted
