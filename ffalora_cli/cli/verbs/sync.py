"""``ffalora sync``: replay the local records of a run into a tracker that missed some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE, FAILED
from ffalora_cli.config.errors import ConfigError, counted

_EXAMPLES = """\
examples:
  ffalora sync runs/bbc_news-ffa_lora-s0-0123456789ab
  ffalora sync bbc_news tracking.mode=offline tracking.project=mine

Rounds the tracker has already are left out, so nothing is drawn twice."""


def main(arguments: Sequence[str]) -> int:
    """Replay one run; what is private in a private run stays at home, as it does during the run."""
    from ffalora_cli.compose.jobs import recorded
    from ffalora_cli.records.lock import check_unlocked
    from ffalora_cli.records.reading import find_run, read_run
    from ffalora_cli.records.trackers.base import RunFacts, open_tracker

    parser = Parser("sync", "Replay a run's records into its tracker (default: wandb).", _EXAMPLES)
    parser.add_argument("run", help="a folder, or the beginning of its name or signature")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    options = parser.read(arguments)
    folder = find_run(options.runs, options.run)
    check_unlocked(folder)
    job = recorded(folder, options.overrides)
    if job.config.tracking.name == "none":
        job = recorded(folder, [*options.overrides, "tracking.name=wandb"])
    for note in job.notes:
        print(note)
    if job.config.tracking.name == "none":
        raise ConfigError("sync: W&B is off; unset that, or name another: tracking=tensorboard")
    tracker = open_tracker(job.config.tracking)
    records = read_run(folder)
    facts = RunFacts.of(folder, job.config.name, job.resolved)
    tracker.start(dataclasses.replace(facts, replayed=True))
    for record in records.rounds:
        tracker.log(record)
    tracker.finish(records.summary)
    for note in tracker.notes:
        print(note)
    failed = any("tracker off" in note for note in tracker.notes)
    if not failed:
        sent = counted(len(records.rounds), "round")
        print(f"{tracker.url or 'the tracker'} has {sent} of {folder.name}")
    return FAILED if failed else DONE
