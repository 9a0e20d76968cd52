"""Measures a round here: the run's own engine on its own rows, a few steps of it."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import counted

if TYPE_CHECKING:
    from ffalora_cli.engine.job import Engine, LocalJob, LocalResult, StepBatches
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.federation.wire.contract import Receipt

REPEATS = 3  # timed rounds of one step each, after one to warm up
ENOUGH = 6.0  # seconds after which no further round is begun
FEW, GROWTH = 256, 4  # tokens of the first steps; the next have more while they take no time
EVALUATED = (16, 64, 256)  # rows scored, one after another while there is time
LEAST_ERROR, UNREPEATED_ERROR = 0.15, 0.3  # shares; other work on the machine is not foreseen


@dataclass(frozen=True)
class Measurement:
    """Seconds and memory as they were measured.

    Attributes:
        step_seconds: one local step of the whole cohort, in the median.
        round_seconds: what a round takes besides its steps (sending, checking, combining).
        token_seconds: of an evaluated token.
        error: they may be off by a factor of 1 + error, from their spread; at least 15 %.
        peak_bytes: most memory the process (on a GPU: the device) held while training.
        steps: local steps that were timed.
        how: one line for the reader.
    """

    step_seconds: float
    round_seconds: float
    token_seconds: float
    error: float
    peak_bytes: int
    steps: int
    how: str


def measure(parts: Parts) -> Measurement:
    """Train a few steps and score a few rows of a built run; its simulation stays at round 0.

    Where a whole step takes long, steps of some of its rows stand for it, token for token. The
    draws are the run's own (nothing of them is released); the network comes out as it went in.
    """
    device = parts.simulation.network.device
    clock = _Clock(parts.simulation.engine, device, parts.data.train.lengths)
    one_step = replace(parts.simulation.config, local_steps=1)
    trial = replace(parts.simulation, config=one_step, privacy_ledger=None)  # a state of its own
    before = held_memory(device)
    reset_peak(device)
    began = time.perf_counter()
    rounds = [_timed(trial, clock)]  # cold
    while len(rounds) < 2 or _grows(clock):
        rounds.append(_timed(trial, clock))
    warm = len(rounds)
    while len(rounds) < warm + REPEATS and time.perf_counter() - began < ENOUGH:
        rounds.append(_timed(trial, clock))
    peak = peak_memory(device)
    _undo_merges(trial)
    kept = max(1, len(rounds) - warm)
    steps = clock.steps[-kept * parts.method.exchanges() :]
    seconds = [step.whole_seconds for step in steps]
    step = statistics.median(seconds)
    apart = (max(seconds) - min(seconds)) / (2 * step) if kept > 2 else UNREPEATED_ERROR
    used = max(step.tokens for step in clock.steps)
    batch = min(parts.max_tokens, max(step.whole_tokens for step in clock.steps))
    return Measurement(
        step_seconds=step,
        round_seconds=max(0.0, statistics.median(rounds[-kept:])),
        token_seconds=_score(parts),
        error=max(LEAST_ERROR, apart),
        peak_bytes=peak + int((peak - before) * max(0.0, batch / used - 1)),
        steps=len(steps),
        how=_how(parts, steps),
    )


def _how(parts: Parts, steps: Sequence[_Step]) -> str:
    """What was timed, in a line."""
    share = sum(s.tokens for s in steps) / max(1, sum(s.whole_tokens for s in steps))
    rows = "this run's rows" if share > 0.99 else f"{100 * share:.2g} % of a step's tokens"
    weights = ", random weights" if parts.config.model.random_weights else ""
    return (
        f"{counted(len(steps), 'step')} of the {parts.config.engine.name} engine on {rows}"
        f"{weights}, warmed up, on {parts.simulation.network.device}"
    )


def _grows(clock: _Clock) -> bool:
    """Whether the next step is larger, and is to be timed before any is repeated."""
    last = clock.steps[-1]
    if last.tokens >= last.whole_tokens or GROWTH * last.seconds > ENOUGH / 2:
        return False
    clock.tokens *= GROWTH
    return True


@dataclass(frozen=True)
class _Step:
    """One timed step of a cohort."""

    seconds: float
    tokens: int  # trained on
    whole_tokens: int  # of the step as it was drawn

    @property
    def whole_seconds(self) -> float:
        return self.seconds * self.whole_tokens / max(1, self.tokens)


@dataclass
class _Clock:
    """Drives rounds: an engine, and how long each cohort's local training took.

    Attributes:
        tokens: at most about so many of a step are trained on.
    """

    engine: Engine
    device: Any
    lengths: np.ndarray  # int32 [rows], tokens of each
    tokens: int = FEW
    steps: list[_Step] = field(default_factory=list)

    def answer(self, job: LocalJob | Receipt) -> LocalResult | None:
        """Train as the engine does, on some rows of each step."""
        from ffalora_cli.engine.job import LocalJob

        if not isinstance(job, LocalJob):
            return None
        kept = [thinned(batch, self.lengths, self.tokens) for batch in job.batches]
        used = sum(int(self.lengths[batch.rows].sum()) for batch in kept)
        whole = sum(int(self.lengths[batch.rows].sum()) for batch in job.batches)
        began = time.perf_counter()
        result = self.engine.train(replace(job, batches=kept))
        _wait(self.device)
        self.steps.append(_Step(time.perf_counter() - began, used, whole))
        return result


def thinned(batch: StepBatches, lengths: np.ndarray, tokens: int) -> StepBatches:
    """Evenly spaced pairs of a step, about ``tokens`` of its tokens; all where it has fewer."""
    whole = int(lengths[batch.rows].sum())
    if whole <= tokens:
        return batch
    pairs = len(batch.rows)
    kept = np.unique(np.linspace(0, pairs - 1, max(1, pairs * tokens // whole)).astype(np.int64))
    arrays = {name: value[kept] for name, value in vars(batch).items() if value is not None}
    return replace(batch, **arrays)


def _timed(trial: Simulation, clock: _Clock) -> float:
    """Seconds of the next round besides its steps."""
    began, before = time.perf_counter(), len(clock.steps)
    trial.play(trial.state.round + 1, clock.answer)
    _wait(trial.network.device)
    return time.perf_counter() - began - sum(step.seconds for step in clock.steps[before:])


def _score(parts: Parts) -> float:
    """Seconds of an evaluated token, on some rows of the first split."""
    from ffalora_cli.engine.evaluate import predict

    rows = next(iter(parts.data.evals.values()))
    values, network = parts.simulation.tensors, parts.simulation.network
    began = time.perf_counter()
    for count in EVALUATED:
        some = rows.take(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
        started = time.perf_counter()
        predict(network, some, values, parts.max_tokens)
        _wait(network.device)
        seconds = time.perf_counter() - started
        if time.perf_counter() - began > ENOUGH / len(EVALUATED) or count >= len(rows):
            break
    return seconds / int(some.lengths.sum())


def _undo_merges(trial: Simulation) -> None:
    """Base weights as they were loaded."""
    import torch

    loaded = {site: torch.zeros_like(d) for site, d in trial.state.base_delta.items()}
    trial.network.add_to_base(loaded)


def _wait(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def reset_peak(device: Any) -> None:
    """Forget the largest memory so far, where the system can."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak includes what came before


def held_memory(device: Any) -> int:
    """Bytes held now: allocated on a GPU, else resident of this process (its peak, elsewhere)."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.memory_allocated(device))
    return _resident("VmRSS:")


def peak_memory(device: Any) -> int:
    """Most bytes held since ``reset_peak``: allocated on a GPU, else resident of this process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return _resident("VmHWM:")


def _resident(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
        (line,) = (row for row in status.splitlines() if row.startswith(field))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
