"""``ffalora audit``: test a run's privacy mechanism as it is implemented."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli import keys
from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE, FAILED
from ffalora_cli.cli.screen import words
from ffalora_cli.compose.jobs import plan as plan_jobs
from ffalora_cli.compose.jobs import recorded
from ffalora_cli.config.errors import ConfigError, choose

if TYPE_CHECKING:
    import numpy as np

    from ffalora_cli.audit.mutants.run import Caught
    from ffalora_cli.audit.outcome import Check, Verdict
    from ffalora_cli.config.schema import Config

_TIERS = ("mechanism", "canary", "release", "all")
_EXAMPLES = """\
examples:
  ffalora audit                                    the embedded default
  ffalora audit runs/bbc_news-ffa_lora-s0-...     a finished run, its records too
  ffalora audit method=lora head.mode=trained privacy.epsilon_target=3
  ffalora audit --tier release                     what leaves: card, page, trackers, exports
  ffalora audit --mutants                          does the audit see what it should?

Exit codes: 0 nothing found, 1 a test failed or a rigorous bound exceeds the claim."""

LIMITS = (
    "An audit cannot prove privacy: it finds the faults it looks for, at these sample sizes.",
    "Not looked at: other hardware, the operating system's entropy, hyper-parameter choice, and "
    "whatever else is published of the run by hand (its folder, logs, pictures). Bounds from "
    "canaries miss most small faults; the tests come first.",
)


def main(arguments: Sequence[str]) -> int:
    """Audit, print the findings and one table, end with the verdict."""
    parser = Parser("audit", "Test a run's privacy mechanism as it is implemented.", _EXAMPLES)
    parser.add_argument("what", nargs="*", metavar="RUN|OVERRIDE", help=f"a run, or {OVERRIDES}")
    parser.add_argument("--tier", default="all", help=f"{', '.join(_TIERS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=3.0, help="time to spend (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="write everything found to this file")
    parser.add_argument("--mutants", action="store_true", help="break the code; report what it saw")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    options = parser.read(arguments)
    if options.tier not in _TIERS:
        raise choose("--tier", options.tier, _TIERS)
    if not options.minutes > 0:
        raise ConfigError(f"--minutes={options.minutes:g} should be above 0, e.g. 3")
    if options.json and not Path(options.json).parent.is_dir():
        raise ConfigError(f"--json {options.json}: its folder is not there; make it first")
    config, folder, signature = _subject(options.what, options.runs)
    if options.tier == "release" and not options.mutants:
        return _release(options, folder)
    from ffalora_cli.audit.run import check_auditable, client_sizes

    check_auditable(config, "mutants" if options.mutants else options.tier)
    secret, sizes = _secret(config, signature), client_sizes(config)
    if options.mutants:
        return _mutants(config, sizes, secret, options.json)
    return _audit(config, sizes, secret, folder, options)


def _secret(config: Config, signature: str) -> keys.Key:
    """Of the audit's own draws."""
    secret = keys.derive(config.seed, "audit", signature)
    return keys.SecureKey(secret) if config.privacy.noise == "secure" else secret


def _subject(what: Sequence[str], runs: str) -> tuple[Config, Path | None, str]:
    """Configuration, folder (of a run) and signature."""
    from ffalora_cli.records.reading import find_run, read_run

    code = [word for word in what if word.startswith("paths.plugins=")]
    names = [word for word in what if word not in code]
    if len(names) == 1 and "=" not in names[0]:
        records = read_run(find_run(runs, names[0], words.aside))
        config = recorded(records.path, code).config  # with all rules: the folder may be anybody's
        return config, records.path, str(records.manifest.get("signature"))
    (job,) = plan_jobs(what)
    return job.config, None, job.signature


def _audit(
    config: Config, sizes: np.ndarray, secret: keys.Key, folder: Path | None, options: Any
) -> int:
    from ffalora_cli.audit.mechanism.battery import effort_for
    from ffalora_cli.audit.mechanism.surrogate import build_subject
    from ffalora_cli.audit.recorded import recorded_checks
    from ffalora_cli.audit.run import audit, plan_of
    from ffalora_cli.privacy.claim.statement import sentence

    began = time.perf_counter()
    plan = plan_of(config, sizes)
    subject = build_subject(config, plan, secret)
    some = f"{subject.plan.num_clients} of its {plan.num_clients} clients"
    _print(
        words.labelled(
            "audit", f"{_what(config)}, {some}, on a surrogate of the model's architecture"
        )
    )
    _print(words.labelled("claim", sentence(plan)))
    if config.engine.name != "stacked":
        _print(words.labelled("note", f"of engine={config.engine.name} the sensitivity alone"))
    checks = recorded_checks(folder, config, plan) if folder else []
    verdict = audit(subject, options.tier, effort_for(options.minutes), checks)
    seconds = time.perf_counter() - began
    _print([*_checks(verdict.checks), "", *_table(verdict, options.tier)])
    _print(_verdict("nothing found against the claim", verdict.failures, seconds))
    _print([line for limit in LIMITS for line in words.labelled("note", limit)])
    if options.json:
        _write(options.json, _plain(config, verdict, seconds))
    return DONE if verdict.passed else FAILED


