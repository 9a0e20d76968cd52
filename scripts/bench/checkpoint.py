"""What a checkpoint costs: ``python -m scripts.bench.checkpoint`` prints its share of a k3 round.

One real run, private, 3 clients x 4 steps x 32 rows (packaged MiniLM and texts, cut to 13 tokens:
the mean of SST-2), timed round by round: training, then ``Session.commit`` (checkpoint, records,
ledger rows, every fsync). Nothing else should be running.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from pathlib import Path

from ffalora_cli.compose.jobs import plan
from scripts.chaos.workload import Silent

K3 = ["federation.num_clients=3", "federation.local_steps=4", "federation.local_batch_size=32"]


def main() -> int:
    """Play a run and print medians of both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    from ffalora_cli.experiment.session import Session
    from ffalora_cli.federation.simulation import Simulation

    training, committing = _timed(Simulation, "play"), _timed(Session, "commit")
    room = importlib.import_module("ffalora_cli.experiment.run")
    with tempfile.TemporaryDirectory(prefix="ffalora-bench-") as runs:
        settings = [
            *K3,
            "partition=iid",
            "task.max_length=13",
            f"federation.rounds={options.rounds}",
        ]
        settings += ["federation.eval_every=1000", "privacy.accountant=rdp"]
        (job,) = plan([*settings, f"paths.runs={runs}", *options.overrides])
        room.run(job, Silent())
        size = sum(f.stat().st_size for f in Path(runs).rglob("round-*/*"))
    train, commit = statistics.median(training), statistics.median(committing[1:])
    print(f"round {train:.3f} s, commit {1e3 * commit:.1f} ms: {100 * commit / train:.2f} %")
    print(f"commits of {1e3 * min(committing):.1f} to {1e3 * max(committing):.1f} ms; ", end="")
    print(f"kept checkpoints {size / 1e6:.2f} MB")
    return 0


def _timed(owner: type, name: str) -> list[float]:
    """Seconds of every call of a method from now on."""
    original, seconds = getattr(owner, name), []

    def timed(*args, **more):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        try:
            return original(*args, **more)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(owner, name, timed)
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
