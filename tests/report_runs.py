"""Run folders with chosen numbers, written by the code that writes real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffalora_cli.cli.jobs import plan
from ffalora_cli.records.manifest import build_manifest
from ffalora_cli.records.run_directory import open_run, round_lines
from ffalora_cli.records.summary import summarize
from ffalora_cli.types import RoundRecord

STATEMENT = {
    "sentence": "epsilon 6.00 (largest of 3 clients; unit example, add/remove one, delta 1e-5, "
    "Poisson sampling, PLD accountant)",
    "unit": "example",
    "relation": "add/remove one",
    "sampling": "poisson",
    "accountant": "pld",
    "delta": 1e-5,
}


def write_run(
    runs: Path,
    overrides: Sequence[str],
    scores: Sequence[float],
    *,
    finished: bool = True,
    statement: dict[str, Any] | None = None,
    again: bool = False,
    extra: dict[str, Any] | None = None,
    more: dict[str, float] | None = None,
) -> Path:
    """A run whose accuracy after round r is ``scores[r]``; 100 bytes go up in each.

    Args:
        runs: folder of all runs.
        overrides: of the run; with ``privacy=none`` it has no statement.
        scores: by round, from round 0.
        finished: with a summary.
        statement: changes to the privacy statement.
        again: in a folder of its own.
        extra: changes to the manifest.
        more: further metrics of every round.
    """
    (job,) = plan([*overrides])
    private = job.config.privacy.unit != "none"
    records = []
    for number, score in enumerate(scores):
        metrics = {"eval/accuracy": score, "eval/loss": 1 - score, **(more or {})}
        metrics["comm/uplink_bytes_total"] = 100.0 * number
        if private and number:
            metrics["privacy/epsilon_spent"] = job.config.privacy.epsilon_target or 1.0
        records.append(RoundRecord(number, metrics))
    split = job.config.task.eval_split
    evaluated = {"fingerprint": f"rows of {job.config.task.name}"}
    facts = {
        "overrides": list(overrides),
        "data": {"eval_on": job.config.task.eval_on, "evals": {split: evaluated}},
        "identity": {"data": {"clients": f"split {job.config.partition.seed}"}},
    }
    with open_run(runs, job.config.name, job.signature, again).claim() as directory:
        manifest = build_manifest(
            id=directory.id,
            signature=job.signature,
            command=["ffalora", "run", *overrides],
            device="cpu",
            threads=1,
            seeds={"run": job.config.seed},
            data_fingerprints={"train": "aaaa"},
            model_fingerprint="blake2b:bbbbbbbb",
            extra=facts,
        )
        directory.write_manifest({**manifest, **(extra or {})})
        directory.write_config(job.resolved)
        if private:
            directory.write_privacy({**STATEMENT, **(statement or {})})
        for record in records:
            directory.append(round_lines(record))
        if finished:
            directory.write_summary(summarize(records, "eval/accuracy", 1.0))
        return directory.path
