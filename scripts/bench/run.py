"""The engine beside its peers: same weights, same batches, same noise; seconds, tokens, memory.

    python -m scripts.bench.run k3                        every contestant that is installed
    python -m scripts.bench.run k3 --padded --reps 5      the peers padded to 128 as well
    python -m scripts.bench.run k3 --contestants stacked,stacked+bf16,peft_opacus
    python -m scripts.bench.run k30 --shared-gradient     beside the cheapest non-private pass
    python -m scripts.bench.run k3 --model distilbert     another family of models
    python -m scripts.bench.run gsm8k                     SmolLM2 on rows of GSM8K (dolly: of Dolly)

The floor is the arithmetic no engine can leave out at the rate of the fastest product there is
here; on a CPU both of torch's libraries are tried, ``torch.mm`` and oneDNN.

Needs torch and transformers; opacus and peft for the contestants that use them. Exit code 1 when
fp32 contestants do not end on the same adapters, 2 for a bad argument.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from scripts.bench.measure import Bench

ROOT = Path(__file__).resolve().parents[2]
Made = TypeVar("Made")
TOLERANCE = 1e-4  # of the relative difference between fp32 contestants


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print; the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    bench = prepare(args)
    if bench is None:
        return 2
    if args.memory_only:
        bench.warm_up(whole_round=True)
        print(json.dumps({"peak_mb": _peak_mb(bench.device.type)}))
        return 0
    peaks = {} if args.no_memory else _memory(arguments, [c.name for c in bench.contestants])
    report = bench.measure(args.reps, peaks)
    print(json.dumps(report, indent=1) if args.json else _table(report))
    worst = max((row["difference"] or 0.0 for row in report["rows"] if row["exact"]), default=0.0)
    if not worst <= TOLERANCE:
        print(f"bench: contestants differ by {worst:.1e}, more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    return 0


def prepare(args: argparse.Namespace) -> Bench | None:
    """Texts, weights and contestants, or one line on stderr and None."""
    _prepare_process(args.threads)
    from scripts.bench.measure import Bench

    return one_error("bench", Bench.of, args)


def one_error(program: str, make: Callable[..., Made], *args: Any) -> Made | None:
    """What ``make`` returns, or one line on stderr and None."""
    from ffalora_cli.config.errors import ConfigError
    from scripts.bench.contestants import UnknownContestant

    try:
        return make(*args)
    except (UnknownContestant, ConfigError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return None


def parser() -> argparse.ArgumentParser:
    """The arguments, which ``profile_step.py`` shares."""
    parser = OneLine(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="?", default="k3", help="k3, k30, k300, k3x100, paper …")
    parser.add_argument("--model", help="another shape than the profile's: distilbert, albert …")
    parser.add_argument("--contestants", help="names with commas; the first is what others are to")
    parser.add_argument("--padded", action="store_true", help="also the peers padded to 128")
    parser.add_argument("--method", choices=("ffa", "lora"), default="ffa")
    parser.add_argument("--no-privacy", action="store_true")
    parser.add_argument("--shared-gradient", action="store_true", help="add the cheapest pass")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, auto")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--max-tokens", type=positive, help="of a micro-batch; default: a run's")
    parser.add_argument("--reps", type=positive, default=3)
    parser.add_argument(
        "--data", default=os.environ.get("FFALORA_DATA"), help="folder of sst2, gsm8k, dolly15k"
    )
    parser.add_argument("--source", help="folder of SmolLM2; default: its package, if installed")
    parser.add_argument("--no-memory", action="store_true", help="no child process a contestant")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    return parser


class OneLine(argparse.ArgumentParser):
    """Errors without the usage block: one line, exit code 2."""

    def error(self, message: str) -> Any:
        """One line; the exit code is 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _prepare_process(threads: int) -> None:
    """Everything that has to be said before torch starts its threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a spinning thread would count as CPU seconds
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = os.environ["LRU_CACHE_CAPACITY"] = "256"
    for folder in (ROOT, ROOT / "scripts"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    # Of peers, about their own innards; nothing a reader of the table can act on.
    warnings.filterwarnings("ignore", message="Full backward hook is firing|`is_gradient_check")
    import torch

    torch.set_num_threads(threads)


def _memory(arguments: list[str], names: list[str]) -> dict[str, float | None]:
    """Peak MB of each contestant, alone in a fresh process, by its name."""
    peaks: dict[str, float | None] = {}
    for name in names:
        command = [sys.executable, __file__, *arguments, "--contestants", name, "--memory-only"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = done.stdout.strip().splitlines()[-1:] or ["null"]
        peaks[name] = json.loads(line[0])["peak_mb"] if done.returncode == 0 else None
    return peaks


def _peak_mb(device: str) -> float:
    """Of this process: on the GPU what torch allocated, otherwise resident memory."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would count the parent's peak too: Linux hands it on through fork and exec.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _table(report: dict[str, Any]) -> str:
    """The report as text."""
    head = ("contestant", "CPU s", "wall s", "CPU ratio", "wall ratio", "tokens/s", "padding")
    head += ("of peak", "x floor", "peak MB", "difference")
    lines = [head]
    for row in report["rows"]:
        memory = "–" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        difference = "–" if row["difference"] is None else f"{row['difference']:.1e}"
        lines.append(
            (
                row["name"],
                *(f"{row[key]:.3f}" for key in ("cpu_s", "wall_s", "cpu_ratio", "wall_ratio")),
                f"{row['tokens_per_s']:.0f}",
                f"{row['padding']:.1%}",
                f"{row['of_peak']:.1%}",
                f"{row['over_floor']:.2f}",
                memory,
                difference,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    body = [
        "  ".join(
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])],
        )
        for line in lines
    ]
    return "\n".join([*report["notes"], "", *body])


if __name__ == "__main__":
    sys.exit(main())
