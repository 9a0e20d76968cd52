"""Many clean audits with different seeds: how often does one raise a false alarm?

    python scripts/audit_trials.py --trials 40 [--seconds 600] [--tier mechanism] [OVERRIDE ...]

Every audit draws its own noise, batches and canaries; plan and surrogate are the same. Prints the
table of audits: false alarms by check, bounds as a share of the claim, seconds.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from dataclasses import replace

from ffalora_cli import keys
from ffalora_cli.audit.mechanism.surrogate import build_subject
from ffalora_cli.audit.outcome import LEVEL, Verdict
from ffalora_cli.audit.run import TIERS, audit, client_sizes, plan_of
from ffalora_cli.compose.jobs import plan as plan_jobs


def main() -> None:
    """Run the audits and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first audit")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start none after")
    parser.add_argument("--tier", choices=TIERS, default="all")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    options = parser.parse_args()
    (job,) = plan_jobs(options.overrides)
    plan = plan_of(job.config, client_sizes(job.config))
    subject = build_subject(job.config, plan, keys.derive(0, "audit trials"))
    began, verdicts, times = time.perf_counter(), [], []
    for trial in range(options.first, options.first + options.trials):
        start = time.perf_counter()
        if start - began > options.seconds:
            break
        secret = keys.derive(trial, "audit trials")
        verdicts.append(audit(replace(subject, secret=secret), options.tier))
        times.append(time.perf_counter() - start)
        print(f"seed {trial}: {', '.join(verdicts[-1].failures) or 'clean'}", flush=True)
    print(*table(verdicts, times), sep="\n")


def table(verdicts: list[Verdict], times: list[float]) -> list[str]:
    """False alarms, bounds and times as lines of text."""
    claim, count = verdicts[0].claim, len(verdicts)
    alarms = Counter(check.name for v in verdicts for check in v.checks if not check.passed)
    failed = sum(not v.passed for v in verdicts)
    expected = count * LEVEL
    lines = [
        f"{count} clean audits, {len(verdicts[0].checks)} checks each, claim {claim:.4f}",
        f"audits with a false alarm   {failed}  (at most {expected:.3f} expected by chance)",
        *(f"  {name}: {n}" for name, n in alarms.items()),
        f"{'bound':<28}{'observer':<14}{'mean':>8}{'least':>8}{'most':>8}  above the claim",
    ]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for verdict in verdicts:
        for bound in verdict.bounds:
            name = bound.name if bound.rigorous else f"{bound.name} (heuristic)"
            found[name, bound.observer].append(bound.epsilon_lower / claim)
    for (name, observer), shares in found.items():
        mean = sum(shares) / len(shares)
        above = sum(share > 1.0 for share in shares)
        values = "".join(f"{100 * x:>6.1f} %" for x in (mean, min(shares), max(shares)))
        lines.append(f"{name:<28}{observer:<14}{values}  {above} of {count}")
    median = sorted(times)[count // 2]
    lines.append(f"seconds an audit: median {median:.1f}, most {max(times):.1f}")
    return lines


if __name__ == "__main__":
    main()
