"""Jobs in one pass beside the same jobs one after another: seconds, ratio, largest difference.

    python scripts/bench_together.py                       8 MiniLM jobs at batch 32
    python scripts/bench_together.py --device cuda --reps 20
    python scripts/bench_together.py --same-adapter        all jobs with one frozen A

Every job has its own rows, frozen A, learning rate, clip and noise. Needs torch and transformers.
Exit code 1 when the adapters are not the same within rounding, 2 for a bad argument.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffalora_cli.engine.job import LocalJob, LocalResult

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4  # of the relative difference between the updates


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print; the exit code."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))  # read when torch is loaded
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    import torch
    from bench_workload import RANK, Profile, load_texts, load_weights, make_job, make_network

    from ffalora_cli.config.errors import ConfigError
    from ffalora_cli.engine import auto_max_tokens, build_engine, pick_device

    torch.set_num_threads(args.threads)
    profile = Profile(args.clients, args.batch, args.steps)
    try:
        device = pick_device(args.device)
    except ConfigError as error:
        print(f"bench_together: {error}", file=sys.stderr)
        return 2
    examples, texts = load_texts(profile, args.data)
    backbone, weights = load_weights("minilm", device)
    network = make_network(backbone, args.precision)
    first = make_job(network, profile, args.method, private=not args.no_privacy)
    jobs = [_job(first, number, network.sites, RANK, args) for number in range(args.jobs)]
    max_tokens = args.max_tokens or auto_max_tokens(network)
    # An engine of its own for each way, as in a run: on a GPU it keeps the shapes it has captured.
    apart, together = (build_engine("stacked", network, examples, max_tokens) for _ in range(2))
    ways: dict[str, Callable[[], list[LocalResult]]] = {
        "one job": lambda: [apart.train(jobs[0])],
        "one after another": lambda: [apart.train(job) for job in jobs],
        "together": lambda: together.train_together(jobs),
    }
    print(f"weights: {weights}; texts: {texts}")
    print(
        f"{args.jobs} jobs x {args.clients} clients x {args.batch} examples x {args.steps} steps, "
        f"{args.method}, {device}, torch {torch.__version__}, {args.threads} thread(s), "
        f"micro-batches of {max_tokens} tokens"
    )
    seconds, results = _measure(ways, args.reps, device)
    _print(seconds)
    gap = _gap(jobs, results["one after another"], results["together"])
    print(f"largest relative difference of an update: {gap:.1e}")
    return 0 if gap <= TOLERANCE else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_together", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--clients", type=int, default=3, help="of each job")
    parser.add_argument("--batch", type=int, default=32, help="examples of a client and step")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--method", choices=("ffa", "lora"), default="ffa")
    parser.add_argument("--same-adapter", action="store_true", help="one frozen A for all jobs")
    parser.add_argument("--no-privacy", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, help="of a micro-batch; default: a run's")
    parser.add_argument("--data", help="folder with sst2/train.parquet; without it, random rows")
    return parser


def _job(
    first: LocalJob, number: int, sites: list, rank: int, args: argparse.Namespace
) -> LocalJob:
    """Job ``number``: the first one with everything changed that jobs may differ in."""
    import numpy as np

    from ffalora_cli import keys
    from ffalora_cli.adapters import registry

    rng = np.random.default_rng(number)
    drawn = registry.get("lora").initial(sites, rank, "kaiming", 0 if args.same_adapter else number)
    privacy = first.privacy and replace(
        first.privacy,
        max_grad_norm=first.privacy.max_grad_norm * (1 + number / 4),
        noise_sd=first.privacy.noise_sd * (1 + number),
        secret=keys.derive(number, "bench"),
    )
    return replace(
        first,
        batches=[replace(step, rows=rng.permutation(step.rows)) for step in first.batches],
        common={n: drawn.get(n, v).to(v) for n, v in first.common.items()},
        optimizer=replace(first.optimizer, lr=first.optimizer.lr / (1 + number)),
        privacy=privacy,
    )


def _measure(
    ways: dict[str, Callable[[], list[LocalResult]]], reps: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[LocalResult]]]:
    """Every way ``reps`` times, in turn, so that a slow minute hits all of them."""
    import torch

    cuda = device.startswith("cuda")
    # On one CPU thread CPU time is the work; wall time would add what others do to the machine.
    clock = time.perf_counter if cuda or torch.get_num_threads() > 1 else time.process_time
    for work in ways.values():  # a GPU captures a shape the second time it is met
        for _ in range(3 if cuda else 1):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(reps):
        for name, work in ways.items():
            if cuda:
                torch.cuda.synchronize()
            began = clock()
            results[name] = work()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(clock() - began)
    return seconds, results


def _print(seconds: dict[str, list[float]]) -> None:
    """Medians, and medians of the ratios within one repetition."""
    print(f"{'':20}{'median s':>10}{'x one job':>11}{'x one after another':>21}")
    for name, found in seconds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(found, seconds[other], strict=True))
            for other in ("one job", "one after another")
        ]
        print(f"{name:20}{statistics.median(found):10.3f}{ratios[0]:11.2f}{ratios[1]:21.3f}")


def _gap(jobs: list[LocalJob], apart: list[LocalResult], together: list[LocalResult]) -> float:
    """Largest ``|together - apart| / |apart - start|`` of a job's tensor."""
    return max(
        float((t.trained[n] - a.trained[n]).norm() / (a.trained[n].cpu() - j.start[n].cpu()).norm())
        for j, a, t in zip(jobs, apart, together, strict=True)
        for n in a.trained
    )


if __name__ == "__main__":
    sys.exit(main())
