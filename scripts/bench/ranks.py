"""One process against several that share its steps: processor seconds of the busiest, same round.

    python -m scripts.bench.ranks k3 k30                  two processes, gloo, one thread each
    python -m scripts.bench.ranks k30 --world 4 --reps 5

Alone and shared are timed in turn, in processes forked from one that has loaded everything.
"no rows" is the round without any, alone: noise, optimiser, copies of the result. Exit code 1 when
the results differ by more than 1e-5 of their change, or ranks by a bit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ffalora_cli.data.encode import Encoded
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import LocalJob, StepBatches
from ffalora_cli.engine.memory import CPU_TOKENS
from ffalora_cli.engine.ranks import Ranks
from ffalora_cli.models.network import Network
from scripts.bench.workload import (
    MODELS,
    PROFILES,
    load_texts,
    load_weights,
    make_job,
    make_network,
)

TOLERANCE = 1e-5


def main(argv: list[str] | None = None) -> int:
    """Measure every profile, print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("profiles", nargs="*", default=["k3", "k30"], choices=[*PROFILES])
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--data", default=os.environ.get("FFALORA_DATA"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    columns = {
        "alone": 8,
        "shared": 8,
        "speed-up": 10,
        "no rows": 8,
        "difference": 12,
        "MB/step": 9,
    }
    print(" " * 10 + "".join(f"{name:>{width}}" for name, width in columns.items()))
    worst = 0.0
    for name in args.profiles:
        profile = PROFILES[name]
        examples, _ = load_texts(profile, args.data)
        network = make_network(
            load_weights(profile.model, "cpu")[0], "fp32", MODELS[profile.model].targets
        )
        job = make_job(network, profile, "ffa", private=True)
        found = forked(args.world, partial(timed, network, examples, job, args.reps))
        alone, shared, alike = (max(row[i] for row in found) for i in range(3))
        worst = max(worst, *(row[3] for row in found))
        sent = sum(4 * value.numel() for value in job.start.values()) / 1e6
        print(
            f"{name:<10}{alone:>8.2f}{shared:>8.2f}{alone / shared:>10.2f}{alike:>8.3f}"
            f"{found[0][3]:>10.1e}{sent:>9.2f}"
        )
    return int(worst > TOLERANCE)


def timed(
    network: Network, examples: Encoded, job: LocalJob, reps: int, ranks: Ranks
) -> tuple[float, float, float, float]:
    """Processor seconds of this rank (median): alone, shared, without rows; and the difference."""
    engines = [build_engine("stacked", network, examples, CPU_TOKENS, r) for r in (None, ranks)]
    nothing = StepBatches(np.zeros(0, np.int64), np.zeros(0, np.int64))
    jobs = [job, job, replace(job, batches=[nothing] * len(job.batches))]
    seconds: list[list[float]] = [[], [], []]
    results: list[Any] = [None] * 3
    for _ in range(reps + 1):
        for place, (engine, one) in enumerate(zip([*engines, engines[0]], jobs, strict=True)):
            began = time.process_time()
            results[place] = engine.train(one).trained
            seconds[place].append(time.process_time() - began)
    off = [(results[1][n] - v).norm() / (v - job.start[n]).norm() for n, v in results[0].items()]
    alone, shared, alike = (statistics.median(of[1:]) for of in seconds)  # the first is warm-up
    return alone, shared, alike, float(max(off))


def forked(world: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What ``work`` returns on each of ``world`` ranks, children of this process; JSON values."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    os.environ |= {**address, "WORLD_SIZE": str(world)}
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def child(rank: int) -> None:
        os.environ["RANK"] = str(rank)
        ranks = Ranks.join(on_gpu=False)
        found = ranks.gather(json.dumps(work(ranks)).encode())
        if rank == 0:
            answers.put([json.loads(text) for text in found])
        ranks.leave()

    children = [fork.Process(target=child, args=(rank,)) for rank in range(world)]
    for one in children:
        one.start()
    for one in children:
        one.join()
    if any(one.exitcode for one in children):
        raise SystemExit("ranks: a process failed")
    found: list[Any] = answers.get()
    return found


if __name__ == "__main__":
    sys.exit(main())
