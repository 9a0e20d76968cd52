"""Run folders as the real code writes them, with numbers made up by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.job import Job
from ffalora_cli.records.manifest import build_manifest
from ffalora_cli.records.reading import RunRecords, read_run
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
EPSILONS = (7.0, 8.0, 9.0, 10.0)


def statement(delta: float = 1e-5, unit: str = "example") -> dict[str, Any]:
    """A privacy statement with what readers of it need."""
    client = {"client": 0, "examples": 1200, "epsilon_planned": 10.0, "epsilon_spent": 10.0}
    return {
        "sentence": f"epsilon 10.00 (unit {unit}, add/remove one, delta {delta:g})",
        "unit": unit, "relation": "add/remove one", "sampling": "poisson", "accountant": "pld",
        "delta": delta, "protects": "one row", "sampling_note": "drawn independently",
        "one_over_n": 1e-3, "delta_below_one_over_n": True, "max_grad_norm": 0.5,
        "mechanism": {"clip_note": "one norm"},
        "noise": {"note": "a note about noise"}, "covered": ["a", "b"], "library": "dp-accounting",
        "warnings": ["a warning"], "outside": ["training loss"], "clients": [client],
        "largest": {"client": 0, "epsilon": {"pld": 10.0, "rdp": 11.0}, "replace_one": 12.0,
                    "no_amplification": 13.0},
        "epsilon_max": {"planned": 10.0, "spent": 10.0},
    }  # fmt: skip


def made_run(
    root: Path,
    overrides: Sequence[str],
    scores: Sequence[float],
    *,
    rounds: Sequence[int] | None = None,
    finished: bool = True,
    metric: str = "eval/accuracy",
    per_round: float = 1e6,
    seconds: float = 2.0,
    clients: Mapping[int, Mapping[str, float]] | None = None,
    command: Sequence[str] | None = None,
    privacy: Mapping[str, Any] | None = None,
) -> RunRecords:
    """Write a run that was scored in ``rounds`` (0, 1, 2, ... if not said) and read it back."""
    (job,) = plan(overrides)
    private = job.config.privacy.unit != "none"
    records = []
    for number, score in zip(rounds or range(len(scores)), scores, strict=True):
        metrics = {metric: score}
        if number:
            metrics |= {
                "comm/uplink_bytes_total": per_round * number,
                "comm/downlink_bytes_total": 2 * per_round * number,
                "comm/adapter_bytes_total": 3 * per_round * number,
                "time/round_seconds": seconds,
            }
        if number and private:
            metrics["privacy/epsilon_spent"] = EPSILONS[min(number, len(EPSILONS)) - 1]
        lines = tuple({"client": c, **values} for c, values in (clients or {}).items())
        records.append(RoundRecord(number, metrics, lines))
    said = dict(privacy or statement(unit=job.config.privacy.unit))
    said["sentence"] = ("" if finished else "planned ") + said["sentence"]
    typed = ["ffalora", "run", *overrides] if command is None else list(command)
    folder = _write(
        root, job, records, said, {"command": typed}, finished=finished, metric=metric, seconds=12.0
    )
    return read_run(folder)


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
    facts |= {"command": ["ffalora", "run", *overrides], **(extra or {})}
    said = {**STATEMENT, **(statement or {})}
    return _write(runs, job, records, said, facts, finished=finished, again=again)


def _write(
    root: Path,
    job: Job,
    records: Sequence[RoundRecord],
    said: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    finished: bool,
    metric: str = "eval/accuracy",
    seconds: float = 1.0,
    again: bool = False,
) -> Path:
    """The folder: manifest (changed by ``facts``), config, statement if private, rounds, result."""
    with open_run(root, job.config.name, job.signature, again).claim() as directory:
        manifest = build_manifest(
            id=directory.id,
            signature=job.signature,
            command=(),
            device="cpu",
            threads=1,
            seeds={"run": job.config.seed},
            data_fingerprints={"train": "aaaa"},
            model_fingerprint="blake2b:bbbbbbbb",
        )
        directory.write_manifest({**manifest, **facts})
        directory.write_config(job.resolved)
        if job.config.privacy.unit != "none":
            directory.write_privacy(said)
        for record in records:
            directory.append(round_lines(record))
        if finished:
            directory.write_summary(summarize(records, metric, seconds))
    return directory.path
