"""Every family of models beside PEFT + Opacus: one shape, one round, fp32 and bf16.

    python -m scripts.bench.families                                   k3, all of them
    python -m scripts.bench.families k30 --families distilbert,albert --reps 5

All are of MiniLM's width, with random weights where none are packaged; the peer pads to the longest
text of each batch, the least it can. Ratios are of processor seconds within one repetition, of both
precisions to PEFT + Opacus in fp32. Exit code 1 when an fp32 update is not the peer's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from scripts.bench import run as bench

FAMILIES = ("minilm", "roberta", "distilbert", "electra", "albert", "modernbert")
PEER, OURS = "peft_opacus", ("stacked", "stacked+bf16")


def main(argv: list[str] | None = None) -> int:
    """Measure one family after the other, print a table; the exit code."""
    parser = bench.parser()
    parser.add_argument("--families", default=",".join(FAMILIES), help="some of them, with commas")
    args = parser.parse_args(argv)
    args.contestants, reports = ",".join((PEER, *OURS)), []
    for family in args.families.split(","):
        args.model = family
        found = bench.prepare(args)
        if found is None:
            return 2
        reports.append(_row(family, found, found.measure(args.reps, {})))
    print(json.dumps(reports, indent=1) if args.json else _table(reports))
    return int(any(not row["difference"] <= bench.TOLERANCE for row in reports))


def _row(family: str, found: Any, report: dict[str, Any]) -> dict[str, Any]:
    """What is compared of one family."""
    rows = {row["name"]: row for row in report["rows"]}
    return {
        "family": family,
        "machine": report["machine"],
        "floors": report["floors"],
        "packed": found.networks["fp32"].packs,
        "cpu_s": {name: row["cpu_s"] for name, row in rows.items()},
        "ratio": {name: rows[name]["cpu_ratio"] for name in OURS},
        "difference": rows[OURS[0]]["difference"],
        "difference_bf16": rows[OURS[1]]["difference"],
        "notes": report["notes"],
    }


def _table(reports: list[dict[str, Any]]) -> str:
    """A line a family under the notes of the last."""
    head = (
        "family",
        "rows",
        "peer s",
        "fp32 s",
        "bf16 s",
        "fp32 ratio",
        "bf16 ratio",
        "difference",
    )
    lines = [*reports[-1]["notes"][1:], "", "".join(f"{cell:>12}" for cell in head)]
    for row in reports:
        seconds = [f"{row['cpu_s'][name]:.3f}" for name in (PEER, *OURS)]
        ratios = [f"{row['ratio'][name]:.3f}" for name in OURS]
        rows = "packed" if row["packed"] else "padded"
        cells = (row["family"], rows, *seconds, *ratios, f"{row['difference']:.1e}")
        lines.append("".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
