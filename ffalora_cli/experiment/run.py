"""Runs one job from start to end, or from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.job import Job
from ffalora_cli.config.schema import Config
from ffalora_cli.experiment import fork as forks
from ffalora_cli.experiment import identity, opening
from ffalora_cli.experiment.inputs import InputsCheck
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.parts import Given, build
from ffalora_cli.experiment.rounds import drive
from ffalora_cli.experiment.session import Session
from ffalora_cli.records.run_directory import LEDGER, RunDirectory, open_folder, open_run
from ffalora_cli.records.state import clear_failure, write_failure
from ffalora_cli.records.trackers.base import BATCHED, RunFacts, open_tracker
from ffalora_cli.stopping import StopFlag, Stopped

if TYPE_CHECKING:
    from ffalora_cli.engine.ranks import Ranks
    from ffalora_cli.experiment.parts import Parts

_FAILED = 1  # exit code a tracker is told


def run(
    job: Job,
    observer: Observer,
    stop: StopFlag | None = None,
    given: Given | None = None,
    remarks: Callable[[], Sequence[str]] = tuple,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Run one job to its end, from where an earlier process stopped.

    Everything that can be refused is refused while nothing is written. Then six steps, whose order
    is the proof that no noise is drawn twice and nothing is released before it is paid for: the
    folder is ours alone, the secret is on disk before a charge, the ledger before a release, the
    opening (whose manifest says that the run has begun) after both, so a run that has begun has
    them; then the state of the last round, then the rounds.

    Args:
        job: checked. A finished run of its signature is returned, an unfinished one goes on.
        observer: is told what happens.
        stop: polled during training and evaluation.
        given: secret, data and clients to use, for audits.
        remarks: asked at the end for lines that the summary keeps, as of an observer that failed.
        ranks: whose first this is and who share the work; None: this process does it alone.

    Returns:
        The summary, as written to ``summary.json``, plus ``run_dir`` and ``already_done``.

    Raises:
        ConfigError: before anything is written, or the run that is there is another one.
        Stopped: when ``stop`` was requested; the last finished round is on disk.
    """
    stop = stop or StopFlag()
    found = _find(job)
    if found.directory.finished:
        return _already_done(found, job, observer)
    parts = _built(found, job, observer, stop, given, ranks)
    with found.directory.claim():
        if found.directory.finished:
            return _already_done(found, job, observer)
        session = _identified(found, parts, job)
        _draw_secret(session, found, given)
        _open_ledger(session, found)
        _write_opening(session, found, job)
        _resume(session, found, job)
        return _play(session, found, job, observer, stop, remarks)


def _built(
    found: _Found,
    job: Job,
    observer: Observer,
    stop: StopFlag,
    given: Given | None,
    ranks: Ranks | None,
) -> Parts:
    """The parts of the run; with other ranks there, they have theirs, and the same."""
    if ranks is None:
        return build(found.config, found.draw_signature, observer, stop.poll, given)
    from ffalora_cli.experiment.ranks import begin, lead

    begin(ranks, found.config, found.manifest)
    parts = build(found.config, found.draw_signature, observer, stop.poll, given, ranks=ranks)
    lead(ranks, parts, job.resolved)
    return parts


@dataclass(frozen=True)
class _Found:
    """What is there of a run before anything is built.

    Attributes:
        directory: of the run, not yet claimed.
        signature: of the job; of a forked run also of what it was forked from.
        draw_signature: the same of what the draws are keyed by.
        config: of the job, with what was left open and chosen when the run began.
        manifest: None where it has not begun.
        fork: where a new run begins that is forked now.
    """

    directory: RunDirectory
    signature: str
    draw_signature: str
    config: Config
    manifest: Mapping[str, Any] | None
    fork: forks.Fork | None


def _find(job: Job) -> _Found:
    """The run's folder and what is in it; refuses a folder in which another run was begun."""
    fork = forks.open_fork(job.fork_of) if job.fork_of is not None else None
    begun = identity.begun_manifest(job.folder) if job.folder is not None else None
    origin = fork.origin if fork is not None else (begun or {}).get("forked_from")
    signature, config = identity.run_signature(job.signature, origin), job.config
    draws = identity.run_signature(job.draw_signature, origin)
    if job.folder is not None:
        directory = open_folder(job.folder)
    else:
        directory = open_run(config.paths.runs, config.name, signature, job.again, job.named)
    manifest = identity.begun_manifest(directory.path) if directory.begun else None
    if manifest is not None:
        identity.check_config(manifest, job.resolved, directory.path)
        if not directory.finished:
            identity.check_numerics(manifest, directory.path)
        config = identity.keep_choices(config, manifest)
    return _Found(directory, signature, draws, config, manifest, fork)


