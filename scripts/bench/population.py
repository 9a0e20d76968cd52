"""A million clients: how long the partition takes, and what a round costs beyond training.

    python -m scripts.bench.population
    python -m scripts.bench.population --clients 100000 --rows 1000000

Labels are synthetic, clients Dirichlet; the tensors have the shapes of FFA-LoRA on MiniLM, but
nothing is trained. Targets: partition under 60 s and 1.5 GB, overhead of a round under 1 s.
Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ffalora_cli.data.partition.partition import ClientRows

CLASSES, ROUNDS, STEPS, BATCH = 10, 3, 10, 8
PARTITION_SECONDS, PARTITION_MB, ROUND_SECONDS = 60.0, 1536.0, 1.0


def main(argv: list[str] | None = None) -> int:
    """Measure and compare with the targets; the exit code."""
    parser = argparse.ArgumentParser(prog="population", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--cohort", type=int, default=1_000)
    parser.add_argument("--dirichlet-alpha", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    if not 1 <= args.cohort <= args.clients <= args.rows:
        print("population: needs 1 <= cohort <= clients <= rows", file=sys.stderr)
        return 2
    import torch

    torch.set_num_threads(args.threads)
    clients, passed = measure_partition(args.rows, args.clients, args.dirichlet_alpha)
    for unit in ("none", "client"):
        passed &= measure_rounds(clients, args.cohort, unit)
    return 0 if passed else 1


def measure_partition(
    rows: int, num_clients: int, dirichlet_alpha: float
) -> tuple[ClientRows, bool]:
    """Partition synthetic labels; the client rows and whether the targets are met."""
    from ffalora_cli.config.schema import PartitionConfig
    from ffalora_cli.data.partition.partition import partition

    labels = np.random.default_rng(0).integers(0, CLASSES, rows)
    config = PartitionConfig("dirichlet", 0, dirichlet_alpha, min_client_size=0)
    before = _peak_mb()
    began = time.perf_counter()
    clients = partition(config, labels, CLASSES, num_clients)
    seconds, used = time.perf_counter() - began, _peak_mb()
    print(f"{rows:,} rows, {CLASSES} classes, {num_clients:,} clients, Dirichlet {dirichlet_alpha}")
    first = _line("partition", seconds, PARTITION_SECONDS)
    fits = used < PARTITION_MB
    verdict = "ok" if fits else "MISSED"
    print(f"  {'memory of the process':34}{used:9.0f} MB  (< {PARTITION_MB:.0f} MB: {verdict})")
    print(f"  {'of it interpreter and labels':34}{before:9.0f} MB")
    return clients, first and fits


def measure_rounds(clients: ClientRows, cohort_size: int, unit: str) -> bool:
    """Play rounds without training; prints the median seconds of each stop.

    Args:
        clients: ``ClientRows`` of everybody.
        cohort_size: exact without privacy, expected with.
        unit: ``none`` or ``client``, of the privacy.
    """
    stops: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        overhead = _Overhead(clients, cohort_size, unit, Path(folder) / "privacy_ledger.jsonl")
        for round in range(1, ROUNDS + 1):
            for name, stop in overhead.stops(round):
                began = time.perf_counter()
                stop()
                stops.setdefault(name, []).append(time.perf_counter() - began)
    print(f"\nround of {cohort_size:,} clients, privacy {unit}, median of {ROUNDS}")
    if unit == "client":
        print(f"  {'open the privacy ledger (once)':34}{overhead.opening:9.3f} s")
    medians = {name: float(np.median(seconds)) for name, seconds in stops.items()}
    for name, seconds in medians.items():
        print(f"  {name:34}{seconds:9.3f} s")
    return _line("together", sum(medians.values()), ROUND_SECONDS)


class _Overhead:
    """What a round does besides training, stop by stop, as ``federation.round`` does it."""

    def __init__(self, clients: ClientRows, cohort_size: int, unit: str, path: Path) -> None:
        import torch

        from ffalora_cli import keys
        from ffalora_cli.federation.cohort.clients import ClientStates
        from ffalora_cli.federation.wire.ledger import CommunicationLedger
        from ffalora_cli.privacy.ledger import PrivacyLedger
        from ffalora_cli.types import ServerState

        self.rows, self.cohort_size, self.unit = clients, cohort_size, unit
        self.num_clients = len(clients)
        self.sites = [
            f"bert.encoder.layer.{layer}.attention.self.{part}"
            for layer in range(6)
            for part in ("query", "value")
        ]
        self.names = [f"{site}.lora_b" for site in self.sites]
        values = {f"{site}.lora_a": torch.randn(8, 384) for site in self.sites}
        values |= {name: torch.zeros(384, 8) for name in self.names}
        self.state = ServerState(values, dict.fromkeys(values, 0))
        self.states = ClientStates(self.num_clients)
        self.communication = CommunicationLedger(self.num_clients)
        self.secret = keys.derive(0, "population")
        rate = np.full(self.num_clients, cohort_size / self.num_clients)
        began = time.perf_counter()
        self.ledger = PrivacyLedger(np.ones(self.num_clients), rate, path)
        self.opening = time.perf_counter() - began

    def stops(self, round: int) -> Iterator[tuple[str, Callable[[], None]]]:
        """Name and work of each stop of a round, in order."""
        self.round = round
        yield "sample the cohort", self._sample
        yield "downlink: plan, pack, count", self._send
        if self.unit == "client":
            yield "charge the privacy ledger", self._charge
        yield f"draw batches of {STEPS} steps", self._batches
        yield "start stack", self._start
        yield "uplink: pack, count, unpack", self._upload
        yield "combine", self._combine
        yield "note who took part, totals", self._finish

    def _sample(self) -> None:
        from ffalora_cli.federation.cohort.cohort import sample

        scheme = "poisson" if self.unit == "client" else "fixed"
        eligible = None
        if self.unit == "client":
            eligible = self.ledger.steps_taken + 1 <= ROUNDS
        self.chosen = sample(
            self.secret, self.round, self.num_clients, self.cohort_size, scheme, eligible
        )

    def _send(self) -> None:
        from ffalora_cli.federation.wire import downlink
        from ffalora_cli.federation.wire.payload import pack

        last = self.states.last_round[self.chosen]
        seeds = {"adapter": 0, "head": 0}
        for ids, items in downlink.plan(self.state, self.chosen, last, "cached", seeds):
            lines = pack(items, "float32").lines
            self.communication.add(self.round, "downlink", ids, lines)

    def _charge(self) -> None:
        self.ledger.charge(self.round, np.arange(self.num_clients), 1)

    def _batches(self) -> None:
        from ffalora_cli.engine.job import stack_step
        from ffalora_cli.privacy.mechanism.batches import epoch_batch

        holders = [(int(c), self.rows.of(c)) for c in self.chosen]
        for step in range(STEPS):
            position = (self.round - 1) * STEPS + step
            stack_step([epoch_batch(0, c, position, r, BATCH) for c, r in holders if len(r)])

    def _start(self) -> None:
        self.trained = {
            n: self.state.tensors[n].expand(len(self.chosen), 384, 8) + 0.01 for n in self.names
        }
        self.states.gather(self.chosen, (), {})

    def _upload(self) -> None:
        from ffalora_cli.federation.wire.payload import pack, unpack
        from ffalora_cli.types import Dense

        packed = pack([Dense(n, "adapter", v) for n, v in self.trained.items()], "float32")
        self.communication.add(self.round, "uplink", self.chosen, packed.lines)
        self.uploads = {item.name: item.values for item in unpack(packed)}

    def _combine(self) -> None:
        from ffalora_cli.config.schema import ServerOptimizerConfig
        from ffalora_cli.federation.server.server import (
            MeanAccumulator,
            apply_update,
            client_weights,
            server_step,
        )
        from ffalora_cli.privacy.mechanism.client_level import clip_updates, private_mean
        from ffalora_cli.types import ServerUpdate

        before = self.state.tensors
        if self.unit == "client":
            updates = {n: v - before[n] for n, v in self.uploads.items()}
            clipped, _ = clip_updates(updates, 1.0)
            total = {n: v.sum(0) for n, v in clipped.items()}
            change = private_mean(total, 1.0, 1.0, float(self.cohort_size), self.secret, self.round)
            mean = {n: before[n] + v for n, v in change.items()}
        else:
            accumulator = MeanAccumulator()
            weights = client_weights(self.rows.sizes[self.chosen], "size")
            accumulator.add(self.uploads, weights)
            mean = accumulator.result()
        sgd = ServerOptimizerConfig("sgd", 1.0, 0.0, 0.99, 1e-3)
        stepped, moments = server_step(sgd, self.state, mean)
        self.state = apply_update(self.state, ServerUpdate(stepped), self.round, 1.0, moments)

    def _finish(self) -> None:
        self.states.took_part(self.chosen, self.round)
        self.communication.round_totals(self.round)


def _peak_mb() -> float:
    """Largest resident memory of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _line(name: str, seconds: float, target: float) -> bool:
    """Print a time beside its target; whether it is met."""
    verdict = "ok" if seconds < target else "MISSED"
    print(f"  {name:34}{seconds:9.3f} s   (< {target:g} s: {verdict})")
    return seconds < target


if __name__ == "__main__":
    sys.exit(main())
