"""Write ``docs/metrics.md`` from ``ffalora_cli/metric_keys.py``.

Run it after changing a key or its words; a test compares the file with its output.
"""

from __future__ import annotations

from pathlib import Path

from ffalora_cli.metric_keys import METRICS
from ffalora_cli.records.leaving import metric_may_leave

FILE = Path(__file__).parents[1] / "docs" / "metrics.md"

_HEAD = """\
# Metrics

Written by `scripts/make_metrics_reference.py` from `ffalora_cli/metric_keys.py`; do not edit it
here.

Every key of `rounds.jsonl`, by which trackers, `ffalora compare` and `ffalora plot` know it too.
`<metric>` is one that the task declares (`accuracy`, `f1`, `mcc`), `<split>` the name of an
evaluation split after the first, `<layer>` that of an adapted layer. A round has the keys that say
something about it: scores where it was evaluated, a clip where it adapts. Round 0 is the
evaluation before training.

In a private run a tracker gets the keys of the last column (`ffalora_cli/records/leaving.py`);
the others are computed without noise and stay in the run folder.
"""
_TABLE = "| key | unit | better | leaves a private run | meaning |\n| --- | --- | --- | --- | --- |"


def reference() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD]
    for section in dict.fromkeys(key.split("/")[0] for key in METRICS):
        parts += [f"## `{section}/`\n", _TABLE]
        parts += [_row(key) for key in METRICS if key.startswith(f"{section}/")]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _row(key: str) -> str:
    metric = METRICS[key]
    inside, client = (metric_may_leave(key, unit) for unit in ("row", "client"))
    leaves = "yes" if client else "not at unit `client`" if inside else "no"
    return f"| `{key}` | {metric.unit} | {metric.better} | {leaves} | {metric.meaning} |"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
