"""Everything a GPU must show, in under four minutes, on a machine with torch and transformers.

    python -m scripts.bench.gpu --out DIR
    python -m scripts.bench.gpu --out DIR --only roberta_large,simulation
    python -m scripts.bench.gpu --out DIR --device cpu --smoke      tiny shapes: does it run at all

One part after the other, each in a process of its own with a time limit; a part that fails is
written down and does not end the others. ``DIR/<part>.json`` is there as soon as a part is done,
``DIR/gpu.json`` has all of them. Exit code 1 when a part failed, was wrong or missed a target, 2
for a bad argument.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.bench.run import ROOT, OneLine

LIMITS = {
    "machine": 20,
    "k3": 40,
    "roberta_large": 75,
    "simulation": 35,
    "eight": 40,
    "llama_7b": 60,
    "tests": 70,
}
"""Seconds a part may take, in order; what matters most comes first."""
WHOLE = 235  # seconds after which no part is begun, and by which the last is ended


def main(argv: list[str] | None = None) -> int:
    """Run the parts, write and print what they found; the exit code."""
    parser = OneLine(prog="gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for the JSON, made where it is not")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, no speed is judged")
    parser.add_argument("--only", default=",".join(LIMITS), help="some parts, with commas")
    args = parser.parse_args(argv)
    parts, out = args.only.split(","), Path(args.out)
    unknown = [part for part in parts if part not in LIMITS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(LIMITS)}")
    out.mkdir(parents=True, exist_ok=True)
    found, began = {}, time.monotonic()
    patience = 10 if args.smoke else 1  # that is asked on busy machines, and not how fast they are
    for part in parts:
        left = patience * WHOLE - (time.monotonic() - began)
        limit = min(patience * LIMITS[part], left)
        found[part] = _part(part, args.device, args.smoke, limit)
        (out / f"{part}.json").write_text(json.dumps(found[part], indent=1))
        print("\n".join(_lines(part, found[part])), flush=True)
    seconds = time.monotonic() - began
    (out / "gpu.json").write_text(json.dumps({"seconds": seconds, "parts": found}, indent=1))
    bad = [part for part, row in found.items() if row["state"] != "ok"]
    told = f"; not ok: {', '.join(bad)}" if bad else ""
    print(f"\n{len(found) - len(bad)} of {len(found)} parts ok, {seconds:.0f} s{told}")
    return int(bool(bad))


def _part(name: str, device: str, smoke: bool, limit: float) -> dict[str, Any]:
    """One part in a process of its own: state, seconds, and what it found or why it did not."""
    if limit <= 0:
        return {"state": "failed", "seconds": 0.0, "why": f"no time left of {WHOLE} s"}
    command = [sys.executable, "-c", _CODE, name, device, "smoke" if smoke else ""]
    began = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)
    try:
        told, error = child.communicate(timeout=limit)
        why = "" if child.returncode == 0 else "\n".join(error.strip().splitlines()[-12:])
        failed = child.returncode != 0
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # with what it started
        child.communicate()
        failed, why, told = True, f"longer than {limit:.0f} s", ""
    row: dict[str, Any] = {"state": "failed", "seconds": time.monotonic() - began}
    if failed:
        return row | {"why": why or f"ended with {child.returncode}"}
    row |= json.loads(told.strip().splitlines()[-1])
    return row | {"state": "wrong" if row["wrong"] else "missed" if row["missed"] else "ok"}


_CODE = """
import sys
from scripts.bench.gpu import child
child(*sys.argv[1:])
"""


def child(name: str, device: str, smoke: str) -> None:
    """A part, in its process: its report is the last line on stdout."""
    from ffalora_cli.engine.build import pick_device
    from scripts.bench import gpu_parts

    report = getattr(gpu_parts, name)(pick_device(device), bool(smoke))
    print(json.dumps(asdict(report)))


def _lines(part: str, row: dict[str, Any]) -> list[str]:
    """A part's lines of the table."""
    lines = [f"{row['state']:<8}{part:<16}{row['seconds']:5.1f} s"]
    told = [*row.get("lines", ()), *row.get("why", "").splitlines()]
    told += [f"WRONG: {text}" for text in row.get("wrong", ())]
    told += [f"MISSED: {text}" for text in row.get("missed", ())]
    return lines + [f"{'':8}{text}" for text in told]


if __name__ == "__main__":
    sys.exit(main())
