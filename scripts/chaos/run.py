"""How much a run survives; ``python -m scripts.chaos.run KIND --count N`` prints a table's row.

    crashpoints   die at a system call, in a forked child      (about 0.4 s each on one core)
    corruption    damage a checkpoint                          (about 0.3 s each)
    diskfull      no space after some bytes                    (about 0.5 s each)
    determinism   side by side, threads, orders, resumes       (about 3 s each, at most 54)
    kills         SIGKILL the real process                     (two process starts each)
    fuzz          damaged input for every reader               (about 0.01 s each)
    hostile       planted links, forged files, remote code     (about 0.5 s each, all of them)
    malformed     wrong configs in the real process            (about 1 s each)
    secrets       keys in the environment, searched everywhere (three runs, all of them)
    signals       SIGTERM and SIGINT the real process          (two process starts each)
    trackers      absent, hanging, failing, killed trackers    (about 4 s each)

Everything is small and random but real: packaged texts, a two-layer BERT, the whole of ``run``.
"""

from __future__ import annotations

import argparse
import os
import time

from scripts.chaos import breaks, fuzz, hostile, process, trackers

KINDS = {
    "crashpoints": breaks.crashpoints,
    "corruption": breaks.corruption,
    "diskfull": breaks.diskfull,
    "determinism": breaks.determinism,
    "fuzz": fuzz.fuzz,
    "hostile": hostile.hostile,
    "malformed": hostile.malformed,
    "secrets": hostile.secrets,
    "kills": process.kills,
    "signals": process.signals,
    "trackers": trackers.trackers,
}


def main() -> int:
    """Run one kind of trial; exit code 1 when one of them went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=20, help="trials (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    row = KINDS[options.kind](options.count, options.seed)
    print(row.text())
    print(f"    {time.monotonic() - began:.0f} s")
    return int(row.good != row.tried)


if __name__ == "__main__":
    raise SystemExit(main())
