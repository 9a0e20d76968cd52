"""Running the contestants in turn and making a report of it."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.data.encode import Encoded
from ffalora_cli.engine.build import pick_device
from ffalora_cli.engine.job import LocalJob
from ffalora_cli.engine.machine import machine_name, product_rates
from ffalora_cli.engine.memory import auto_max_tokens
from ffalora_cli.models.network import Network
from ffalora_cli.types import Stack
from scripts.bench import contestants
from scripts.bench.contestants import Contestant, as_plain, update_of
from scripts.bench.flops import Shape, step_flops
from scripts.bench.workload import (
    MODELS,
    PROFILES,
    Profile,
    load_texts,
    load_weights,
    make_job,
    make_network,
)

MEASURED = 0.3  # seconds of products each library multiplies in every repetition


@dataclass
class Bench:
    """A profile, its round with and without privacy, and those who train it."""

    profile: Profile
    device: torch.device
    examples: Encoded
    job: LocalJob
    contestants: list[Contestant]
    train: dict[str, contestants.Train]
    networks: dict[str, Network]  # by precision
    max_tokens: int
    shape: Shape
    notes: list[str]

    @staticmethod
    def of(args: argparse.Namespace) -> Bench:
        """Build everything that the arguments ask for.

        Raises:
            ConfigError: unknown profile, device that is not there.
            UnknownContestant: as it says.
        """
        if args.profile not in PROFILES:
            raise choose("profile", args.profile, tuple(PROFILES))
        profile, device = PROFILES[args.profile], torch.device(pick_device(args.device))
        if args.model is not None:
            if args.model not in MODELS:
                raise choose("model", args.model, tuple(MODELS))
            profile = replace(profile, model=args.model)
        chosen = _contestants(args)
        examples, texts = load_texts(profile, args.data, args.source)
        networks: dict[str, Network] = {}
        for precision in {c.precision for c in chosen}:
            backbone, weights = load_weights(profile.model, str(device), args.source)
            networks[precision] = make_network(backbone, precision, MODELS[profile.model].targets)
        network = next(iter(networks.values()))
        max_tokens = args.max_tokens or auto_max_tokens(network)
        if max_tokens < int(examples.lengths.max()):
            raise ConfigError(
                f"max-tokens={max_tokens} is less than the longest text; "
                f"set {int(examples.lengths.max())} or more"
            )
        return Bench(
            profile=profile,
            device=device,
            examples=examples,
            job=make_job(network, profile, args.method, private=True),
            contestants=chosen,
            train={
                c.name: contestants.build(c, networks[c.precision], examples, max_tokens)
                for c in chosen
            },
            networks=networks,
            max_tokens=max_tokens,
            shape=Shape.of(network.model.config),
            notes=[
                f"{args.profile}: {profile.clients} clients x {profile.batch} examples x "
                f"{profile.steps} steps, {args.method}, rank 8 on "
                f"{', '.join(MODELS[profile.model].targets)} of {profile.model}, frozen head",
                f"weights: {weights}; texts: {texts}",
                f"{machine_name(device)}, torch {torch.__version__}, {args.threads} thread(s), "
                f"micro-batches of {max_tokens} tokens",
            ],
        )

    def job_of(self, contestant: Contestant) -> LocalJob:
        """The round as this contestant trains it."""
        return self.job if contestant.private else as_plain(self.job)

    def warm_up(self, whole_round: bool) -> None:
        """Train once without looking at the clock: one step, or the round."""
        for contestant in self.contestants:
            job = self.job_of(contestant)
            steps = job.batches if whole_round else job.batches[:1]
            self.train[contestant.name](replace(job, batches=steps))

    def measure(self, reps: int, peaks: dict[str, float | None]) -> dict[str, Any]:
        """Every contestant ``reps`` times, in turn, so that a slow minute hits all of them."""
        # On a GPU the first round compiles and captures: every shape has to be seen once.
        self.warm_up(whole_round=self.device.type == "cuda")
        peak: dict[str, dict[str, float]] = {p: {} for p in {c.precision for c in self.contestants}}
        cpu: dict[str, list[float]] = {c.name: [] for c in self.contestants}
        wall: dict[str, list[float]] = {c.name: [] for c in self.contestants}
        trained: dict[str, Stack] = {}
        padded: dict[str, int] = {}
        for _ in range(reps):
            for precision, best in peak.items():
                for library, rate in product_rates(self.device, precision, MEASURED).items():
                    best[library] = max(best.get(library, 0.0), rate)
            for contestant in self.contestants:
                name, job = contestant.name, self.job_of(contestant)
                (trained[name], padded[name]), seconds = self._timed(self.train[name], job)
                cpu[name].append(seconds[0])
                wall[name].append(seconds[1])
        first = self.contestants[0].name
        ends = self.examples.targets.offsets
        read = 1 if ends is None else np.diff(ends)
        flops = sum(step_flops(self.shape, self.examples.lengths, read))
        tokens = int(self.examples.lengths.sum())
        differences = self._differences(trained)
        # On one CPU thread CPU time is the work; wall time would add what others do to the machine.
        clock = cpu if self.device.type == "cpu" and torch.get_num_threads() == 1 else wall
        rows = []
        for contestant in self.contestants:
            name = contestant.name
            seconds = statistics.median(clock[name])
            floor = flops / max(peak[contestant.precision].values())
            rows.append(
                {
                    "name": name,
                    "cpu_s": statistics.median(cpu[name]),
                    "wall_s": statistics.median(wall[name]),
                    "cpu_ratio": _ratio(cpu[name], cpu[first]),
                    "wall_ratio": _ratio(wall[name], wall[first]),
                    "tokens_per_s": tokens / seconds,
                    "padding": 1.0 - tokens / padded[name],
                    "of_peak": floor / seconds,
                    "over_floor": seconds / floor,
                    "peak_mb": peaks.get(name),
                    "difference": differences[name],
                    "exact": contestant.precision == "fp32",
                }
            )
        floors = {
            precision: {library: flops / rate for library, rate in sorted(rates.items())}
            for precision, rates in sorted(peak.items(), reverse=True)
        }
        told = "; ".join(
            f"{precision} floor {seconds:.3f} s by {library} ({flops / seconds / 1e9:.0f} GFLOP/s)"
            for precision, libraries in floors.items()
            for library, seconds in libraries.items()
        )
        used = "CPU" if clock is cpu else "wall"
        note = f"{tokens} real tokens, {flops / 1e9:.1f} GFLOP; {told}; rates by {used} seconds"
        return {
            "machine": machine_name(self.device),
            "notes": [*self.notes, note],
            "flops": flops,
            "tokens": tokens,
            "floors": floors,
            "rows": rows,
        }

    def _timed(
        self, train: contestants.Train, job: LocalJob
    ) -> tuple[tuple[Stack, int], tuple[float, float]]:
        """What ``train`` returns, and its CPU and wall seconds."""
        wait: Callable[[], None] = (
            torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        )
        wait()
        cpu, wall = time.process_time(), time.perf_counter()
        outcome = train(job)
        wait()
        return outcome, (time.process_time() - cpu, time.perf_counter() - wall)

    def _differences(self, trained: dict[str, Stack]) -> dict[str, float | None]:
        """Relative difference of each update from the first one of its kind (None for that one).

        With privacy and without are two kinds; fp32 comes first where it takes part.
        """
        found: dict[str, float | None] = {}
        for private in (True, False):
            kind = [c for c in self.contestants if c.private == private]
            kind.sort(key=lambda c: c.precision != "fp32")
            for contestant in kind:
                update = update_of(self.job, trained[contestant.name])
                if contestant is kind[0]:
                    expected, found[contestant.name] = update, None
                else:
                    gap = (update - expected).norm() / expected.norm()
                    found[contestant.name] = float(gap)
        return found


def _contestants(args: argparse.Namespace) -> list[Contestant]:
    private = not args.no_privacy
    if args.contestants is None:
        return contestants.standard(args.precision, private, args.padded, args.shared_gradient)
    names = args.contestants.split(",") + (["shared"] if args.shared_gradient else [])
    chosen = [contestants.parse(name, args.precision, private) for name in names]
    return list({c.name: c for c in chosen}.values())


def _ratio(seconds: list[float], first: list[float]) -> float:
    """Median over the repetitions of the ratio within one."""
    return statistics.median(a / b for a, b in zip(seconds, first, strict=True))
