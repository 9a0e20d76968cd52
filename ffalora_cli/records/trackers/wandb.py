"""Weights & Biases: one W&B run a run, with the same id; a round is a step.

What W&B has decides what is sent again. Offline, that is what its own files in the run folder hold,
whatever was killed when. For those that are gone (uploaded and cleaned up), the note in
``tracker.json`` counts. Online, W&B's summary of the run counts, since what a killed process had
queued never arrived.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ffalora_cli.records.files import read_json, to_json, write_whole
from ffalora_cli.records.trackers import worker
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.records.trackers.wandb_file import rounds_in

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0
SETTLE_SECONDS = 5.0  # that W&B's process before a resume may take to write its file
CURSOR = "tracker.json"


class WandbTracker(worker.BackgroundTracker):
    """Sends to W&B, online or offline; its files are in ``WANDB_DIR``, or the run's folder."""

    label = "W&B"
    remedy = "pip install wandb"
    _run: wandb.Run
    _folder: Path  # of the run
    _files: Path  # that W&B makes its own folder in
    _id: str

    def _open(self, facts: RunFacts) -> int:
        import wandb

        self._folder, self._id = facts.folder, facts.id
        self._files = Path(os.environ.get("WANDB_DIR") or facts.folder).expanduser()
        self._files.mkdir(parents=True, exist_ok=True)
        earlier = self._offline_files()
        wandb.setup(wandb.Settings(silent=True))  # only cli speaks to the user
        mode = self._config.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key; run `wandb login` or set tracking.mode=offline")
        self._run = self._begin(facts, mode)
        self._run.define_metric("round", hidden=True)
        self._run.define_metric("*", step_metric="round")
        self.url = self._run.url
        if not self._run.offline:
            return int(self._run.summary.get("round", -1)) if self._run.resumed else -1
        return self._stored(earlier)

    def _stored(self, files: Sequence[Path]) -> int:
        """The last round in offline files; a process of W&B's may still be writing them."""
        noted = self._noted().get(self._target, {})
        here = {file.parent.name: file for file in files}
        gone = [number for folder, number in noted.items() if folder not in here]
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            last = {f: max(rounds_in(file, self._target), default=-1) for f, file in here.items()}
            behind = any(last.get(folder, number) < number for folder, number in noted.items())
            if not behind or time.monotonic() > deadline:
                return max([*last.values(), *gone], default=-1)
            time.sleep(0.1)

    def _begin(self, facts: RunFacts, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        return wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            mode=mode,
            id=facts.id,
            name=facts.name,
            group=self._config.group or facts.group,
            tags=[*facts.tags, *self._config.tags],
            config=facts.described,
            dir=str(self._files),
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # never return another job's run, as the default does
            settings=wandb.Settings(
                silent=True,
                console="off",  # the display shows private metrics, and is none of W&B's business
                x_disable_meta=True,  # host, user, paths and the command line
                disable_git=True,
                host="",
                x_disable_stats=facts.private,  # load and memory follow the rows drawn
                init_timeout=INIT_SECONDS,
                finish_timeout=worker.FINISH_SECONDS,  # also bounds wandb's own wait at exit
                finish_timeout_raises=True,
            ),
        )

    def _write(self, number: int, metrics: Mapping[str, Any]) -> None:
        self._run.log({"round": number, **metrics}, step=number, commit=True)
        if self._run.offline:
            noted = self._noted()
            noted.setdefault(self._target, {})[Path(self._run.settings.sync_dir).name] = number
            write_whole(self._folder / CURSOR, to_json({"rounds": noted}))

    def _close(self, values: Mapping[str, Any], exit_code: int) -> None:
        self._run.summary.update(dict(values))
        self._run.finish(exit_code=exit_code)

    def _last_word(self) -> str | None:
        if not self._run.offline:
            return None
        folder = Path(self._run.settings.sync_dir)
        if len(self._offline_files()) > 1:  # one a resume; wandb puts them in order
            folder = folder.with_name(f"offline-run-*-{self._id}*")
        return f"W&B was offline; upload with: wandb sync {folder}"

    def _offline_files(self) -> list[Path]:
        return sorted(self._files.glob(f"wandb/offline-run-*/run-{self._id}.wandb"))

    @property
    def _target(self) -> str:
        return f"{self._config.entity or ''}/{self._config.project}"

    def _noted(self) -> dict[str, dict[str, int]]:
        """The last round sent, by project and offline folder."""
        file = self._folder / CURSOR
        return dict(read_json(file)["rounds"]) if file.exists() else {}


TRACKER = WandbTracker
