"""One round in six stops (design section 4): sample, send, train, receive, combine, record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.config.schema import FederationConfig, HeadConfig
from ffalora_cli.data.batches import StepBatches
from ffalora_cli.data.partition import ClientRows
from ffalora_cli.engine.job import Engine, LocalJob, LocalOptimizer, LocalResult
from ffalora_cli.federation import cohort, downlink
from ffalora_cli.federation.clients import ClientStates
from ffalora_cli.federation.draws import draw_round
from ffalora_cli.federation.ledger import CommunicationLedger
from ffalora_cli.federation.payload import pack, unpack
from ffalora_cli.federation.release import (
    ClientRelease,
    ExampleRelease,
    LocalRelease,
    adapt_clip,
    check_round,
    release_of,
)
from ffalora_cli.federation.round_metrics import client_lines, train_metrics
from ffalora_cli.federation.server import (
    MeanAccumulator,
    apply_update,
    client_weights,
    server_step,
)
from ffalora_cli.federation.tensors import initial_state, personal_names, trainable_specs
from ffalora_cli.keys import Key
from ffalora_cli.methods.base import AggregateContext, Method
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.plan import PrivacyPlan
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import Dense, RoundRecord, Stack, Tensors, TensorSpec

CHUNK_BYTES = 2**30  # of one copy of a chunk's stack; training holds about six


@dataclass
class Simulation:
    """A federation: the parts of a run, and its state between rounds.

    Attributes:
        method: what is trained, sent and combined.
        network: frozen model with sites; merges are applied to it after every round.
        engine: trains a cohort.
        clients: rows of every client.
        config: the federation group.
        head: mode of the head.
        seeds: ``adapter`` and ``head`` (what an 8-byte seed stands for).
        seed: of cohorts and shuffling.
        secret: key of every privacy draw (sampling, noise).
        plan: privacy plan, or None.
        options: of the method.
        dropout: of the adapters.
        poll: called between micro-batches.
    """

    method: Method
    network: Network
    engine: Engine
    clients: ClientRows
    config: FederationConfig
    head: HeadConfig
    seeds: dict[str, int]
    seed: int
    secret: Key
    plan: PrivacyPlan | None
    privacy_ledger: PrivacyLedger | None = None  # opened with the run folder
    options: dict[str, object] = field(default_factory=dict)
    dropout: float = 0.0
    poll: Poll = never

    def __post_init__(self) -> None:
        self.state = initial_state(self.network)
        self.client_states = ClientStates(self.config.num_clients)
        self.communication = CommunicationLedger(self.config.num_clients)

    @property
    def _release(self) -> ExampleRelease | LocalRelease | ClientRelease | None:
        return release_of(self.plan, self.secret)

    def trainable(self, round: int) -> list[TensorSpec]:
        """Tensors trained in this round, in layout order."""
        return trainable_specs(self.network, self.method, self.head, round)

    @property
    def personal(self) -> tuple[str, ...]:
        """Names of tensors that never leave their client."""
        return personal_names(self.network, self.method, self.head)

    def rounds(self) -> Iterator[RoundRecord]:
        """The rounds after ``state.round``, one record each; state advances before the yield."""
        while not self.is_last(self.state.round):
            yield self.play(self.state.round + 1)

    def is_last(self, round: int) -> bool:
        """Whether nothing follows: all rounds are played, or nobody's budget affords another."""
        left = self._eligible(round + 1)
        return round >= self.config.rounds or (left is not None and not left.any())

    def play(self, round: int) -> RoundRecord:
        """One round."""
        began = time.perf_counter()
        chosen = np.sort(self._sample(round))  # sums and micro-batches go in client order
        if self.plan is not None:
            check_round(self.plan, self.network.model, [s.name for s in self.trainable(round)])
        self._send(round, chosen)
        self._charge(round, chosen)
        results, mean, uploads, weights = self._train(round, chosen)
        if mean:  # empty for an empty cohort, unless client-level privacy releases noise for it
            self._combine(round, mean, uploads, weights)
        self.state = replace(self.state, round=round)
        self.client_states.took_part(chosen, round)
        rescales = self.plan is not None and self.plan.clip == "automatic"
        metrics = train_metrics(results, time.perf_counter() - began, clips=not rescales)
        self.state, clip = adapt_clip(
            self._release, self.communication, round, chosen, results, self.state
        )
        metrics |= clip | self.communication.round_totals(round)
        return RoundRecord(round, metrics, client_lines(chosen, results))

    def _charge(self, round: int, chosen: np.ndarray) -> None:
        """Write down what the round costs before anything of it is released.

        Under central client-level privacy every client pays for every round: not being drawn is
        what the sampling rate already counts.
        """
        if self.plan is None or self.privacy_ledger is None:
            return
        paying = np.arange(self.config.num_clients) if self.plan.charges_everybody else chosen
        if len(paying):
            self.privacy_ledger.charge(round, paying, self.plan.steps_per_round)

    def _sample(self, round: int) -> np.ndarray:
        """The cohort; a client whose planned participations are used up sits out (rule A20)."""
        eligible = self._eligible(round)
        size = self.config.cohort_size
        if eligible is not None and size is not None and self.config.cohort_sampling == "fixed":
            size = min(size, int(eligible.sum()))
            if size == 0:
                return np.zeros(0, np.int64)
        return cohort.sample(
            self.secret if self.plan is not None else self.seed,
            round,
            self.config.num_clients,
            size,
            self.config.cohort_sampling,
            eligible,
        )

    def _eligible(self, round: int) -> np.ndarray | None:
        """Who can still pay for this round, bool ``[num_clients]``; None without privacy."""
        if self.plan is None or self.privacy_ledger is None:
            return None
        taken = self.privacy_ledger.steps_before(round)
        return taken <= self.plan.planned_steps - self.plan.steps_per_round

    def _send(self, round: int, chosen: np.ndarray) -> None:
        """Pack and count what every client lacks."""
        groups = downlink.plan(
            self.state,
            chosen,
            self.client_states.last_round[chosen],
            self.config.downlink,
            self.seeds,
            self.personal,
        )
        for ids, items in groups:
            self.communication.add(
                round, "downlink", ids, pack(items, self.config.wire_dtype).lines
            )

    def _train(
        self, round: int, chosen: np.ndarray
    ) -> tuple[list[LocalResult], Tensors, Stack | None, np.ndarray]:
        """Train the cohort chunk by chunk; fold uploads into the mean as they come in."""
        weights = client_weights(self.clients.sizes[chosen], self.config.weights)
        received = self._received()
        accumulator, release = MeanAccumulator(), self._release
        shared = [s for s in self.trainable(round) if s.name not in self.personal]
        total: Tensors = {s.name: torch.zeros(s.shape, dtype=torch.float64) for s in shared}
        kept: list[Stack] = []
        results, size = [], self._chunk_size(round)
        for part in (slice(at, at + size) for at in range(0, len(chosen), size)):
            result, upload = self._train_chunk(round, chosen[part], received)
            results.append(result)
            if isinstance(release, ClientRelease):
                total = release.add(total, received, upload)
            else:
                accumulator.add(upload, weights[part])
            if not self.method.linear:
                kept.append(upload)
        mean = (
            release.mean(round, total, received)
            if isinstance(release, ClientRelease)
            else accumulator.result()
        )
        uploads = {n: torch.cat([k[n] for k in kept]) for n in kept[0]} if kept else None
        return results, mean, uploads, weights

    def _train_chunk(
        self, round: int, ids: np.ndarray, received: Tensors
    ) -> tuple[LocalResult, Stack]:
        """Local training of some clients, and their packed, counted, unpacked uploads."""
        trainable = [spec.name for spec in self.trainable(round)]
        personal = [name for name in self.personal if name in received]
        start = {n: received[n].expand(len(ids), *received[n].shape) for n in trainable}
        start |= self.client_states.gather(ids, personal, self.network.initial)
        common = {n: v for n, v in received.items() if n not in start}
        release = self._release
        private = release.privacy(ids, self.state) if isinstance(release, ExampleRelease) else None
        result = self.engine.train(
            LocalJob(
                round=round,
                clients=ids,
                batches=self._batches(round, ids),
                start=start,
                common=common,
                trainable=tuple(trainable),
                optimizer=self._optimizer(),
                privacy=private,
                dropout=self.dropout,
                dropout_key=keys.derive(self.secret, "dropout"),
                poll=self.poll,
            )
        )
        if personal:
            self.client_states.scatter(ids, {n: result.trained.get(n, start[n]) for n in personal})
        if isinstance(release, LocalRelease):
            leaving = {n: v for n, v in result.trained.items() if n not in self.personal}
            noised = release.uploads(round, ids, received, leaving)
            result = replace(result, trained=result.trained | noised)
        return result, self._upload(round, ids, result)

    def _upload(self, round: int, ids: np.ndarray, result: LocalResult) -> Stack:
        """Pack what the method uploads; what the server uses is what it unpacked."""
        sent = [spec for spec in self.trainable(round) if spec.name not in self.personal]
        items = [Dense(spec.name, spec.kind, result.trained[spec.name]) for spec in sent]
        if self.plan is not None:
            uncovered = {item.name for item in items} - set(self.plan.covered)
            if uncovered:
                raise RuntimeError(
                    f"upload of {sorted(uncovered)} is not covered by the privacy plan"
                )
        packed = pack(items, self.config.wire_dtype)
        self.communication.add(round, "uplink", ids, packed.lines)
        return {
            item.name: item.values.float() for item in unpack(packed) if isinstance(item, Dense)
        }

    def _combine(
        self, round: int, mean: Tensors, uploads: Stack | None, weights: np.ndarray
    ) -> None:
        """Server optimiser, the method's own step, merges into the base."""
        stepped, optimizer = server_step(self.config.server_optimizer, self.state, mean)
        context = AggregateContext(round, self.network.sites, self.network.scale, self.options)
        update = self.method.aggregate(
            self.state, stepped, uploads, torch.from_numpy(weights), context
        )
        self.state = apply_update(self.state, update, round, self.network.scale, optimizer)
        if update.merges:
            self.network.add_to_base(self.state.base_delta)

    def _received(self) -> Tensors:
        """Global tensors as a client holds them: rounded by the wire once they have changed."""
        if self.config.wire_dtype == "float32":
            return dict(self.state.tensors)
        return {
            n: v.to(torch.bfloat16).float() if self.state.versions.get(n, 0) else v
            for n, v in self.state.tensors.items()
        }

    def _batches(self, round: int, ids: np.ndarray) -> list[StepBatches]:
        draws = (self.seed, self.secret, self.plan, self.privacy_ledger)
        return draw_round(self.config, self.clients, round, ids, *draws)

    def _optimizer(self) -> LocalOptimizer:
        c = self.config
        return LocalOptimizer(c.local_optimizer, c.local_lr, c.local_momentum, c.local_weight_decay)

    def _chunk_size(self, round: int) -> int:
        per_client = 4 * sum(spec.size for spec in self.trainable(round))
        return max(1, CHUNK_BYTES // max(per_client, 1))
