"""Run folders as the real code writes them, with numbers made up by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffalora_cli.cli.jobs import plan
from ffalora_cli.records.manifest import build_manifest
from ffalora_cli.records.reading import RunRecords, read_run
from ffalora_cli.records.run_directory import open_run, round_lines
from ffalora_cli.records.summary import summarize
from ffalora_cli.types import RoundRecord

EPSILONS = (7.0, 8.0, 9.0, 10.0)


def statement(delta: float = 1e-5, unit: str = "example") -> dict[str, Any]:
    """A privacy statement with what readers of it need."""
    client = {"client": 0, "examples": 1200, "epsilon_planned": 10.0, "epsilon_spent": 10.0}
    return {
        "sentence": f"epsilon 10.00 (unit {unit}, add/remove one, delta {delta:g})",
        "unit": unit, "relation": "add/remove one", "sampling": "poisson", "accountant": "pld",
        "delta": delta, "protects": "one row", "sampling_note": "drawn independently",
        "one_over_n": 1e-3, "max_grad_norm": 0.5, "mechanism": {"clip_note": "one norm"},
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
    with open_run(root, job.config.name, job.signature).claim() as directory:
        manifest = build_manifest(
            id=directory.id,
            signature=job.signature,
            command=["ffalora", "run", *overrides] if command is None else list(command),
            device="cpu",
            threads=1,
            seeds={"run": job.config.seed},
            data_fingerprints={"train": "aaaa"},
            model_fingerprint="bbbb",
        )
        directory.write_manifest(manifest)
        directory.write_config(job.resolved)
        for record in records:
            directory.append(round_lines(record))
        if private:
            said = dict(privacy or statement(unit=job.config.privacy.unit))
            planned = "" if finished else "planned "
            directory.write_privacy(said | {"sentence": planned + said["sentence"]})
        if finished:
            directory.write_summary(summarize(records, metric, 12.0))
    return read_run(directory.path)
