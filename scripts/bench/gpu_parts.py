"""The parts of ``scripts.bench.gpu``: each a function of a device that returns a ``Report``.

Each runs in a process of its own with torch and transformers; what else it uses where it is there
(pytest, peft, opacus, dp_accounting), it says.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from scripts.bench import run as bench

STEP_MS, OVER_PEER, COHORT = 35.0, 10.0, 3.0  # targets on an H200
JOBS = 8


@dataclass
class Report:
    """What a part found.

    Attributes:
        facts: for the JSON.
        lines: for the table.
        missed: targets that were not reached, in words.
        wrong: results that are not what they must be, in words.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def target(self, what: str, value: float, good: bool) -> None:
        """Note a figure that has a target."""
        self.lines.append(f"{what}: {value:.4g}")
        if not good:
            self.missed.append(f"{what}: {value:.4g}")


def machine(device: str, smoke: bool) -> Report:
    """What is here, and how fast it multiplies."""
    from ffalora_cli.engine.machine import machine_name, product_rates

    here, seconds = torch.device(device), 0.02 if smoke else 0.3
    facts: dict[str, Any] = {"name": machine_name(here), "torch": torch.__version__}
    facts["python"], facts["cuda"] = sys.version.split()[0], torch.version.cuda
    rates = {p: max(product_rates(here, p, seconds).values()) for p in ("fp32", "bf16")}
    if here.type == "cuda":
        facts["free"], facts["memory"] = torch.cuda.mem_get_info(here)
        torch.set_float32_matmul_precision("high")
        rates["tf32"] = max(product_rates(here, "fp32", seconds).values())
    facts["flops"] = rates
    told = ", ".join(f"{p} {rate / 1e12:.3g}" for p, rate in rates.items())
    return Report(facts, [f"{facts['name']}, torch {facts['torch']}; products, TFLOP/s: {told}"])


def tests(device: str, smoke: bool) -> Report:
    """The tests that carry the marker ``gpu``."""
    if importlib.util.find_spec("pytest") is None:
        return Report({"pytest": None}, ["not run: pytest is not installed"])
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-m", "gpu", "--tb=short"]
    done = subprocess.run(command, cwd=bench.ROOT, capture_output=True, text=True, check=False)
    tail = done.stdout.strip().splitlines()[-60:]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", tail[-1] if tail else "")}
    report = Report({"counts": counts, "tail": tail}, [tail[-1] if tail else done.stderr[-200:]])
    if done.returncode not in (0, 5):  # 5: nothing is selected
        report.wrong.append(f"pytest tests/gpu ended with {done.returncode}")
    return report


def k3(device: str, smoke: bool) -> Report:
    """A small round: what a GPU waits for is the launch of kernels."""
    names = ["stacked", "stacked+plain", "stacked+bf16", *_peer("peft_opacus")]
    return _contest("smoke" if smoke else "k3", names, device, 1 if smoke else 5)[0]


def roberta_large(device: str, smoke: bool) -> Report:
    """A step of 600 examples, random bf16 weights, beside PEFT + Opacus where it is installed."""
    names = ["stacked+bf16", "stacked+plain+bf16", *_peer("peft_opacus+bf16")]
    profile = "smoke" if smoke else "roberta-large"
    report, rows = _contest(profile, names, device, 1 if smoke else 7)
    if smoke:
        return report
    step = 1e3 * rows["stacked+bf16"]["wall_s"]
    report.target(f"ms a private step (<= {STEP_MS:g})", step, step <= STEP_MS)
    if names[2:]:
        times = rows[names[2]]["wall_ratio"]
        report.target(f"times PEFT + Opacus (>= {OVER_PEER:g})", times, times >= OVER_PEER)
    return report


def llama_7b(device: str, smoke: bool) -> Report:
    """A step of LLaMA-7B's shapes, bf16, with layers that keep and with layers that recompute."""
    from scripts.bench import large

    report, steps = Report(), {}
    settings = large.TINY if smoke else large.LLAMA_7B
    for recomputes in (False, True):
        name = "recomputed" if recomputes else "kept"
        work = partial(large.step, settings, device, recomputes, smoke)
        steps[name] = found = _with_peak(work)
        peak = found["peak_mb"]
        report.lines.append(
            f"layers {name}: {found['seconds'] * 1e3:.0f} ms a step of {found['tokens']:,} tokens "
            f"in micro-batches of {found['max_tokens']:,}; "
            + ("" if peak is None else f"{peak:,.0f} MB at most, ")
            + f"{(found['foretold_bytes'] + found['weights_bytes']) / 2**20:,.0f} MB foretold"
        )
        if found["padding"]:
            report.wrong.append(f"rows are padded: {found['padding']}")
        if peak is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
    for name, norm in steps["kept"]["norms"].items():
        if abs(steps["recomputed"]["norms"][name] - norm) > 1e-2 * norm:
            report.wrong.append(f"{name} differs where layers recompute")
    report.facts = steps
    return report


