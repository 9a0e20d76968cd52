"""Writes config, planned privacy statement and manifest before round 1; one entry a resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.job import Job
from ffalora_cli.experiment.inputs import inputs_of
from ffalora_cli.experiment.rounds import privacy_statement
from ffalora_cli.hub.access import local_commit
from ffalora_cli.models.backbone import model_origin
from ffalora_cli.records.manifest import build_manifest, environment

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.experiment.session import Session


def write_opening(
    session: Session, job: Job, signature: str, forked_from: Mapping[str, Any] | None
) -> None:
    """Config, planned privacy and manifest, on disk before the first round.

    The manifest comes last: a folder without one never began.

    Args:
        session: of the claimed folder, at round 0.
        job: whose run it is.
        signature: identity of the run.
        forked_from: run and round where it begins, if it is a fork.
    """
    parts, directory = session.parts, session.directory
    config, network = parts.config, parts.simulation.network
    statement = privacy_statement(parts)
    directory.write_config(job.resolved)
    directory.write_labels(parts.strata_counts.tolist(), parts.strata_names, parts.names)
    if statement is not None:
        directory.write_privacy(statement)
    revision = job.config.model.revision
    directory.write_manifest(
        build_manifest(
            id=directory.id,
            signature=signature,
            command=job.command,
            device=str(network.device),
            threads=_threads(),
            seeds={
                "run": config.seed,
                "partition": config.partition.seed,
                "adapter": config.adapter.seed,
                "head": config.head.seed,
            },
            data_fingerprints={"train": parts.data.train.fingerprint}
            | {name: rows.fingerprint for name, rows in parts.data.evals.items()},
            model_fingerprint=network.fingerprint,
            extra={
                **_shared(parts),
                "model": {"revision": revision, **model_origin(config.model)},
                "data": parts.data.facts,
                "overrides": list(job.overrides),
                "identity": session.identity,
                "inputs": inputs_of(config),
                "forked_from": forked_from,
            },
        )
    )


def add_resume(session: Session, manifest: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """Note in the manifest that the run went on, and with what.

    Returns:
        Lines for the user about what may change the bits: another device, chunking or commit.
    """
    parts = session.parts
    entry = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "after_round": parts.simulation.state.round,
        "command": list(command),
        "device": str(parts.simulation.network.device),
        "threads": _threads(),
        "processes": parts.processes,
        "max_tokens": parts.max_tokens,
        "git": environment()["git"],
    }
    earlier = manifest.get("sittings") or []
    now = {"inputs": inputs_of(parts.config)}  # other files, maybe, of equal content
    session.directory.write_manifest({**manifest, **now, "sittings": [*earlier, entry]})
    before = earlier[-1] if earlier else manifest
    notes = [
        f"{key} was {before.get(key)} and is {entry[key]}: results may differ by rounding"
        for key in ("device", "processes", "max_tokens", "git")
        if before.get(key) != entry[key]
    ]
    return notes + _moved(manifest.get("model") or {})


def _moved(model: Mapping[str, Any]) -> list[str]:
    """A line where this machine knows that the revision of a hub model points elsewhere now."""
    commit, revision = model.get("commit"), model.get("revision") or "main"
    now = local_commit("model", model["source"], revision) if commit else None
    if now in (None, commit, revision):
        return []
    return [
        f"{revision} of {model['source']} is commit {now} by now: the run goes on with the one it "
        f"began with; a new run takes that with model.revision={commit}"
    ]


def facts(session: Session, signature: str) -> dict[str, Any]:
    """What observers are told before a first or resumed round; ``done`` is the last on disk."""
    parts, config = session.parts, session.parts.config
    return {
        **_shared(parts),
        "run_dir": str(session.directory.path),
        "done": session.records[-1].round if session.records else None,
        "signature": signature,
        "task": config.task.name,
        "model": config.model.name,
        "method": config.method.name,
        "clients": len(parts.simulation.clients),
        "device": str(parts.simulation.network.device),
        "privacy": privacy_statement(parts),
        "rounds": config.federation.rounds,
    }


def _shared(parts: Parts) -> dict[str, Any]:
    sizes = parts.simulation.clients.sizes
    return {
        "client_sizes": sizes.tolist() if len(sizes) <= 100 else None,
        "trainable_parameters": sum(spec.size for spec in parts.simulation.trained(1)),
        "frozen_parameters": parts.simulation.network.frozen_parameters,
        "max_tokens": parts.max_tokens,
        "processes": parts.processes,
        "padding": parts.padding,
    }


def _threads() -> int:
    import torch

    return torch.get_num_threads()
