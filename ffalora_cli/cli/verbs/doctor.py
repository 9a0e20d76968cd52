"""``ffalora doctor``: is this machine fit for a run? One line a check, one remedy a trouble."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE, FAILED
from ffalora_cli.cli.installation import Finding, findings

SCHEMA = 1
_NAME = 22
_EXAMPLES = """\
examples:
  ffalora doctor
  ffalora doctor --no-self-test --format json

Exit code 1 when something fails. Nothing is sent over a network; of a tracker's key only its
presence is looked at."""


def main(arguments: Sequence[str]) -> int:
    """Check the installation, then the machinery."""
    parser = Parser("doctor", "Check versions, devices, caches, and the machinery.", _EXAMPLES)
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--cache", help="paths.cache; default: $FFALORA_CACHE or ~/.cache/ffalora")
    parser.add_argument(
        "--no-self-test", action="store_true", help="leave out the 10 seconds of it"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.read(arguments)
    table, seen = options.format == "table", []
    for finding in _all(options.runs, options.cache, not options.no_self_test):
        seen.append(finding)
        if table:
            print("\n".join(_lines(finding)), flush=True)
    states = [finding.state for finding in seen]
    if table:
        counts = ", ".join(f"{states.count(s)} {s}" for s in ("ok", "warn", "fail"))
        print(f"\n{counts}")
    else:
        print(json.dumps({"schema": SCHEMA, "checks": [asdict(f) for f in seen]}, indent=2))
    return FAILED if "fail" in states else DONE


def _all(runs: str, cache: str | None, thorough: bool) -> Iterator[Finding]:
    yield from findings(runs, cache)
    if not thorough:
        return
    from ffalora_cli.audit.self_test import self_test
    from ffalora_cli.engine.build import pick_device

    for result in self_test(pick_device("auto")):
        remedy = (
            "" if result.passed else "do not trust runs of this machine; report it with this line"
        )
        name = f"self-test {result.name}"
        yield Finding(name, "ok" if result.passed else "fail", result.said, remedy)


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.state:<5}{finding.name:<{_NAME}}"
    lines = _wrapped(head, finding.said)
    return lines + (_wrapped(" " * len(head) + "-> ", finding.remedy) if finding.remedy else [])


def _wrapped(head: str, text: str) -> list[str]:
    wrap = {"width": 80, "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, initial_indent=head, subsequent_indent=" " * len(head), **wrap)  # type: ignore[arg-type]
