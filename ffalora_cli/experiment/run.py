"""One run from start to end: every round is on disk before anyone is told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.config.schema import Config
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.parts import build
from ffalora_cli.records.manifest import build_manifest
from ffalora_cli.records.run_directory import RunDirectory, open_run
from ffalora_cli.records.summary import summarize
from ffalora_cli.records.trackers.base import RunFacts, Tracker, open_tracker
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.diagnosis import Watch


def run(
    config: Config,
    resolved: Mapping[str, Any],
    signature: str,
    observer: Observer,
    again: bool = False,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Run one configuration to its end.

    Args:
        config: built and checked.
        resolved: the same as a plain dictionary, for the records.
        signature: identity of the run; a finished run of it is returned, not repeated.
        observer: is told what happens.
        again: run although a finished run of this signature is there, in a folder of its own.
        command: the command line, for the manifest.

    Returns:
        The summary, as written to ``summary.json``, plus ``run_dir`` and ``already_done``.

    Raises:
        ConfigError: before anything is written.
    """
    from ffalora_cli.records.reading import read_run

    directory = open_run(config.paths.runs, config.name, signature, again)
    if directory.finished:
        summary = dict(read_run(directory.path).summary or {})
        summary |= {"run_dir": str(directory.path), "already_done": True}
        observer.finished(summary)
        return summary
    began = time.perf_counter()
    parts = build(config, signature, observer)
    tracker = open_tracker(config.tracking)
    if directory.note:
        observer.note(directory.note)
    with directory.create():
        _open_privacy_ledger(parts, directory)
        facts = _write_head(parts, directory, resolved, signature, command)
        tracker.start(RunFacts(directory.id, config.name, directory.path, resolved))
        try:
            observer.started(facts)
            summary = _drive(parts, directory, tracker, observer, began)
        except BaseException:
            tracker.finish(None, exit_code=1)
            raise
        tracker.finish(summary)
    for note in tracker.notes:
        observer.note(note)
    summary |= {"run_dir": str(directory.path), "already_done": False}
    observer.finished(summary)
    return summary


def _open_privacy_ledger(parts: Parts, directory: RunDirectory) -> None:
    """Charges go to the run folder, each on disk before the release it pays for."""
    from ffalora_cli.privacy.ledger import PrivacyLedger

    if parts.plan is not None:
        parts.simulation.privacy_ledger = PrivacyLedger(
            parts.plan.noise_multiplier,
            parts.plan.accounted_rate,
            directory.path / "privacy_ledger.jsonl",
        )


def _drive(
    parts: Parts, directory: RunDirectory, tracker: Tracker, observer: Observer, began: float
) -> dict[str, Any]:
    """All rounds, each on disk before anyone is told; then adapter and summary."""
    records = []
    watch = _watch(parts)
    try:
        for record in _records(parts):
            records.append(record)
            directory.append_round(record)
            directory.append_communication(parts.simulation.communication.rows(record.round))
            tracker.log(record)
            observer.round_done(record)
            for note in watch.see(record):
                observer.note(note)
    except RunFailed as failure:
        _write_model(parts, directory)
        raise watch.explained(failure) from None
    _write_model(parts, directory)
    for note in watch.closing():
        observer.note(note)
    headline = f"eval/{parts.config.task.metrics[0]}"
    if "lora_b" in parts.method.personal:  # the global model has no B: clients' own are the result
        headline = "eval/personalized_accuracy"
    statement = _privacy_statement(parts)
    if statement is not None:
        directory.write_privacy(statement)
    summary = summarize(records, headline, time.perf_counter() - began, {"privacy": statement})
    directory.write_summary(summary)
    return summary


def _watch(parts: Parts) -> Watch:
    """Who looks for bad uploads and divergence; chance is the most frequent class's share."""
    from ffalora_cli.federation.diagnosis import Watch

    counts = parts.label_counts.sum(axis=0)
    return Watch(parts.config, float(counts.max() / counts.sum()))


def _write_model(parts: Parts, directory: RunDirectory) -> None:
    """The model of the last good round, and what stays with the clients."""
    simulation, config = parts.simulation, parts.config
    directory.write_adapter(
        simulation.state.tensors
        | {f"merge.{n}": v for n, v in simulation.state.base_delta.items()},
        config.adapter.rank,
        config.adapter.alpha,
        config.model.source,
        {"method": config.method.name, "fingerprint": simulation.network.fingerprint},
    )
    if simulation.personal:
        directory.write_clients(simulation.client_states.to_tensors())


def _records(parts: Parts) -> Iterator[RoundRecord]:
    """Round 0 (evaluation before training), then every round, evaluated as often as asked."""
    federation = parts.config.federation
    yield parts.evaluate(RoundRecord(0, {}))
    for record in parts.simulation.rounds():
        if record.round % federation.eval_every == 0 or record.round == federation.rounds:
            record = parts.evaluate(record)
        yield _with_epsilon(parts, record)


def _with_epsilon(parts: Parts, record: RoundRecord) -> RoundRecord:
    """The record with what has been spent by now: the largest client's, and each one's."""
    from ffalora_cli.privacy.spent import spent

    ledger = parts.simulation.privacy_ledger
    if parts.plan is None or ledger is None:
        return record
    epsilon = spent(parts.plan, ledger.steps_before(record.round + 1))
    clients = tuple(
        {**line, "epsilon_spent": float(epsilon[int(line["client"])])} for line in record.clients
    )
    metrics = {**record.metrics, "privacy/epsilon_spent": float(epsilon.max())}
    return replace(record, metrics=metrics, clients=clients)


def _privacy_statement(parts: Parts) -> dict[str, Any] | None:
    """What the run may claim: planned before round 1, spent afterwards."""
    from ffalora_cli.privacy.statement import statement

    ledger = parts.simulation.privacy_ledger
    if parts.plan is None or ledger is None:
        return None
    return statement(parts.plan, ledger.steps_taken if ledger.steps_taken.any() else None)


def _write_head(
    parts: Parts,
    directory: RunDirectory,
    resolved: Mapping[str, Any],
    signature: str,
    command: Sequence[str],
) -> dict[str, Any]:
    """Manifest, config and planned privacy, on disk before the first round; facts for observers."""
    import torch

    config, network = parts.config, parts.simulation.network
    sizes = parts.simulation.clients.sizes
    trainable = sum(spec.size for spec in parts.simulation.trainable(1))
    statement = _privacy_statement(parts)
    shared = {
        "client_sizes": sizes.tolist() if len(sizes) <= 100 else None,
        "trainable_parameters": trainable,
        "frozen_parameters": network.frozen_parameters,
        "max_tokens": parts.max_tokens,
    }
    directory.write_manifest(
        build_manifest(
            id=directory.id,
            signature=signature,
            command=command,
            device=str(network.device),
            threads=torch.get_num_threads(),
            seeds={
                "run": config.seed,
                "partition": config.partition.seed,
                "adapter": config.adapter.seed,
                "head": config.head.seed,
            },
            data_fingerprints={"train": parts.data.train.fingerprint}
            | {name: rows.fingerprint for name, rows in parts.data.evals.items()},
            model_fingerprint=network.fingerprint,
            extra={**shared, "data": parts.data.facts},
        )
    )
    directory.write_config(resolved)
    if statement is not None:
        directory.write_privacy(statement)
    return {
        **shared,
        "run_dir": str(directory.path),
        "signature": signature,
        "task": config.task.name,
        "model": config.model.name,
        "method": config.method.name,
        "clients": config.federation.num_clients,
        "device": str(network.device),
        "privacy": statement,
        "rounds": config.federation.rounds,
    }
