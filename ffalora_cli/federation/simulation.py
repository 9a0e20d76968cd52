"""Simulates a federation: its parts, its state between rounds, the engine of its clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ffalora_cli.engine.job import Engine, LocalJob, LocalResult
from ffalora_cli.federation.cohort.clients import ClientStates
from ffalora_cli.federation.cohort.cohort import is_last
from ffalora_cli.federation.roles import exchanged_specs, global_tensors, initial_state
from ffalora_cli.federation.round import Answer, drive, play
from ffalora_cli.federation.server import robust
from ffalora_cli.federation.setting import Setting
from ffalora_cli.federation.wire.contract import Receipt
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.types import RoundRecord, Tensors


@dataclass(kw_only=True)
class Simulation(Setting):
    """A federation and its state between rounds.

    Attributes:
        engine: trains a cohort.
        privacy_ledger: opened with the run folder.
    """

    engine: Engine
    privacy_ledger: PrivacyLedger | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.state = initial_state(self.network)
        self.client_states = ClientStates(len(self.clients))
        self.communication = CommunicationLedger(len(self.clients))
        largest = self.config.cohort_size or len(self.clients)
        cycle = range(1, len(exchanged_specs(self.network, self.method, self.head)) + 1)
        size = max(sum(spec.size for spec in self.manifest(n).specs) for n in cycle)
        robust.check_memory(self.config.combination, largest, size)

    @property
    def tensors(self) -> Tensors:
        """Global values of all tensors, in layout order."""
        return global_tensors(self.network, self.state)

    def rounds(self, answer: Answer | None = None) -> Iterator[RoundRecord]:
        """The rounds after ``state.round``, one record each; state advances before the yield."""
        while not self.is_last(self.state.round):
            yield self.play(self.state.round + 1, answer)

    def is_last(self, round: int) -> bool:
        """Whether nothing follows a round: all are played, or nobody's budget affords another."""
        return is_last(self, self.privacy_ledger, round)

    def play(self, round: int, answer: Answer | None = None) -> RoundRecord:
        """One round, its jobs answered by the engine unless somebody else drives."""
        playing = play(self, self.state, self, round)
        self.state, record = drive(playing, answer or self.answer)
        return record

    def answer(self, asked: LocalJob | Receipt) -> LocalResult | None:
        """The engine's."""
        return self.engine.train(asked) if isinstance(asked, LocalJob) else None