def _with_peak(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` found, and most MB held on the GPU meanwhile (None on a CPU)."""
    found: list[dict[str, Any]] = []
    peak = _peak_mb(lambda: found.append(work()))
    return found[0] | {"peak_mb": peak}


def _peer(name: str) -> list[str]:
    """The peer, where it is installed."""
    there = all(importlib.util.find_spec(package) for package in ("peft", "opacus"))
    return [name] if there else []


def _contest(
    profile: str, names: list[str], device: str, reps: int
) -> tuple[Report, dict[str, dict[str, Any]]]:
    """Contestants of ``scripts.bench.run`` on one profile, and their memory; rows by name."""
    words = [profile, "--device", device, "--contestants", ",".join(names)]
    found = bench.prepare(bench.parser().parse_args(words))
    assert found is not None, "the line above says why"
    found.warm_up(whole_round=True)  # a shape is captured the second time it is met
    peaks = {
        c.name: _peak_mb(lambda c=c: found.train[c.name](found.job_of(c)))
        for c in found.contestants
    }  # type: ignore[misc]
    report = found.measure(reps, peaks)
    rows = {row["name"]: row for row in report["rows"]}

    def memory(row: dict[str, Any]) -> str:
        return "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MB, "

    lines = [
        f"{name}: {row['wall_s'] * 1e3:.1f} ms a round, {row['tokens_per_s']:,.0f} tokens/s, "
        f"{memory(row)}{row['over_floor']:.1f} x the floor"
        for name, row in rows.items()
    ]
    lines += [f"not beside {p}: not installed" for p in ("peft", "opacus") if not _peer(p)]
    found_wrong = [
        f"{name} is off by {row['difference']:.1e}"
        for name, row in rows.items()
        if row["exact"] and (row["difference"] or 0.0) > bench.TOLERANCE
    ]
    return Report(report, lines, wrong=found_wrong), rows


def _peak_mb(work: Callable[[], object]) -> float | None:
    """Most MB that torch held on the GPU meanwhile, weights included; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def eight(device: str, smoke: bool) -> Report:
    """Eight times the clients in one pass, and eight processes side by side, against one.

    A pass holds the clients of one job; several jobs at once are several processes, which share
    the GPU in turns. The target is the pass's.
    """
    profile = "smoke" if smoke else "k3"
    report, rounds = Report(), 2 if smoke else 10
    one, many = (_seconds(profile, device, rounds, times) for times in (1, JOBS))
    report.target(
        f"{JOBS} x the clients in one pass, times one (<= {COHORT:g})",
        many / one,
        many <= COHORT * one or smoke,
    )
    jobs = 2 if smoke else JOBS
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_job(profile, device, rounds)) for _ in range(jobs)]
        for child in children:
            _line(child)  # it is warm
        for child in children:
            child.stdin.write("go\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        slowest = max(float(_line(child)) for child in children)
    report.lines.append(f"{jobs} processes side by side, times one: {slowest / one:.4g}")
    report.facts = {"one_s": one, "cohort_s": many, "processes": jobs, "processes_s": slowest}
    return report


def _seconds(profile: str, device: str, rounds: int, times: int = 1) -> float:
    """Seconds of a warm round of a profile with so many times its clients, in the median."""
    return statistics.median(_Rounds(profile, device, times).play(rounds))


class _Rounds:
    """Rounds of the stacked engine on a profile with so many times its clients, warm."""

    def __init__(self, profile: str, device: str, times: int = 1) -> None:
        from ffalora_cli.engine.build import build_engine
        from ffalora_cli.engine.memory import auto_max_tokens
        from scripts.bench import workload

        known = workload.PROFILES[profile]
        chosen = replace(known, clients=known.clients * times)
        examples, _ = workload.load_texts(chosen, None)
        backbone, _ = workload.load_weights(chosen.model, device)
        network = workload.make_network(backbone, "fp32", workload.MODELS[chosen.model].targets)
        self.job = workload.make_job(network, chosen, "ffa", private=True)
        self.engine = build_engine("stacked", network, examples, auto_max_tokens(network))
        self.play(3)

    def play(self, rounds: int) -> list[float]:
        """Seconds of each."""
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            self.engine.train(self.job)  # what it returns is on the CPU, so the GPU is done
            seconds.append(time.perf_counter() - began)
        return seconds


@contextlib.contextmanager
def _job(profile: str, device: str, rounds: int) -> Iterator[subprocess.Popen[str]]:
    """A process that says when it is warm, waits for a line, and prints seconds of a round."""
    code = "import sys; from scripts.bench.gpu_parts import one_job; one_job(*sys.argv[1:])"
    command = [sys.executable, "-c", code, profile, device, str(rounds)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=bench.ROOT, **pipes) as child:
        try:
            yield child
        finally:
            child.kill()


def one_job(profile: str, device: str, rounds: str) -> None:
    """The work of one process beside others."""
    made = _Rounds(profile, device)
    print("warm", flush=True)
    sys.stdin.readline()
    print(sum(made.play(int(rounds))) / int(rounds), flush=True)


def _line(child: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line:
        raise RuntimeError("a job beside others ended early; its error stands above")
    return line


def simulation(device: str, smoke: bool) -> Report:
    """A whole federated run and one that was resumed, bit for bit, in fp32 and bf16."""
    from scripts.bench.gpu_run import interrupted_and_whole

    private = importlib.util.find_spec("dp_accounting") is not None
    report = Report({"private": private})
    if not private:
        report.lines.append("without privacy: dp_accounting is not installed")
    for precision in ("fp32", "bf16"):
        began = time.perf_counter()
        different = interrupted_and_whole(device, precision, private, smoke)
        report.lines.append(
            f"{precision}, {time.perf_counter() - began:.1f} s: "
            + (f"{len(different)} tensors differ" if different else "resumed and whole are equal")
        )
        report.facts[precision] = different
        report.wrong += [f"{precision}: {name} differs after a resume" for name in different]
    return report
