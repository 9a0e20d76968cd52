"""How long planning takes: one plan, the paper's 36 plans, a thousand clients of different sizes.

    python -m scripts.bench.privacy

Nothing is read from the disk cache (a fresh folder is used), one process, PLD. Targets: a plan
<= 2 s, 36 plans < 60 s, a thousand clients < 120 s with their curves, reading a round < 0.05 s.
Exit code 1 when one is missed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import numpy as np

ROWS = {"sst2": 67_349, "qnli": 104_743, "qqp": 363_846, "mnli": 392_702}
SHARES = (0.3642, 0.3025, 0.3333)  # of three unequal clients, as label skew makes them
TARGETS = (6.0, 3.0, 1.0)
PLAN, PLANS, MANY, READ = 2.0, 60.0, 120.0, 0.05


def main() -> int:
    """Measure, print a table; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FFALORA_CACHE"] = folder
        rows = [*paper(), *thousand()]
    print(f"{'what':<52}{'seconds':>10}{'target':>10}")
    for what, seconds, target in rows:
        missed = "" if seconds <= target else "  MISSED"
        print(f"{what:<52}{seconds:>10.3f}{target:>10.2f}{missed}")
    return int(any(seconds > target for _, seconds, target in rows))


def paper() -> list[tuple[str, float, float]]:
    """Calibration of 4 tasks, 3 epsilons, 3 clients; T = 10,000, batch 200, delta 1e-5."""
    from ffalora_cli.privacy.accounting.accountant import Accountant

    Accountant("pld", 1e-5).noise_for(1.0, 0.1, 10)  # libraries are loaded once
    took = []
    for rows in ROWS.values():
        for share in SHARES:
            for target in TARGETS:
                began = time.perf_counter()
                Accountant("pld", 1e-5).noise_for(target, 200 / int(share * rows), 10_000)
                took.append(time.perf_counter() - began)
    return [
        ("calibration of one plan, median of 36", float(np.median(took)), PLAN),
        ("calibration of one plan, slowest of 36", max(took), PLAN),
        ("36 plans, one process", sum(took), PLANS),
    ]


def thousand() -> list[tuple[str, float, float]]:
    """A plan of 1,000 clients of 250 to 25,000 rows, and what a round reads from it."""
    from ffalora_cli.config.schema import FederationConfig, PrivacyConfig, ServerOptimizerConfig
    from ffalora_cli.privacy.claim.spent import spent
    from ffalora_cli.privacy.planning.make import make_plan

    sizes = np.geomspace(250, 25_000, 1_000).astype(np.int64)
    server = ServerOptimizerConfig("sgd", 1.0, 0.0, 0.99, 1e-3)
    federation = FederationConfig(
        *(1_000, None, "full", 1_000, 10, 32, "sgd", 0.5, 0.0, 0.0, "size", server),
        *("cached", "float32", 1, False),
    )
    privacy = PrivacyConfig("row", 6.0, 1e-5, None, 1.0, "pld", "per_client", "reproducible")
    began = time.perf_counter()
    plan = make_plan(privacy, sizes, federation, ["lora_b"])
    planned = time.perf_counter() - began
    assert plan is not None
    read = []
    for round in range(1, 21):
        taken = np.random.default_rng(round).integers(1, 1_000, 1_000) * 10
        began = time.perf_counter()
        spent(plan, taken)
        read.append(time.perf_counter() - began)
    distinct = len(np.unique(plan.accounted_rate))
    return [
        (f"1,000 clients ({distinct} rates), curves included", planned, MANY),
        ("reading epsilon of 1,000 clients, median", float(np.median(read)), READ),
    ]


if __name__ == "__main__":
    sys.exit(main())
