"""What one step asks of a GPU, counted without one: kernels, bytes, arithmetic, memory.

    python -m scripts.bench.kernels                       RoBERTa-large 3 x 200, rank 8, four rows
    python -m scripts.bench.kernels --precision bf16 --operators 12
    python -m scripts.bench.kernels k3 --json

Shapes alone are computed (``imagined``), by the engine's own way on a GPU. Counted is a whole step,
all its micro-batches, noise and optimiser: a round of one step less a round of none. Beside the
bytes stands how long a GPU of 4 TB/s would take for them, beside the arithmetic how long one of
989 TFLOP/s in bf16 or 67 in fp32 (an H200).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from scripts.bench.run import OneLine, one_error, positive

BANDWIDTH, RATES = 4e12, {"bf16": 989e12, "fp32": 67e12}  # an H200's, a second


def main(argv: list[str] | None = None) -> int:
    """Count and print; the exit code."""
    parser = OneLine(prog="kernels", description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="?", default="roberta-large")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: both")
    parser.add_argument("--privacy", choices=("yes", "no"), help="default: both")
    parser.add_argument("--method", choices=("ffa", "lora"), default="ffa")
    parser.add_argument("--max-tokens", type=positive, help="of a micro-batch; default: a run's")
    parser.add_argument("--operators", type=int, default=0, help="also the N that move most")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rows = []
    for precision in (args.precision,) if args.precision else ("bf16", "fp32"):
        for private in {"yes": (True,), "no": (False,)}.get(args.privacy, (True, False)):
            row = one_error("kernels", count, args, precision, private)
            if row is None:
                return 2
            rows.append(row)
    print(json.dumps(rows, indent=1) if args.json else "\n".join(_table(rows, args.operators)))
    return 0


def count(args: argparse.Namespace, precision: str, private: bool) -> dict[str, Any]:
    """What a step of the profile asks for.

    Args:
        args: profile, method, max_tokens.
        precision: of the frozen weights.
        private: with per-example clipping and noise.

    Raises:
        ConfigError: no such profile.
    """
    import torch

    from ffalora_cli.config.errors import choose
    from ffalora_cli.engine.build import build_engine
    from ffalora_cli.engine.memory import auto_max_tokens
    from ffalora_cli.models.backbone import Backbone
    from ffalora_cli.tasks.text_classification import TASK
    from scripts.bench import workload
    from scripts.bench.contestants import as_plain
    from scripts.bench.imagined import imagined_gpu, watched

    if args.profile not in workload.PROFILES:
        raise choose("profile", args.profile, tuple(workload.PROFILES))
    profile = replace(workload.PROFILES[args.profile], steps=1)
    examples, _ = workload.load_texts(profile, None)
    with torch.device("meta"):
        model = workload.random_model(profile.model)
    with imagined_gpu():
        backbone = Backbone(model, "imagined", (), TASK, real=False)
        targets = workload.MODELS[profile.model].targets
        network = workload.make_network(backbone, precision, targets)
        job = workload.make_job(network, profile, args.method, private=True)
        job = job if private else as_plain(job)
        max_tokens = args.max_tokens or auto_max_tokens(network)
        engine: Any = build_engine("stacked", network, examples, max_tokens)
        engine._shapes.graph = None  # what would be captured is done instead, and seen
        passes, losses = [], network.losses
        network.losses = lambda *args: (passes.append(1), losses(*args))[1]  # type: ignore[method-assign, func-returns-value]
        with watched() as nothing:
            engine.train(replace(job, batches=[]))
        with watched() as work:
            trained = engine.train(job)
    step = work - nothing
    return {
        "profile": args.profile,
        "precision": precision,
        "private": private,
        "micro_batches": len(passes),
        "kernels": step.operators.total(),
        "bytes": step.bytes.total(),
        "flops": step.flops,
        "peak_bytes": step.peak,
        "tokens": trained.tokens,
        "rows": trained.padded_tokens,
        "operators": {n: [step.operators[n], b] for n, b in step.bytes.most_common()},
    }


def _table(rows: list[dict[str, Any]], operators: int) -> list[str]:
    """A line a count; under each the operators that move most."""
    head = (
        "precision",
        "private",
        "passes",
        "rows",
        "kernels",
        "GB moved",
        "ms",
        "TFLOP",
        "ms",
        "GB held",
    )
    lines = [
        f"{rows[0]['profile']}: a step of {rows[0]['tokens']} tokens, counted",
        "".join(f"{cell:>10}" for cell in head),
    ]
    for row in rows:
        cells = (
            row["precision"],
            "yes" if row["private"] else "no",
            str(row["micro_batches"]),
            f"{row['rows']:,}",
            f"{row['kernels']:,}",
            f"{row['bytes'] / 1e9:.1f}",
            f"{1e3 * row['bytes'] / BANDWIDTH:.1f}",
            f"{row['flops'] / 1e12:.2f}",
            f"{1e3 * row['flops'] / RATES[row['precision']]:.1f}",
            f"{row['peak_bytes'] / 1e9:.1f}",
        )
        lines.append("".join(f"{cell:>10}" for cell in cells))
        for name, (times, moved) in list(row["operators"].items())[:operators]:
            lines.append(f"{'':10}{name:44}{times:8,}{moved / 1e9:10.2f} GB")
    return lines


if __name__ == "__main__":
    sys.exit(main())
