"""Plays one round: invite, then for each exchange send, train, receive, combine; then record.

``play`` is a generator. It yields a ``LocalJob`` and is sent the ``LocalResult``, and yields what
the server made of the uploads (``Receipt``): whoever drives it decides who trains, and sees all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.engine.job import LocalJob, LocalResult, StepBatches
from ffalora_cli.federation.cohort.clients import ClientStates
from ffalora_cli.federation.cohort.cohort import Cohort, invite
from ffalora_cli.federation.cohort.draws import draw_round
from ffalora_cli.federation.diagnostics import measuring, noise_sums
from ffalora_cli.federation.ranks import cut, cut_items, masked, padded
from ffalora_cli.federation.roles import global_tensors
from ffalora_cli.federation.round_metrics import arrival_metrics, client_lines, train_metrics
from ffalora_cli.federation.server.gathering import Gathering
from ffalora_cli.federation.server.mechanism import ratios
from ffalora_cli.federation.server.release import (
    ClientRelease,
    ExampleRelease,
    LocalRelease,
    adapt_clip,
    check_round,
    release_of,
)
from ffalora_cli.federation.server.server import (
    apply_update,
    check_finite,
    client_weights,
    server_step,
)
from ffalora_cli.federation.setting import Setting
from ffalora_cli.federation.wire import contract, downlink, norms
from ffalora_cli.federation.wire.contract import Receipt
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.federation.wire.payload import Packed, WireDtype, pack, unpack
from ffalora_cli.metric_keys import LEARNING_RATE
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.types import (
    Dense,
    Kind,
    PayloadItem,
    RoundRecord,
    ServerState,
    Stack,
    Tensors,
    kind_of,
)

SEAMS = ("upload", "receive")
"""What an audit may replace; whoever calls it looks it up in this module."""
CHUNK_BYTES = 2**30  # of one copy of a chunk's stack; training holds about six

Answer = Callable[[LocalJob | Receipt], LocalResult | None]
"""Who drives a round: answers every job with its result, and is shown what arrived."""

Lines = Callable[[list[PayloadItem], WireDtype], Mapping[Kind, int]]
"""Bytes by kind of a payload."""

Done = tuple[ServerState, RoundRecord]
Exchanged = tuple[ServerState, list[LocalResult], list[Any], Mapping[str, float]]
"""State after an exchange, results chunk by chunk, rejected uploads, what was measured of them."""
Playing = Generator[LocalJob | Receipt, Any, Exchanged]


class Ledgers(Protocol):
    """What rounds write into, besides the state they return."""

    client_states: ClientStates
    communication: CommunicationLedger
    privacy_ledger: PrivacyLedger | None


def play(
    setting: Setting,
    state: ServerState,
    ledgers: Ledgers,
    round: int,
    exchange: Callable[[Setting, ServerState, Ledgers, Cohort, int], Playing] | None = None,
) -> Generator[LocalJob | Receipt, Any, Done]:
    """One round; all of it or nothing of it is in the state that it returns.

    Args:
        setting: of the federation.
        state: after the round before.
        ledgers: are written into.
        round: from 1.
        exchange: how an exchange goes where it is not played (a rehearsal's knows shapes alone).
    """
    began, numbers = time.perf_counter(), setting.method.numbers(round)
    invited = invite(setting, ledgers.privacy_ledger, round)
    if setting.plan is not None:
        for number in numbers:
            names = [spec.name for spec in setting.trainable(number)]
            check_round(setting.plan, setting.network.model, names)
    _charge(setting, ledgers.privacy_ledger, round, invited.ids)
    results, rejected = [], []
    measured: list[Mapping[str, float]] = []
    for number in numbers:
        step = (exchange or _exchange)(setting, state, ledgers, invited, number)
        state, trained, refused, sums = yield from step
        results += trained
        rejected += refused
        measured.append(sums)
    ledgers.client_states.took_part(invited.ids, round)
    rescales = setting.plan is not None and setting.plan.clip == "automatic"
    metrics = train_metrics(results, time.perf_counter() - began, clips=not rescales)
    late = int(invited.late.sum()) * len(numbers)
    metrics |= arrival_metrics(invited.dropped, late, rejected)
    metrics[LEARNING_RATE] = setting.optimizer(round).lr
    metrics |= ratios(measured, setting.network.scale)
    release = release_of(setting.plan, setting.secret)
    adapted = adapt_clip(release, ledgers.communication, round, invited.ids, results, state)
    state, clip = replace(adapted[0], round=round), adapted[1]
    metrics |= clip | ledgers.communication.round_totals(round)
    lines = client_lines(invited.ids, results)
    return state, RoundRecord(round, metrics, lines, tuple(rejected))


def drive(playing: Generator[LocalJob | Receipt, Any, Done], answer: Answer) -> Done:
    """Play to the end, every job answered, every receipt shown."""
    reply: LocalResult | None = None
    while True:
        try:
            asked = playing.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = answer(asked)


def _charge(setting: Setting, ledger: PrivacyLedger | None, round: int, ids: np.ndarray) -> None:
    """Write down what the round costs before anything of it is released.

    Under central client-level privacy every client pays for every round: not being drawn is
    what the sampling rate already counts.
    """
    if setting.plan is None or ledger is None:
        return
    paying = np.arange(len(setting.clients)) if setting.plan.charges_everybody else ids
    if len(paying):
        ledger.charge(round, paying, setting.plan.steps_per_round)


def _exchange(
    setting: Setting, state: ServerState, ledgers: Ledgers, invited: Cohort, number: int
) -> Playing:
    """Send, train chunk by chunk, receive, combine."""
    send(setting, state, ledgers, invited.ids, number, _packed_lines)
    config, (round, place) = setting.config, setting.place(number)
    release, manifest = setting.release(number), setting.manifest(number)
    received = downlink.as_received(
        state, global_tensors(setting.network, state), config.wire_dtype
    )
    gathered = Gathering(
        before=received,
        rule=config.combination,
        assumed_bad=config.assumed_bad or 0,
        keep=not setting.method.linear,
        release=release if isinstance(release, ClientRelease) else None,
        total={s.name: torch.zeros(s.shape, dtype=torch.float64) for s in manifest.specs},
        mechanism=measuring(setting, received, number) if setting.mechanism else None,
    )
    weights = client_weights(setting.clients.sizes[invited.ids], config.weights)
    results, size = [], _chunk_size(setting, number)
    for part in (slice(at, at + size) for at in range(0, len(invited.ids), size)):
        ids = invited.ids[part]
        held = received | _own(setting, ledgers, ids)
        extents = setting.extents(ids)
        if extents is not None:
            held |= {n: masked(held[n], own) for n, own in extents.items()}
        result = yield _job(setting, state, ledgers, number, ids, held, extents)
        results.append(result)
        if result.max_tokens is not None:
            state = replace(state, max_tokens=result.max_tokens)
        leaving = _kept_and_noised(setting, ledgers, number, ids, held, result, extents)
        for rows, rank in setting.by_rank(ids):
            sent, start = _of_rank(setting, rows, rank, leaving, held)
            packed = upload(setting, number, ids[rows], start, sent)
            ledgers.communication.add(round, "uplink", ids[rows], packed.lines, place)
            late = invited.late[part][rows]
            receipt = receive(setting, state, number, ids[rows], packed, start, late)
            yield receipt
            if extents is not None:
                shapes = {spec.name: spec.shape for spec in manifest.specs}
                receipt = replace(receipt, uploads=padded(receipt.uploads, shapes))
            gathered.add(receipt, ids[rows], weights[part][rows])
    gathered.check(round, config.min_clients)
    measured: Mapping[str, float] = {}
    if gathered.mechanism is not None:
        counted = (gathered.clients, gathered.weights)
        noise = noise_sums(setting, state, received, number, *counted)
        measured = gathered.mechanism.sums() | noise
    mean = gathered.combined(round)
    if mean:  # empty if nothing arrived, unless client-level privacy releases noise for it
        state = _combine(setting, state, ledgers, number, mean, gathered)
    return state, results, gathered.rejected, measured


def send(
    setting: Setting,
    state: ServerState,
    ledgers: Ledgers,
    ids: np.ndarray,
    number: int,
    lines: Lines,
) -> None:
    """Count what every client lacks; within a round nobody forgets what it was sent."""
    round, place = setting.place(number)
    last = ledgers.client_states.last_round[ids] * setting.method.exchanges()
    groups = downlink.plan(
        state,
        ids,
        np.full_like(last, number - 1) if place else last,
        "cached" if place else setting.config.downlink,
        setting.seeds,
        setting.personal,
    )
    for group, items in groups:
        for rows, rank in setting.by_rank(group):
            sizes = lines(at_rank(setting, items, rank), setting.config.wire_dtype)
            ledgers.communication.add(round, "downlink", group[rows], sizes, place)


def at_rank(setting: Setting, items: list[PayloadItem], rank: int) -> list[PayloadItem]:
    """Items for clients of a rank."""
    return items if rank == setting.network.rank else cut_items(items, setting.shapes(rank))


def _packed_lines(items: list[PayloadItem], wire_dtype: WireDtype) -> Mapping[Kind, int]:
    """Bytes by kind of a payload."""
    return pack(items, wire_dtype).lines


def _job(
    setting: Setting,
    state: ServerState,
    ledgers: Ledgers,
    number: int,
    ids: np.ndarray,
    held: Tensors,
    extents: Mapping[str, np.ndarray] | None,
) -> LocalJob:
    """Local training of some clients, from the tensors they hold."""
    trainable = [spec.name for spec in setting.trainable(number)]
    release = setting.release(number)
    apart = dict.fromkeys((*setting.personal, *(extents or ())))
    start = {n: held[n] for n in (*trainable, *apart)}
    shared = [n for n in trainable if n not in apart]
    start |= {n: held[n].expand(len(ids), *held[n].shape) for n in shared}
    return LocalJob(
        round=setting.place(number)[0],
        clients=ids,
        batches=batches_of(setting, ledgers.privacy_ledger, number, ids),
        start=start,
        common={n: v for n, v in held.items() if n not in start},
        trainable=tuple(trainable),
        optimizer=setting.optimizer(setting.place(number)[0]),
        privacy=release.privacy(ids, state) if isinstance(release, ExampleRelease) else None,
        dropout=setting.dropout,
        model_dropout=setting.model_dropout,
        dropout_key=keys.derive(setting.key(number), "dropout"),
        extents=extents,
        poll=setting.poll,
        max_tokens=state.max_tokens,
    )


def batches_of(
    setting: Setting, ledger: PrivacyLedger | None, number: int, ids: np.ndarray
) -> list[StepBatches]:
    """The rows of every local step of an exchange."""
    round, place = setting.place(number)
    # Shuffled epochs go on over all exchanges of a run, so their key does, too.
    shuffled = setting.plan is not None and setting.plan.accountant.sampling == "shuffled"
    secret = setting.secret if shuffled else setting.key(number)
    draws = (setting.seed, secret, setting.plan, ledger)
    exchanges = setting.method.exchanges()
    return draw_round(setting.config, setting.clients, round, ids, *draws, place, exchanges)


def _kept_and_noised(
    setting: Setting,
    ledgers: Ledgers,
    number: int,
    ids: np.ndarray,
    held: Tensors,
    result: LocalResult,
    extents: Mapping[str, np.ndarray] | None,
) -> LocalResult:
    """What the clients keep of their training is put away; the rest is ready to leave.

    Of what leaves with noise a client keeps the noised values: the next upload begins with them.
    """
    personal, release = setting.personal, setting.release(number)
    if isinstance(release, LocalRelease):
        sent = [spec.name for spec in setting.manifest(number).specs]
        leaving = {n: v for n, v in result.trained.items() if n in sent}
        noised = release.uploads(setting.place(number)[0], ids, held, leaving, extents)
        result = replace(result, trained=result.trained | noised)
    if personal:
        kept = {name: result.trained.get(name, held[name]) for name in personal}
        ledgers.client_states.scatter(ids, kept)
    return result


def _of_rank(
    setting: Setting, rows: np.ndarray | slice, rank: int, result: LocalResult, held: Tensors
) -> tuple[LocalResult, Tensors]:
    """Result and start of some clients of a cohort, in the shapes of their rank."""
    if setting.one_rank:
        return result, held
    shapes, apart = setting.shapes(rank), {*setting.personal, *setting.shapes(rank)}
    start = {n: v[rows] if n in apart else v for n, v in held.items()}
    trained = {n: v[rows] for n, v in result.trained.items()}
    start, trained = (
        {n: cut(v, shapes[n]) if n in shapes else v for n, v in part.items()}
        for part in (start, trained)
    )
    return replace(result, trained=trained), start


def upload(
    setting: Setting, number: int, ids: np.ndarray, held: Tensors, result: LocalResult
) -> Packed:
    """The packed uploads of some clients."""
    covered = None if setting.plan is None else setting.plan.covered
    manifest = setting.manifest(number, int(setting.ranks[ids[0]]))
    return manifest.pack(ids, result.trained, held, covered)


def receive(
    setting: Setting,
    state: ServerState,
    number: int,
    ids: np.ndarray,
    packed: Packed,
    held: Tensors,
    late: np.ndarray,
) -> Receipt:
    """The server's view of a chunk's uploads: unpacked, and checked by ``contract``."""
    fixed, clients = setting.config.max_upload_norm, len(setting.clients)
    limit = norms.limit(fixed, setting.plan, state, clients)
    manifest = setting.manifest(number, int(setting.ranks[ids[0]]))
    return contract.receive(packed, ids, manifest, held, limit, late, setting.corrupt)


def _combine(
    setting: Setting,
    state: ServerState,
    ledgers: Ledgers,
    number: int,
    mean: Tensors,
    gathered: Gathering,
) -> ServerState:
    """Server optimiser, the method's own step, merges into the base; all of it or nothing."""
    network = setting.network
    whole = replace(state, tensors=global_tensors(network, state))
    stepped, optimizer = server_step(setting.config.server_optimizer, whole, mean)
    uploads = gathered.uploads if gathered.keep else None
    weights = torch.from_numpy(gathered.weights)
    context = setting.context(number)
    update = setting.method.aggregate(whole, stepped, uploads, weights, context)
    after = apply_update(state, update, number, network.scale, optimizer)
    check_finite(after, update, context.round)
    if update.merges:
        network.add_to_base(after.base_delta)
    if update.own:
        _hand_down(setting, ledgers, number, gathered.clients, update.own)
    return replace(after, upload_norms=norms.remember(state.upload_norms, gathered.norms))


def _hand_down(
    setting: Setting, ledgers: Ledgers, number: int, ids: np.ndarray, own: Stack
) -> None:
    """Send every client its own results ``[clients, ...]``, and keep them as it reads them."""
    (round, place), shapes = setting.place(number), {n: tuple(v.shape[1:]) for n, v in own.items()}
    for rows, rank in setting.by_rank(ids):
        items: list[PayloadItem] = [Dense(n, kind_of(n), v[rows]) for n, v in own.items()]
        packed = pack(at_rank(setting, items, rank), setting.config.wire_dtype)
        ledgers.communication.add(round, "downlink", ids[rows], packed.lines, place)
        arrived = {i.name: i.values.float() for i in unpack(packed) if isinstance(i, Dense)}
        kept = _own(setting, ledgers, ids[rows]) | padded(arrived, shapes)
        ledgers.client_states.scatter(ids[rows], kept)


def _own(setting: Setting, ledgers: Ledgers, ids: np.ndarray) -> Stack:
    """Personal tensors of some clients ``[clients, ...]``."""
    return ledgers.client_states.gather(ids, setting.personal, setting.network.initial)


def _chunk_size(setting: Setting, number: int) -> int:
    per_client = 4 * sum(spec.size for spec in setting.trainable(number))
    return max(1, CHUNK_BYTES // max(per_client, 1))