_SHORT = (
    *("federation.rounds=2", "federation.local_steps=1", "federation.eval_every=1"),
    *("federation.eval_clients=false", "privacy.accountant=rdp"),
)
"""What leaves is the same for more rounds; the other accountants take longer to plan."""


def _release(options: Any, folder: Path | None) -> int:
    """Run it three times with one unit as it is, removed and changed; compare all that leaves."""
    from ffalora_cli.audit.leaks.leaks import leak_checks
    from ffalora_cli.audit.leaks.neighbours import play_neighbours

    began = time.perf_counter()
    short = [word for word in _SHORT if word not in options.what]
    if folder is not None:
        job = recorded(folder, short)
    else:
        (job,) = plan_jobs([*options.what, *short])
    if job.config.privacy.unit == "none":
        raise ConfigError("privacy.unit=none promises nothing to audit; use privacy=text")
    unit = f"unit {job.config.privacy.unit}: two short rounds, three times"
    _print(words.labelled("audit", f"{_what(job.config)}, {unit}"))
    with tempfile.TemporaryDirectory() as within, _at_home(within):
        runs, exports = Path(within, "runs"), Path(within, "exports")
        played = play_neighbours(job, _secret(job.config, job.signature), runs)
        checks = leak_checks(played, job, exports)
    _print(_checks(checks))
    failed = [check.name for check in checks if not check.passed]
    seconds = time.perf_counter() - began
    _print(_verdict("nothing leaves that the list does not declare", failed, seconds))
    if options.json:
        plain = {"schema": 1, "passed": not failed, "failures": failed, "seconds": seconds}
        _write(options.json, plain | {"checks": [asdict(check) for check in checks]})
    return FAILED if failed else DONE


@contextmanager
def _at_home(folder: str) -> Iterator[None]:
    """Trackers write below ``folder`` and reach nobody, whatever the environment says."""
    kept = dict(os.environ)
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_DIR"):
        os.environ.pop(name, None)
    os.environ |= {"WANDB_MODE": "offline", "TRACKIO_DIR": str(Path(folder, "trackio"))}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _what(config: Config) -> str:
    return f"{config.method.name} on {config.task.name} with {config.model.name}"


def _checks(checks: Sequence[Check]) -> list[str]:
    lines = [""]
    for check in checks:
        mark = "passed" if check.passed else "FAILED"
        lines += words.labelled(mark, f"{check.name}: {check.text}")
    return lines


def _table(verdict: Verdict, tier: str) -> list[str]:
    """Claim and bounds, 80 columns."""
    lines = [f"{'epsilon at delta ' + format(verdict.delta, 'g'):<30}{'value':>9}{'of claim':>10}"]
    lines[0] += "  observer, confidence"
    lines.append(f"{'claim':<30}{verdict.claim:>9.3f}{'100 %':>10}")
    for bound in verdict.bounds:
        kind = "" if bound.rigorous else " (heuristic)"
        share = 100 * bound.epsilon_lower / verdict.claim
        seen = f"{bound.observer}, {100 * bound.confidence:g} %"
        name = f"{bound.name}{kind or ', at least'}"
        lines.append(f"{name:<30}{bound.epsilon_lower:>9.3f}{share:>8.1f} %  {seen}")
    passed = sum(check.passed for check in verdict.checks)
    if tier != "canary" or verdict.checks:
        lines.append(f"{'tests passed':<30}{passed:>9}{'of ' + str(len(verdict.checks)):>10}")
    return lines


def _verdict(good: str, failures: Sequence[str], seconds: float) -> list[str]:
    text = f"FAILED: {'; '.join(failures)}" if failures else f"PASSED: {good}"
    return ["", *words.labelled("verdict", f"{text} ({seconds:.0f} s)")]


def _mutants(config: Config, sizes: np.ndarray, secret: keys.Key, file: str | None) -> int:
    """Break the real code in every known way and say which check saw it."""
    from ffalora_cli.audit.mutants.run import MUTANTS, run_mutant

    results: list[Caught] = []
    for mutant in MUTANTS:
        result = run_mutant(config, sizes, secret, mutant)
        results.append(result)
        mark = "caught" if result.caught else "MISSED"
        _print([f"{mark:<8}{result.mutant:<36}{result.expected}"])
    caught = sum(result.caught for result in results)
    _print(["", f"{'mutants caught':<30}{caught:>9}{'of ' + str(len(results)):>10}"])
    if file:
        _write(file, {"mutants": [asdict(r) | {"caught": r.caught} for r in results]})
    return DONE if caught == len(results) else FAILED


def _plain(config: Config, verdict: Verdict, seconds: float) -> dict[str, Any]:
    """Everything found, under stable keys."""
    return {
        "schema": 1,
        "method": config.method.name,
        "task": config.task.name,
        "model": config.model.name,
        "claim": verdict.claim,
        "delta": verdict.delta,
        "passed": verdict.passed,
        "failures": verdict.failures,
        "checks": [asdict(check) for check in verdict.checks],
        "bounds": [asdict(bound) for bound in verdict.bounds],
        "cannot_show": list(LIMITS),
        "seconds": seconds,
    }


def _write(file: str, content: dict[str, Any]) -> None:
    from ffalora_cli.records.files import plain

    text = json.dumps(plain(content), indent=2)
    Path(file).write_text(text + "\n", encoding="utf-8")


def _print(lines: Sequence[str]) -> None:
    print(*lines, sep="\n", flush=True)
