"""Plays the rounds that are left, each on disk before anyone is told; then adapter and summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.session import Session
from ffalora_cli.methods.registry import headline
from ffalora_cli.metric_keys import EPSILON
from ffalora_cli.records.run_directory import RunDirectory
from ffalora_cli.records.summary import summarize
from ffalora_cli.records.trackers.base import Tracker
from ffalora_cli.tasks import registry
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.diagnosis import Watch


def drive(
    session: Session,
    tracker: Tracker,
    observer: Observer,
    remarks: Callable[[], Sequence[str]] = tuple,
) -> dict[str, Any]:
    """Play what is left of the run and write its result; what ``remarks`` says goes with it.

    Returns:
        The summary, as written to ``summary.json``.
    """
    parts, directory = session.parts, session.directory
    watch = _watch(session)
    try:
        for record in _records(session, observer):
            session.commit(record)
            tracker.log(record)
            observer.round_done(record)
            for note in watch.see(record):
                observer.note(note)
    except RunFailed as failure:
        _write_model(parts, directory)
        raise watch.explained(failure) from None
    _write_model(parts, directory)
    last, rounds = session.records[-1].round, parts.config.federation.rounds
    if last < rounds:
        observer.note(
            f"stopped after round {last} of {rounds}: no client's privacy budget affords another"
        )
    for note in watch.closing():
        observer.note(note)
    statement = privacy_statement(parts)
    if statement is not None:
        directory.write_privacy(statement)
    said = {"privacy": statement, **({"notes": list(found)} if (found := remarks()) else {})}
    judged = headline(session.parts.config)
    higher = registry.higher_is_better(judged)
    summary = summarize(session.records, judged, session.seconds, said, higher)
    directory.write_summary(summary)
    return summary


def _watch(session: Session) -> Watch:
    """Who looks for bad uploads and divergence; chance is a constant answer's on training rows.

    It has seen the rounds before a resume: what it said then is not said again.
    """
    from ffalora_cli.federation.diagnosis import Watch

    config, targets = session.parts.config, session.parts.data.train.targets
    watch = Watch(config, registry.get(config.task.kind).chance(targets))
    for record in session.records:
        watch.see(record)
    return watch


def _write_model(parts: Parts, directory: RunDirectory) -> None:
    """The model of the last good round, and what stays with the clients."""
    simulation, config = parts.simulation, parts.config
    directory.write_adapter(
        simulation.tensors | {f"merge.{n}": v for n, v in simulation.state.base_delta.items()},
        config.adapter.rank,
        config.adapter.alpha,
        config.model.source,
        {"method": config.method.name, "fingerprint": simulation.network.fingerprint},
    )
    if simulation.personal:
        directory.write_clients(simulation.client_states.to_tensors())


def privacy_statement(parts: Parts) -> dict[str, Any] | None:
    """What the run may claim: planned before round 1, spent afterwards."""
    from ffalora_cli.privacy.claim.statement import statement

    ledger = parts.simulation.privacy_ledger
    if parts.plan is None or ledger is None:
        return None
    return statement(parts.plan, ledger.steps_taken if ledger.steps_taken.any() else None)


def _records(session: Session, observer: Observer) -> Iterator[RoundRecord]:
    """Round 0 (evaluation before training), then every round, evaluated as often as asked."""
    parts = session.parts
    federation = parts.config.federation
    if not session.records:
        yield _with_answers(session, observer, parts.evaluate(RoundRecord(0, {})))
    for record in parts.simulation.rounds():
        if record.round % federation.eval_every == 0 or parts.simulation.is_last(record.round):
            record = parts.evaluate(record)
        record = _with_answers(session, observer, record)
        yield _with_epsilon(parts, named_lines(parts, record))


def _with_answers(session: Session, observer: Observer, record: RoundRecord) -> RoundRecord:
    """The record with scores of generated answers where they are due; their texts in the folder."""
    record, lines = session.parts.generate(
        record, lambda done, rows: observer.working("answers", done, rows)
    )
    if lines:
        session.directory.write_generated({"round": record.round, **line} for line in lines)
    return record


def named_lines(parts: Parts, record: RoundRecord) -> RoundRecord:
    """The record with its clients' names, where the data has names; both stay in the run folder."""
    if parts.names is None:
        return record
    clients = tuple({**line, "name": parts.names[int(line["client"])]} for line in record.clients)
    return replace(record, clients=clients)


def _with_epsilon(parts: Parts, record: RoundRecord) -> RoundRecord:
    """The record with what has been spent by now: the largest client's, and each one's."""
    from ffalora_cli.privacy.claim.spent import claimed, spent

    ledger = parts.simulation.privacy_ledger
    if parts.plan is None or ledger is None:
        return record
    steps = ledger.steps_before(record.round + 1)
    epsilon = spent(parts.plan, steps)
    clients = tuple(
        {**line, "epsilon_spent": float(epsilon[int(line["client"])])} for line in record.clients
    )
    metrics = {**record.metrics, EPSILON: claimed(parts.plan, steps, epsilon)}
    return replace(record, metrics=metrics, clients=clients)
