"""One run from start to end, or from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.schema import Config
from ffalora_cli.experiment import fork as forks
from ffalora_cli.experiment import head, identity
from ffalora_cli.experiment.inputs import InputsCheck, inputs_of
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.parts import Given, build
from ffalora_cli.experiment.rounds import drive
from ffalora_cli.experiment.session import Session
from ffalora_cli.records.failure import clear_failure, write_failure
from ffalora_cli.records.run_directory import LEDGER, RunDirectory, open_folder, open_run
from ffalora_cli.records.trackers.base import BATCHED, RunFacts, open_tracker
from ffalora_cli.stopping import StopFlag, Stopped

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts

_FAILED = 1  # exit code a tracker is told


def run(
    config: Config,
    resolved: Mapping[str, Any],
    signature: str,
    observer: Observer,
    again: bool = False,
    command: Sequence[str] = (),
    overrides: Sequence[str] = (),
    stop: StopFlag | None = None,
    folder: Path | None = None,
    fork_of: Path | None = None,
    built: Callable[[Parts], None] | None = None,
    given: Given | None = None,
    remarks: Callable[[], Sequence[str]] = tuple,
) -> dict[str, Any]:
    """Run one configuration to its end, from where an earlier sitting of it stopped.

    Args:
        config: built and checked.
        resolved: the same as a plain dictionary, for the records.
        signature: of the config; a finished run of it is returned, an unfinished one goes on.
        observer: is told what happens.
        again: start over in a folder of its own, whatever there is.
        command: the command line, for the manifest.
        overrides: of this run alone, where the command is a sweep; for the manifest.
        stop: polled during training and evaluation.
        folder: of the run to go on with; found by name and signature where None.
        fork_of: folder of another run from whose last round this one starts.
        built: is handed the parts before anything is done with them (``together`` does with it).
        given: secret, data and clients to use, for audits.
        remarks: asked at the end for lines that the summary keeps, as of an observer that failed.

    Returns:
        The summary, as written to ``summary.json``, plus ``run_dir`` and ``already_done``.

    Raises:
        ConfigError: before anything is written, or the run that is there is another one.
        Stopped: when ``stop`` was requested; the last finished round is on disk.
    """
    stop = stop or StopFlag()
    fork = forks.open_fork(fork_of) if fork_of is not None else None
    manifest = identity.begun_manifest(folder) if folder is not None else None
    origin = fork.origin if fork is not None else (manifest or {}).get("forked_from")
    signature = identity.run_signature(signature, origin)
    if folder is not None:
        directory = open_folder(folder)
    else:
        directory = open_run(config.paths.runs, config.name, signature, again)
    if directory.finished:
        return _already_done(directory, config, observer, folder is None)
    manifest = identity.begun_manifest(directory.path) if directory.begun else None
    if manifest is not None:
        identity.check_config(manifest, resolved, directory.path)
        config = identity.keep_choices(config, manifest)
    parts = build(config, signature, observer, stop.poll, given)
    if built is not None:
        built(parts)
    with directory.claim():
        if directory.finished:
            return _already_done(directory, config, observer, folder is None)
        said = {"command": command, "overrides": overrides}
        session = _open_session(parts, directory, resolved, manifest, fork, signature, said)
        if given is not None:
            parts.simulation.secret = given.secret
        for note in (directory.note, *session.notes):
            if note:
                observer.note(note)
        return _play(session, resolved, signature, observer, stop, remarks)


def _already_done(
    directory: RunDirectory, config: Config, observer: Observer, again: bool
) -> dict[str, Any]:
    """The result of a finished run, if it was made from what is there now."""
    from ffalora_cli.privacy.secret import SECRET, erase_secret
    from ffalora_cli.records.reading import read_run

    erase_secret(directory.path / SECRET)  # should a crash have come just before
    note = InputsCheck().check(directory.path, config, again)
    if note is not None:
        observer.note(note)
    summary = dict(read_run(directory.path).summary or {})
    summary |= {"run_dir": str(directory.path), "already_done": True}
    observer.finished(summary)
    return summary


def _open_session(
    parts: Parts,
    directory: RunDirectory,
    resolved: Mapping[str, Any],
    manifest: Mapping[str, Any] | None,
    fork: forks.Fork | None,
    signature: str,
    said: Mapping[str, Sequence[str]],
) -> Session:
    """A new run, a forked one, or one that goes on: folder and parts ready for the next round."""
    from ffalora_cli.privacy.ledger import PrivacyLedger
    from ffalora_cli.privacy.secret import SECRET, run_secret

    now = identity.identity(parts, resolved)
    if manifest is not None:
        now = identity.check_identity(manifest, now, directory.path, parts.plan is not None)
    session = Session(parts, directory, now)
    ledger = directory.path / LEDGER
    # Before the first charge and the manifest: where either is there, the secret must be, too.
    parts.simulation.secret = run_secret(
        parts.config.privacy.noise,
        parts.config.seed,
        signature,
        parts.secret_inputs,
        path=directory.path / SECRET,
        resumed=manifest is not None or ledger.exists(),
    )
    if fork is not None:
        forks.carry_ledger(fork, parts.plan, ledger)
    if parts.plan is not None:  # each charge is on disk before the release it pays for
        parts.simulation.privacy_ledger = PrivacyLedger(
            parts.plan.noise_multiplier,
            parts.plan.accounted_rate,
            ledger,
            parts.plan.count_noise,
        )
    if manifest is None:
        extra = {
            "overrides": list(said["overrides"]),
            "identity": session.identity,
            "inputs": inputs_of(parts.config),
            "forked_from": fork.origin if fork else None,
        }
        head.write_head(parts, directory, resolved, signature, said["command"], extra)
    if fork is not None and not session.checkpoints.newest():
        forks.begin(session, fork)
    elif manifest is not None:
        session.resume()
        # Other files, maybe, of equal content.
        manifest = {**manifest, "inputs": inputs_of(parts.config)}
        session.notes += head.add_resume(parts, directory, manifest, said["command"])
    return session


def _play(
    session: Session,
    resolved: Mapping[str, Any],
    signature: str,
    observer: Observer,
    stop: StopFlag,
    remarks: Callable[[], Sequence[str]],
) -> dict[str, Any]:
    """The rounds, tracked and observed."""
    from ffalora_cli.privacy.secret import SECRET, erase_secret

    directory, config = session.directory, session.parts.config
    clear_failure(directory.path)
    tracker = open_tracker(config.tracking)
    told = RunFacts.of(directory.path, config.name, resolved)
    tracker.start(told)
    if told.kept_back and config.tracking.name != "none":
        observer.note(f"{config.tracking.name}: {BATCHED}")
    for record in session.records:
        tracker.log(record)  # it leaves out what it has already
    try:
        stop.defer()
        observer.started(head.facts(session, signature))
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