def _already_done(found: _Found, job: Job, observer: Observer) -> dict[str, Any]:
    """The result of a finished run, if it was made from what is there now."""
    from ffalora_cli.privacy.mechanism.secret import SECRET, erase_secret
    from ffalora_cli.records.reading import read_run

    folder = found.directory.path
    erase_secret(folder / SECRET)  # should a crash have come just before
    note = InputsCheck().check(folder, found.config, again=job.folder is None)
    if note is not None:
        observer.note(note)
    summary = dict(read_run(folder).summary or {})
    summary |= {"run_dir": str(folder), "already_done": True}
    observer.finished(summary)
    return summary


def _identified(found: _Found, parts: Parts, job: Job) -> Session:
    """The session of this run; refuses data, weights or versions that it was not begun with."""
    now = identity.identity(parts, job.resolved)
    if found.manifest is not None:
        identity.check_identity(found.manifest, now, found.directory.path)
    return Session(parts, found.directory, now)


def _draw_secret(session: Session, found: _Found, given: Given | None) -> None:
    """The key of all privacy draws.

    It comes before the first charge and the manifest: where either is there, it must be, too.
    """
    from ffalora_cli.privacy.mechanism.secret import SECRET, run_secret

    parts, folder = session.parts, found.directory.path
    if given is not None:
        parts.simulation.secret = given.secret
        return
    parts.simulation.secret = run_secret(
        parts.config.privacy.noise,
        parts.config.seed,
        found.draw_signature,
        parts.secret_inputs,
        path=folder / SECRET,
        resumed=found.manifest is not None or (folder / LEDGER).exists(),
    )


def _open_ledger(session: Session, found: _Found) -> None:
    """Where each charge is on disk before the release it pays for; a fork's begins with all."""
    from ffalora_cli.privacy.ledger import PrivacyLedger

    plan, path = session.parts.plan, found.directory.path / LEDGER
    if found.fork is not None:
        forks.carry_ledger(found.fork, plan, path)
    if plan is not None:
        session.parts.simulation.privacy_ledger = PrivacyLedger(
            plan.noise_multiplier, plan.accounted_rate, path, plan.count_noise
        )


def _write_opening(session: Session, found: _Found, job: Job) -> None:
    """Config, planned privacy and manifest of a run that begins."""
    if found.manifest is None:
        origin = found.fork.origin if found.fork else None
        opening.write_opening(session, job, found.signature, origin)


def _resume(session: Session, found: _Found, job: Job) -> None:
    """The state of the last round on disk, of this run or of the one it is forked from."""
    if found.fork is not None and not session.checkpoints.newest():
        forks.begin(session, found.fork)
    elif found.manifest is not None:
        session.resume()
        session.notes += opening.add_resume(session, found.manifest, job.command)


def _play(
    session: Session,
    found: _Found,
    job: Job,
    observer: Observer,
    stop: StopFlag,
    remarks: Callable[[], Sequence[str]],
) -> dict[str, Any]:
    """The rounds, tracked and observed."""
    from ffalora_cli.privacy.mechanism.secret import SECRET, erase_secret

    directory, config = session.directory, session.parts.config
    for note in (directory.note, *session.notes):
        if note:
            observer.note(note)
    clear_failure(directory.path)
    tracker = open_tracker(config.tracking)
    told = RunFacts.of(directory.path, config.name, job.resolved)
    tracker.start(told)
    if told.kept_back and config.tracking.name != "none":
        observer.note(f"{config.tracking.name}: {BATCHED}")
    for record in session.records:
        tracker.log(record)  # it leaves out what it has already
    try:
        stop.defer()
        observer.started(opening.facts(session, found.signature))
        summary = drive(session, tracker, observer, remarks)
        erase_secret(directory.path / SECRET)
        stop.defer(False)  # nothing is at stake any more: do not wait for a tracker
        stop.poll()
        tracker.finish(summary)
    except Stopped as stopped:
        tracker.finish(None, exit_code=128 + stopped.signal, seconds=2.0)
        raise
    except BaseException as error:
        if isinstance(error, Exception):
            last = session.records[-1].round if session.records else 0
            write_failure(directory.path, last, error)
        tracker.finish(None, exit_code=_FAILED)
        raise
    for note in tracker.notes:
        observer.note(note)
    summary |= {"run_dir": str(directory.path), "already_done": False}
    observer.finished(summary)
    return summary
