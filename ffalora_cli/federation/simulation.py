"""Plays a round in six stops: sample, send, train, receive, combine, record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.config.schema import FederationConfig, HeadConfig
from ffalora_cli.data.batches import StepBatches
from ffalora_cli.data.partition import ClientRows
from ffalora_cli.engine.job import Engine, LocalJob, LocalOptimizer, LocalResult
from ffalora_cli.federation import cohort, downlink, dropouts, norms, robust
from ffalora_cli.federation.clients import ClientStates
from ffalora_cli.federation.contract import Corrupt, Manifest, Receipt, receive
from ffalora_cli.federation.draws import draw_round
from ffalora_cli.federation.gathering import Gathering
from ffalora_cli.federation.ledger import CommunicationLedger
from ffalora_cli.federation.payload import Packed, pack, unpack
from ffalora_cli.federation.release import (
    ClientRelease,
    ExampleRelease,
    LocalRelease,
    adapt_clip,
    check_round,
    release_of,
)
from ffalora_cli.federation.round_metrics import arrival_metrics, client_lines, train_metrics
from ffalora_cli.federation.server import (
    apply_update,
    check_finite,
    client_weights,
    server_step,
)
from ffalora_cli.federation.tensors import (
    global_tensors,
    initial_state,
    kept_names,
    personal_names,
    trained_specs,
)
from ffalora_cli.keys import Key
from ffalora_cli.methods.base import AggregateContext, Method
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.plan import PrivacyPlan
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import (
    Dense,
    Kind,
    PayloadItem,
    RoundRecord,
    Stack,
    Tensors,
    TensorSpec,
    kind_of,
)

SEAMS = ("Simulation._upload", "Simulation._receive")
"""What an audit may replace; whoever calls it looks it up in this module."""
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
        corrupt: changes single uploads on their way (simulated adversaries); None = nobody does.
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
    corrupt: Corrupt | None = None

    def __post_init__(self) -> None:
        self.state = initial_state(self.network)
        self.client_states = ClientStates(len(self.clients))
        self.communication = CommunicationLedger(len(self.clients))
        largest = self.config.cohort_size or len(self.clients)
        cycle = range(1, len(self.method.cycle) * self.method.exchanges() + 1)
        size = max(sum(spec.size for spec in self._manifest(n).specs) for n in cycle)
        robust.check_memory(self.config.combination, largest, size)

    @property
    def tensors(self) -> Tensors:
        """Global values of all tensors, in layout order."""
        return global_tensors(self.network, self.state)

    def _place(self, number: int) -> tuple[int, int]:
        """Round and place in it of the exchange of this number."""
        round, place = divmod(number - 1, self.method.exchanges())
        return round + 1, place

    def _secret(self, number: int) -> Key:
        """Key of an exchange's draws: a second one of a round draws others than the first."""
        place = self._place(number)[1]
        return keys.derive(self.secret, "exchange", place) if place else self.secret

    def _release(self, number: int) -> ExampleRelease | LocalRelease | ClientRelease | None:
        return release_of(self.plan, self._secret(number))

    def trainable(self, number: int) -> list[TensorSpec]:
        """Tensors trained in the exchange of this number (from 1), in layout order."""
        return trained_specs(self.network, self.method.exchange(number), self.head)

    def trained(self, round: int) -> list[TensorSpec]:
        """Tensors trained in any exchange of this round, in layout order."""
        names = {spec.name for n in self.method.numbers(round) for spec in self.trainable(n)}
        return [spec for spec in self.network.specs if spec.name in names]

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
        asked = np.sort(self._sample(round))  # sums and micro-batches go in client order
        chosen = asked[~dropouts.absent(self.seed, round, asked, self.config.dropout_rate)]
        late = dropouts.late(self.seed, round, chosen, self.config.straggler_rate)
        results, rejected = [], []
        for number in self.method.numbers(round):
            if self.plan is not None:
                names = [spec.name for spec in self.trainable(number)]
                check_round(self.plan, self.network.model, names)
            self._send(number, chosen)
            self._charge(number, chosen)
            trained, gathered = self._train(number, chosen, late)
            mean = gathered.combined(round)
            if mean:  # empty if nothing arrived, unless client-level privacy releases noise for it
                self._combine(number, mean, gathered)
            results += trained
            rejected += gathered.rejected
        self.state = replace(self.state, round=round)
        self.client_states.took_part(chosen, round)
        rescales = self.plan is not None and self.plan.clip == "automatic"
        metrics = train_metrics(results, time.perf_counter() - began, clips=not rescales)
        uploads_late = int(late.sum()) * self.method.exchanges()
        metrics |= arrival_metrics(len(asked) - len(chosen), uploads_late, rejected)
        release = release_of(self.plan, self.secret)
        self.state, clip = adapt_clip(
            release, self.communication, round, chosen, results, self.state
        )
        metrics |= clip | self.communication.round_totals(round)
        return RoundRecord(round, metrics, client_lines(chosen, results), tuple(rejected))

    def _charge(self, number: int, chosen: np.ndarray) -> None:
        """Write down what the round costs before anything of it is released.

        Under central client-level privacy every client pays for every round: not being drawn is
        what the sampling rate already counts.
        """
        round, place = self._place(number)
        if self.plan is None or self.privacy_ledger is None or place:
            return
        paying = np.arange(len(self.clients)) if self.plan.charges_everybody else chosen
        if len(paying):
            self.privacy_ledger.charge(round, paying, self.plan.steps_per_round)

    def _sample(self, round: int) -> np.ndarray:
        """The cohort; a client whose planned participations are used up sits out: budget spent."""
        eligible = self._eligible(round)
        size = self.config.cohort_size
        if eligible is not None and size is not None and self.config.cohort_sampling == "fixed":
            size = min(size, int(eligible.sum()))
            if size == 0:
                return np.zeros(0, np.int64)
        return cohort.sample(
            self.secret if self.plan is not None else self.seed,
            round,
            len(self.clients),
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

    def _send(self, number: int, chosen: np.ndarray) -> None:
        """Pack and count what every client lacks; within a round nobody forgets."""
        round, place = self._place(number)
        last = self.client_states.last_round[chosen] * self.method.exchanges()
        groups = downlink.plan(
            self.state,
            chosen,
            np.full_like(last, number - 1) if place else last,
            "cached" if place else self.config.downlink,
            self.seeds,
            self.personal,
        )
        for ids, items in groups:
            self.communication.add(round, "downlink", ids, self._lines(items), place)

    def _lines(self, items: Sequence[PayloadItem]) -> Mapping[Kind, int]:
        """Bytes by kind of a payload."""
        return pack(items, self.config.wire_dtype).lines

    def _train(
        self, number: int, chosen: np.ndarray, late: np.ndarray
    ) -> tuple[list[LocalResult], Gathering]:
        """Train the cohort chunk by chunk; uploads are checked and folded in as they come."""
        config, release = self.config, self._release(number)
        weights = client_weights(self.clients.sizes[chosen], config.weights)
        received = downlink.as_received(self.state, self.tensors, config.wire_dtype)
        specs = self._manifest(number).specs
        gathered = Gathering(
            before=received,
            rule=config.combination,
            assumed_bad=config.assumed_bad or 0,
            keep=not self.method.linear,
            release=release if isinstance(release, ClientRelease) else None,
            total={s.name: torch.zeros(s.shape, dtype=torch.float64) for s in specs},
        )
        results, size = [], self._chunk_size(number)
        for part in (slice(at, at + size) for at in range(0, len(chosen), size)):
            ids = chosen[part]
            start = received | self._own(ids)
            result, packed = self._train_chunk(number, ids, start)
            results.append(result)
            receipt = self._receive(number, ids, packed, start, late[part])
            gathered.add(receipt, ids, weights[part])
        gathered.check(self._place(number)[0], config.min_clients)
        return results, gathered

    def _receive(
        self, number: int, ids: np.ndarray, packed: Packed, before: Tensors, late: np.ndarray
    ) -> Receipt:
        """The server's view of a chunk's uploads: unpacked, and checked by ``contract``."""
        config = self.config
        limit = norms.limit(config.max_upload_norm, self.plan, self.state, len(self.clients))
        return receive(packed, ids, self._manifest(number), before, limit, late, self.corrupt)

    def _manifest(self, number: int) -> Manifest:
        """What is uploaded in this exchange."""
        kept = kept_names(self.network, self.method.exchange(number), self.head)
        shared = [spec for spec in self.trainable(number) if spec.name not in kept]
        return Manifest(self._place(number)[0], number, shared, self.config.wire_dtype, self.method)

    def _own(self, ids: np.ndarray) -> Stack:
        """Personal tensors of some clients ``[clients, ...]``."""
        return self.client_states.gather(ids, self.personal, self.network.initial)

    def _train_chunk(
        self, number: int, ids: np.ndarray, received: Tensors
    ) -> tuple[LocalResult, Packed]:
        """Local training of some clients, and their packed, counted uploads."""
        round = self._place(number)[0]
        trainable = [spec.name for spec in self.trainable(number)]
        personal = self.personal
        start = {n: received[n] for n in (*trainable, *personal)}
        start |= {
            n: received[n].expand(len(ids), *received[n].shape)
            for n in trainable
            if n not in personal
        }
        common = {n: v for n, v in received.items() if n not in start}
        release = self._release(number)
        private = release.privacy(ids, self.state) if isinstance(release, ExampleRelease) else None
        result = self.engine.train(
            LocalJob(
                round=round,
                clients=ids,
                batches=self._batches(number, ids),
                start=start,
                common=common,
                trainable=tuple(trainable),
                optimizer=self._optimizer(),
                privacy=private,
                dropout=self.dropout,
                dropout_key=keys.derive(self._secret(number), "dropout"),
                poll=self.poll,
            )
        )
        if personal:
            self.client_states.scatter(ids, {n: result.trained.get(n, start[n]) for n in personal})
        if isinstance(release, LocalRelease):
            sent = {spec.name for spec in self._manifest(number).specs}
            leaving = {n: v for n, v in result.trained.items() if n in sent}
            noised = release.uploads(round, ids, received, leaving)
            result = replace(result, trained=result.trained | noised)
        return result, self._upload(number, ids, result)

    def _upload(self, number: int, ids: np.ndarray, result: LocalResult) -> Packed:
        """Pack and count what the method uploads."""
        covered = None if self.plan is None else self.plan.covered
        before = downlink.as_received(self.state, self.tensors, self.config.wire_dtype)
        packed = self._manifest(number).pack(ids, result.trained, before, covered)
        round, place = self._place(number)
        self.communication.add(round, "uplink", ids, packed.lines, place)
        return packed

    def _combine(self, number: int, mean: Tensors, gathered: Gathering) -> None:
        """Server optimiser, the method's own step, merges into the base; all of it or nothing."""
        round = self._place(number)[0]
        whole = replace(self.state, tensors=self.tensors)
        stepped, optimizer = server_step(self.config.server_optimizer, whole, mean)
        context = self._context(number)
        uploads = gathered.uploads if gathered.keep else None
        weights = torch.from_numpy(gathered.weights)
        update = self.method.aggregate(whole, stepped, uploads, weights, context)
        state = apply_update(self.state, update, number, self.network.scale, optimizer)
        check_finite(state, update, round)
        past = norms.remember(state.upload_norms, gathered.norms)
        self.state = replace(state, upload_norms=past)
        if update.merges:
            self.network.add_to_base(self.state.base_delta)
        if update.own:
            self._hand_down(number, gathered.clients, update.own)

    def _context(self, number: int) -> AggregateContext:
        round, place = self._place(number)
        network, seed = self.network, self.seeds["adapter"]
        return AggregateContext(round, network.sites, network.scale, self.options, place, seed)

    def _hand_down(self, number: int, ids: np.ndarray, own: Stack) -> None:
        """Send every client its own results ``[clients, ...]``, and keep them as it reads them."""
        items = [Dense(name, kind_of(name), values) for name, values in own.items()]
        packed = pack(items, self.config.wire_dtype)
        round, place = self._place(number)
        self.communication.add(round, "downlink", ids, packed.lines, place)
        arrived = {i.name: i.values.float() for i in unpack(packed) if isinstance(i, Dense)}
        self.client_states.scatter(ids, self._own(ids) | arrived)

    def _batches(self, number: int, ids: np.ndarray) -> list[StepBatches]:
        round, place = self._place(number)
        draws = (self.seed, self._secret(number), self.plan, self.privacy_ledger)
        exchanges = self.method.exchanges()
        return draw_round(self.config, self.clients, round, ids, *draws, place, exchanges)

    def _optimizer(self) -> LocalOptimizer:
        c = self.config
        return LocalOptimizer(c.local_optimizer, c.local_lr, c.local_momentum, c.local_weight_decay)

    def _chunk_size(self, number: int) -> int:
        per_client = 4 * sum(spec.size for spec in self.trainable(number))
        return max(1, CHUNK_BYTES // max(per_client, 1))
