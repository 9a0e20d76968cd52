"""``ffalora resume``: go on with a run that stopped, or start a new one from its last round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.running import play_shared
from ffalora_cli.config.job import Job

_EXAMPLES = """\
examples:
  ffalora resume runs/bbc_news-ffa_lora-s0-0123456789ab
  ffalora resume bbc_news engine.device=cuda tracking.name=wandb
  ffalora resume bbc_news --fork federation.local_lr=0.5

The rest of the run has the bits it would have had. Device, threads, chunking, tracking and paths
may change; anything else is another run: refused, or with --fork a new one from there."""


def main(arguments: Sequence[str]) -> int:
    """Go on with one run."""
    from ffalora_cli.compose.jobs import recorded
    from ffalora_cli.records.reading import find_run

    parser = Parser("resume", "Go on with a run that stopped on the way.", _EXAMPLES)
    parser.add_argument("run", help="a folder, or the beginning of its name or signature")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--fork", action="store_true", help="start a new run from its last round")
    parser.add_argument("--quiet", action="store_true", help="print only the last lines")
    options = parser.read(arguments)
    command = ("ffalora", "resume", *arguments)

    def job() -> Job:
        folder = find_run(options.runs, options.run)
        where, fork_of = (None, folder) if options.fork else (folder, None)
        there = recorded(folder, options.overrides, options.fork)
        return replace(there, command=command, folder=where, fork_of=fork_of)

    return play_shared(job, options.quiet)
