"""``ffalora validate``: compose and check, say who the runs are and which exist; nothing starts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.done import check_done
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.compose.jobs import from_file, plan
from ffalora_cli.config.errors import ConfigError, counted
from ffalora_cli.config.job import Job
from ffalora_cli.models.source import check_processor_files
from ffalora_cli.records.run_directory import run_folder

SCHEMA = 1
_SHOWN = 40  # jobs printed; --format json has them all
_EXAMPLES = """\
examples:
  ffalora validate experiment=glue_sst2_dp privacy.epsilon_target=3
  ffalora validate -m method=lora,ffa_lora seed=0,1,2
  ffalora validate runs/NAME/config.yaml federation.rounds=50

Exit code 0: everything composes and fits together; 2: it does not, and why: also where a finished
run was made from data, weights or a tokenizer that have changed since. What only the data can tell
(rows of a client, the budget) is checked by ffalora plan."""


def main(arguments: Sequence[str]) -> int:
    """Check every job of the command line."""
    parser = Parser("validate", "Check a configuration without running it.", _EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="FILE.yaml|OVERRIDE", help=OVERRIDES)
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: a=1,2 range() glob()")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.read(arguments)
    jobs = _jobs(options.words, options.multirun)
    read = [(job.config.model, job.config.task.image_column is not None) for job in jobs]
    for model, images in {repr(one): one for one in read}.values():
        check_processor_files(model, images)
    found = [_row(job) for job in jobs]
    notes = check_done(jobs, options.multirun)
    if options.format == "json":
        print(json.dumps({"schema": SCHEMA, "jobs": found, "notes": notes}, indent=2))
        return DONE
    print("\n".join([*_lines(found), *(line for n in notes for line in labelled("note", n))]))
    return DONE


def _jobs(words: Sequence[str], sweep: bool) -> list[Job]:
    files = [word for word in words if "=" not in word and word.endswith((".yaml", ".yml"))]
    if not files:
        return plan(words, sweep)
    if len(files) > 1 or sweep:
        raise ConfigError(f"validate {files[-1]}: one file at a time, without -m")
    rest = [word for word in words if word != files[0]]
    return [from_file(Path(files[0]).expanduser(), rest)]


def _row(job: Job) -> dict[str, Any]:
    """Name, folder and state of a job."""
    from ffalora_cli.records.state import progress_of

    folder = run_folder(job)
    return {
        "overrides": list(job.overrides),
        "signature": job.signature,
        "folder": str(folder),
        "state": progress_of(folder).state if folder.is_dir() else "new",
    }


def _lines(found: Sequence[dict[str, Any]]) -> list[str]:
    if len(found) == 1:
        (row,) = found
        lines = labelled("valid", f"signature {row['signature']}, {row['state']}")
        return lines + labelled("folder", row["folder"])
    states = [row["state"] for row in found]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    signatures = len({row["signature"] for row in found})
    same = "" if signatures == len(found) else f", only {counted(signatures, 'different run')}"
    lines = labelled("valid", f"{counted(len(found), 'job')}{same}: {counts}")
    shared = set.intersection(*(set(row["overrides"]) for row in found))
    for number, row in enumerate(found[:_SHOWN], start=1):
        own = shlex.join(text for text in row["overrides"] if text not in shared)
        lines.append(f"{number:>5}  {row['signature']}  {row['state']:<8} {own}".rstrip())
    if len(found) > _SHOWN:
        lines.append(f"{'...':>5}  {len(found) - _SHOWN} more; --format json has them all")
    return lines
