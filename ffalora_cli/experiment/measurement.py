"""What a round costs here: the run's own engine on the run's own rows, a few steps of it."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ffalora_cli.engine.job import Engine, LocalJob, LocalResult
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.simulation import Simulation

REPEATS = 3  # timed rounds of one step each, after one to warm up
ENOUGH = 6.0  # seconds after which no further round is begun
EVALUATED = 256  # rows scored at most
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

    The draws are the run's own (nothing of them is released); the network comes out as it went in.
    """
    device = parts.simulation.network.device
    clock = _Clock(parts.simulation.engine, device)
    one_step = replace(parts.simulation.config, local_steps=1)
    trial = replace(parts.simulation, engine=clock, config=one_step)  # with a state of its own
    trial.privacy_ledger = None
    reset_peak(device)
    rounds: list[float] = []
    began = time.perf_counter()
    while len(rounds) <= REPEATS and (not rounds or time.perf_counter() - began < ENOUGH):
        rounds.append(_timed(trial))
    peak = peak_memory(device)
    _undo_merges(trial)
    warm = len(rounds) > 1
    whole, steps = rounds[warm:], clock.seconds[-len(rounds[warm:]) :]
    step = statistics.median(steps)
    times, start = ("step" if len(steps) == 1 else "steps"), "after one to warm up"
    spread = (max(steps) - min(steps)) / (2 * step) if len(steps) > 2 else UNREPEATED_ERROR
    return Measurement(
        step_seconds=step,
        round_seconds=max(0.0, statistics.median(whole) - step),
        token_seconds=_score(parts),
        error=max(LEAST_ERROR, spread),
        peak_bytes=peak,
        steps=len(steps),
        how=f"{len(steps)} {times} of the {parts.config.engine.name} engine on this run's rows, "
        f"{start if warm else 'a cold one'}, on {device}",
    )


@dataclass
class _Clock:
    """An engine, and how long each cohort's local training took."""

    engine: Engine
    device: Any
    seconds: list[float] = field(default_factory=list)

    def train(self, job: LocalJob) -> LocalResult:
        """Train as the engine does."""
        began = time.perf_counter()
        result = self.engine.train(job)
        _wait(self.device)
        self.seconds.append(time.perf_counter() - began)
        return result


def _timed(trial: Simulation) -> float:
    """Seconds of the next round."""
    began = time.perf_counter()
    trial.play(trial.state.round + 1)
    _wait(trial.network.device)
    return time.perf_counter() - began


def _score(parts: Parts) -> float:
    """Seconds of an evaluated token, on some rows of the first split."""
    from ffalora_cli.evaluation.evaluate import predict

    rows = next(iter(parts.data.evals.values()))
    some = rows.take(np.linspace(0, len(rows) - 1, min(EVALUATED, len(rows))).astype(np.int64))
    values = parts.simulation.state.tensors
    network = parts.simulation.network
    began = time.perf_counter()
    predict(network, some, values, parts.max_tokens)
    _wait(network.device)
    return (time.perf_counter() - began) / int(some.lengths.sum())


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


def peak_memory(device: Any) -> int:
    """Most bytes held since ``reset_peak``: allocated on a GPU, else resident of this process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text()
        (line,) = (row for row in status.splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
