"""A small run as trackers see it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.types import RoundRecord

CONFIG = {
    "seed": 3,
    "task": {"name": "sst2"},
    "model": {"name": "minilm", "source": "/home/someone/models/minilm"},
    "partition": {"name": "label_mix"},
    "method": {"name": "ffa_lora"},
    "privacy": {"unit": "example", "epsilon_target": 6.0, "noise_multiplier": None},
    "federation": {"rounds": 3, "local_lr": 0.5},
    "paths": {"runs": "/home/someone/runs"},
}
SUMMARY = {
    "status": "finished",
    "value": 0.8,
    "final": {"eval/accuracy": 0.8, "train/loss": 0.123},
    "best": {"round": 3, "value": 0.8},
    "clients": [{"rows": 24526}],
}


def tracking(name, mode="offline", **more):
    values = {"project": "demo-project", "entity": None, "group": None, "tags": ("mine",)}
    return TrackingConfig(name=name, mode=mode, **{**values, **more})


def facts(folder, **privacy):
    config = {**CONFIG, "privacy": {**CONFIG["privacy"], **privacy}}
    return RunFacts("demo-abc", "demo", folder, config, replayed=True)


def round_record(number):
    metrics = {
        "eval/accuracy": 0.5 + number / 16,  # exact in 32 bits, too
        "comm/uplink_bytes": 147456.0,
        "train/loss": 0.123,
        "time/samples_per_second": 77.0,
    }
    return RoundRecord(number, metrics, ({"client": 0, "rows": 24526},))


def send(tracker, run_facts, last, summary=SUMMARY, exit_code=0):
    """One run or resume: every round from 0 is logged, as a resumed run does."""
    tracker.start(run_facts)
    for number in range(last + 1):
        tracker.log(round_record(number))
    tracker.finish(summary, exit_code)


def small_run(model, runs, *overrides):
    """A real run of three rounds on packaged rows, without a tracker; its folder."""
    from ffalora_cli import experiment  # torch, which the processes of trackers do without

    settings = (
        "model=auto",
        f"model.source={model}",
        "debug=tiny",
        "task.max_length=8",
        "privacy.accountant=rdp",
        "federation.rounds=3",
        f"paths.runs={runs}",
    )
    (job,) = plan([*settings, *overrides])
    summary = experiment.run(job, Silent())
    return Path(summary["run_dir"])


class Silent:
    """An observer that keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def started(self, facts): ...

    def working(self, on, done, total): ...

    def round_done(self, record): ...

    def finished(self, summary): ...


@contextlib.contextmanager
def wandb_offline(folder):
    """W&B without network, account or a trace outside ``folder``; its process ends with it."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            patch.setenv(f"WANDB_{kind}", str(folder / kind))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("NETRC", str(folder / "no-netrc"))
        patch.setenv("HOME", str(folder))
        for name in ("API_KEY", "RUN_GROUP", "PROJECT", "ENTITY", "DIR"):
            patch.delenv(f"WANDB_{name}", raising=False)
        wandb.teardown()
        yield patch
        wandb.teardown()
