"""Several runs in lockstep: their cohorts train in one pass, all else is each run's own.

Every job goes through ``run`` as if it were the only one: its folder, ledger, checkpoints, tracker
and secret are its own, and it may be stopped here and go on alone. Only its engine is a seat at a
table: it hands its local training over and waits until all other runs have done the same. Numbers
are those of separate runs within rounding; ``time/*`` are the group's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.job import Job
from ffalora_cli.experiment import grouping
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.run import run
from ffalora_cli.experiment.turns import Ask, Turn
from ffalora_cli.stopping import Poll, StopFlag, Stopped, never

if TYPE_CHECKING:
    from ffalora_cli.engine.job import LocalJob, LocalResult
    from ffalora_cli.engine.stacked import StackedEngine
    from ffalora_cli.experiment.inputs import Loaded
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.models.network import Network


@dataclass(frozen=True)
class Member:
    """One job of a group, and who is told what happens in it."""

    job: Job
    observer: Observer


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with the summary that ``run`` returns, or with what it raised."""

    summary: dict[str, Any] | None
    error: BaseException | None


def run_together(
    members: Sequence[Member], poll: Poll = never, at_once: int = 8
) -> Iterator[tuple[int, Outcome]]:
    """Run jobs to their ends, those that fit in lockstep; no failure of one ends the others.

    Args:
        members: checked jobs. Model, task and adapter shapes decide what fits; a job that fits no
            other is told so in a note.
        poll: raises ``Stopped`` to end all jobs in good order: called between micro-batches, and
            before a run goes on. A stop flag behind it must be deferred.
        at_once: most jobs in lockstep; each holds its rows and state in memory.

    Yields:
        Place in ``members`` and outcome of each job as it ends; of those that a stop cut short or
        did not let start, the error is ``Stopped``.
    """
    configs = [member.job.config for member in members]
    signatures = [member.job.signature for member in members]
    for group in grouping.groups(configs, signatures, at_once):
        if len(group) == 1 < len(members):
            members[group[0]].observer.note(grouping.note(group[0], configs))
        for place, outcome in _lockstep([members[i] for i in group], poll):
            yield group[place], outcome


def _lockstep(members: Sequence[Member], poll: Poll) -> Iterator[tuple[int, Outcome]]:
    """Every run until it asks for training, all of that in few passes, and again."""
    table = _Table() if len(members) > 1 else None
    turns = [Turn(partial(_play, member, table, poll)) for member in members]
    answers: dict[Turn, Any] = dict.fromkeys(turns)
    while answers:
        asked = {}
        for turn, answer in answers.items():
            question = turn.resume(_stopped(poll) or answer)
            if question is None:
                yield turns.index(turn), Outcome(turn.result, turn.error)
            else:
                asked[turn] = question
        answers = _train(asked)


def _play(member: Member, table: _Table | None, poll: Poll, ask: Ask) -> dict[str, Any]:
    """One run, its engine a seat at the table if there is one."""
    return run(
        member.job,
        member.observer,
        stop=_MemberStop(poll),
        built=table and partial(table.seat, member.observer, ask),
    )


class _MemberStop(StopFlag):
    """One run's view of the stop of all: when a stop may come is not for it to say."""

    def __init__(self, poll: Poll) -> None:
        super().__init__()
        self._poll_all = poll

    def poll(self) -> None:
        """As all."""
        self._poll_all()


def _stopped(poll: Poll) -> Stopped | None:
    """The stop that was asked for, if one was; a new one each time, for one run each."""
    try:
        poll()
    except Stopped as stopped:
        return Stopped(stopped.signal)
    return None


@dataclass
class _Table:
    """What the runs of a group have in common once they are built."""

    network: Network | None = None
    _content: Loaded | None = None

    def seat(self, observer: Observer, ask: Ask, parts: Parts) -> None:
        """Give a run a seat, unless its rows or weights turn out to be others."""
        from ffalora_cli.engine.stacked import StackedEngine

        simulation, network = parts.simulation, parts.simulation.network
        content = replace(parts.loaded, clients="")  # who has which rows may differ
        if self.network is None:
            self.network, self._content = network, content
        elif content != self._content:
            observer.note("trained by itself: its rows or frozen weights are not the other jobs'")
            return
        else:
            network.share_weights(self.network)
        engine = simulation.engine
        assert isinstance(engine, StackedEngine)
        simulation.engine = _Seat(simulation, engine, observer, ask)


@dataclass(frozen=True)
class _Asked:
    """Local training that a run waits for."""

    job: LocalJob
    engine: StackedEngine  # the run's own
    own_weights: bool  # merges have changed the run's frozen weights

    @property
    def bytes(self) -> int:
        """Of one copy of its stack, common tensors included: other jobs may have other ones."""
        stacked = sum(value.numel() for value in self.job.start.values())
        common = sum(value.numel() for value in self.job.common.values())
        return 4 * (stacked + len(self.job.clients) * common)


@dataclass
class _Seat:
    """The engine of one run in a group."""

    simulation: Simulation
    engine: StackedEngine
    observer: Observer
    ask: Ask
    _noted: bool = False

    def train(self, job: LocalJob) -> LocalResult:
        """Hand the job over; the answer is what ``StackedEngine.train`` returns."""
        merged = bool(self.simulation.state.base_delta)
        if merged and not self._noted:
            self.observer.note(f"trained by itself from round {job.round} on: its weights changed")
            self._noted = True
        result: LocalResult = self.ask(_Asked(job, self.engine, merged))
        return result


def _train(asked: dict[Turn, _Asked]) -> dict[Turn, LocalResult | BaseException]:
    """Answers to all that was asked, in as few passes as fit it."""
    answers: dict[Turn, LocalResult | BaseException] = {}
    waiting = list(asked)
    while waiting:
        chosen: list[Turn] = []
        for turn in waiting:
            if _fits([asked[other] for other in chosen], asked[turn]):
                chosen.append(turn)
        waiting = [turn for turn in waiting if turn not in chosen]
        answers |= zip(chosen, _pass([asked[turn] for turn in chosen]), strict=True)
    return {turn: answers[turn] for turn in asked}


def _fits(chosen: Sequence[_Asked], one: _Asked) -> bool:
    """Whether there is room in the pass: as much as one run gives a chunk of its cohort."""
    from ffalora_cli.engine import joint
    from ffalora_cli.federation.simulation import CHUNK_BYTES

    if not chosen:
        return True
    if one.own_weights or chosen[0].own_weights or not joint.fit(chosen[0].job, one.job):
        return False
    return one.bytes + sum(other.bytes for other in chosen) <= CHUNK_BYTES


def _pass(chosen: Sequence[_Asked]) -> Sequence[LocalResult | BaseException]:
    """Train in one pass, or one by one where that fails (too little memory for all)."""
    try:
        return chosen[0].engine.train_together([one.job for one in chosen])
    except Stopped as stopped:
        return [Stopped(stopped.signal) for _ in chosen]
    except Exception as error:
        if len(chosen) == 1:
            return [error]
    return [answer for one in chosen for answer in _pass([one])]
