"""Where the time of one round of the stacked engine goes.

    python -m scripts.bench.profile_step k3
    python -m scripts.bench.profile_step k30 --method lora --device cuda --precision bf16

Operators are timed by torch.profiler (on a GPU: their kernels) and sorted by what they are part
of. The profiler itself costs some per cent; shares are meant, not seconds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from scripts.bench import run as bench

GROUPS = (
    "linear layers forward",
    "linear layers backward",
    "attention",
    "adapters",
    "embedding, norms, gelu",
    "gather, clip, sum, noise, step",
    "copies and the rest",
)
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
ATTENTION = ("scaled_dot_product", "ScaledDotProduct", "_ShortAttention")
POINTWISE = ("layer_norm", "layernorm", "gelu", "embedding", "tanh")
FORWARD, GRADIENTS = "forward of a micro-batch", "gradients of a micro-batch"


def main(argv: list[str] | None = None) -> int:
    """Profile one round; the exit code."""
    parser = bench.parser()
    parser.add_argument("--operators", type=int, default=0, help="also the N slowest operators")
    args = parser.parse_args(argv)
    args.contestants, args.shared_gradient = "stacked", False
    found = bench.prepare(args)
    if found is None:
        return 2
    operators, passes = profile(found)
    rows: Counter[str] = Counter()
    for (group, _), spent in operators.items():
        rows[group] += spent
    total = sum(rows.values()) or 1.0
    print("\n".join(found.notes))
    print(f"{passes} micro-batches in {found.profile.steps} steps\n")
    for group in GROUPS:
        print(f"{group:32}{rows[group] / 1e6:10.3f} s{rows[group] / total:8.1%}")
    print(f"{'together':32}{total / 1e6:10.3f} s")
    for (group, name), spent in operators.most_common(args.operators):
        print(f"  {name:46}{spent / 1e6:8.3f} s{spent / total:8.1%}  {group}")
    return 0


def profile(found: Any) -> tuple[Counter[tuple[str, str]], int]:
    """Microseconds by (group, operator) over one round, and the number of micro-batches.

    Args:
        found: a ``bench_measure.Bench`` with the stacked engine alone.
    """
    import torch
    from torch.profiler import ProfilerActivity

    from ffalora_cli.engine.build import build_engine

    contestant = found.contestants[0]
    network, job = found.networks[contestant.precision], found.job_of(contestant)
    engine = build_engine("stacked", network, found.examples, found.max_tokens)
    engine.train(replace(job, batches=job.batches[:1]))  # warm
    engine.per_example_gradients = _named(GRADIENTS, engine.per_example_gradients)
    network.outputs = _named(FORWARD, network.outputs)
    on_gpu = found.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities, record_shapes=True) as recorded:
        engine.train(job)
        if on_gpu:
            torch.cuda.synchronize()
    operators: Counter[tuple[str, str]] = Counter()
    passes = 0
    for event in recorded.events():
        passes += event.name == FORWARD and event.device_type == torch.autograd.DeviceType.CPU
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if event.device_type == torch.autograd.DeviceType.CPU:
            operators[group_of(event), event.name] += spent
    return operators, passes


def _named(label: str, function: Any) -> Any:
    """``function`` inside a named range of the profile."""
    import torch

    def call(*args: Any, **named: Any) -> Any:
        with torch.profiler.record_function(label):
            return function(*args, **named)

    return call


def group_of(event: Any) -> str:
    """What an operator is part of, by its own and its callers' names and its shapes."""
    callers = list(_callers(event))
    around = " ".join(callers)
    backward = "evaluate_function" in around or "Backward" in around
    if any(word in around for word in ATTENTION):
        return "attention"
    if "_AddProducts" in around:
        return "adapters"
    if any(word in around.lower() for word in POINTWISE):
        return "embedding, norms, gelu"
    if event.name in PRODUCTS and (backward or FORWARD in callers):
        if "aten::linear" in callers or "_OneDnn" in callers:
            return "linear layers forward"
        if _touches_rank(event.input_shapes):
            return "adapters"
        return "linear layers backward" if backward else "linear layers forward"
    if not backward and FORWARD not in callers:
        return "gather, clip, sum, noise, step"
    return "copies and the rest"


def _callers(event: Any) -> Iterator[str]:
    """The operator's name and those of all it was called from."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _touches_rank(shapes: list[list[int]]) -> bool:
    """Whether a factor matrix takes part: one of the last two extents is the rank."""
    from scripts.bench.workload import RANK

    return any(RANK in shape[-2:] for shape in shapes if len(shape) >= 2)


if __name__ == "__main__":
    sys.exit(main())
