"""The online path of the W&B tracker, with a stand-in for ``wandb.init``: no server to be had here.

What is sent after a resume follows what W&B says it has, and nothing local.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from ffalora_cli.records.trackers.base import open_tracker
from tests.trackers import facts, send, tracking, wandb_offline


class OnlineRun:
    """The documented surface of ``wandb.Run`` that the tracker uses; a server that remembers."""

    offline, url = False, "https://example.invalid/me/demo-project/runs/demo-abc"
    settings = SimpleNamespace(sync_dir="")

    def __init__(self, resumed, summary):
        self.resumed, self.summary = resumed, dict(summary)
        self.logged, self.defined, self.ended = [], [], None

    def define_metric(self, *names, **more):
        self.defined.append((names, more))

    def log(self, data, step, commit):
        assert commit  # else a row waits for the next, and a kill loses it
        self.logged.append((step, data))

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def online(tmp_path, monkeypatch):
    import wandb

    asked = []

    def begin(run):
        monkeypatch.setattr(wandb, "init", lambda **how: (asked.append(how), run)[1])
        tracker = open_tracker(tracking("wandb", mode="online"))
        send(tracker, facts(tmp_path), 5)
        return tracker

    with wandb_offline(tmp_path) as patch:
        patch.delenv("WANDB_MODE")
        monkeypatch.setattr(wandb, "login", lambda **_: True)
        yield begin, asked


@pytest.mark.parametrize(
    ("resumed", "summary", "sent"),
    [
        (False, {}, [0, 1, 2, 3, 4, 5]),
        (True, {"round": 2, "eval/accuracy": 0.6}, [3, 4, 5]),
        (True, {}, [0, 1, 2, 3, 4, 5]),  # it was opened, and nothing arrived
        (True, {"round": 5}, []),
        (False, {"round": 5}, [0, 1, 2, 3, 4, 5]),  # deleted there: a new run
    ],
)
def test_what_the_server_has_is_left_out(online, resumed, summary, sent) -> None:
    begin, asked = online
    run = OnlineRun(resumed, summary)
    tracker = begin(run)
    assert [step for step, _ in run.logged] == sent
    assert all(data["round"] == step for step, data in run.logged)  # a round is a step
    assert run.ended == 0 and run.summary["best/round"] == 3
    assert tracker.notes == () and tracker.url == run.url
    assert (asked[0]["id"], asked[0]["resume"]) == ("demo-abc", "allow")


def test_a_cursor_of_other_resumes_does_not_count_online(online, tmp_path) -> None:
    """What a killed process had queued is in the cursor, and never arrived."""
    begin, _ = online
    (tmp_path / "tracker.json").write_text('{"rounds": {"/demo-project": {"gone": 4}}}')
    run = OnlineRun(True, {"round": 1})
    begin(run)
    assert [step for step, _ in run.logged] == [2, 3, 4, 5]


@pytest.mark.parametrize("where", ["define_metric", "log", "finish"])
@pytest.mark.parametrize("how", ["hangs", "exits"])
def test_any_call_may_hang_or_exit(online, monkeypatch, where, how) -> None:
    from ffalora_cli.records.trackers import worker

    monkeypatch.setattr(worker, "FINISH_SECONDS", 0.2 if how == "hangs" else 30.0)
    begin, _ = online
    forever = threading.Event()

    def broken(*_, **__):
        if how == "exits":
            raise SystemExit(3)
        forever.wait()

    run = OnlineRun(False, {})
    setattr(run, where, broken)
    tracker = begin(run)
    reason = "not finished after 0.2 s" if how == "hangs" else "3"
    assert tracker.notes == (f"W&B tracker off: {reason}; the local records are complete",)
    forever.set()
