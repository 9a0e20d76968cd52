"""Builds the parts of a run from a checked configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.schema import Config
from ffalora_cli.experiment import population, remarks
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.metric_keys import evaluated, of_clients, own_labels, personalized
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from ffalora_cli.data.dataset import TaskData
    from ffalora_cli.engine.evaluate import Predict
    from ffalora_cli.engine.generate import Told, Write
    from ffalora_cli.engine.ranks import Ranks
    from ffalora_cli.experiment.generated import Asked
    from ffalora_cli.experiment.inputs import Loaded
    from ffalora_cli.experiment.population import Population
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.keys import Key
    from ffalora_cli.methods.base import Method
    from ffalora_cli.models.backbone import Weights
    from ffalora_cli.privacy.planning.plan import PrivacyPlan


Lines = list[dict[str, Any]]
"""Of generated answers, as ``generated.jsonl`` has them."""


@dataclass(frozen=True)
class Given:
    """What a run otherwise makes itself, handed in: neighbouring runs differ in nothing else.

    Attributes:
        secret: key of every privacy draw; not written anywhere.
        data: training rows and evaluation splits.
        people: who owns which training row.
    """

    secret: Key
    data: TaskData
    people: Population


@dataclass
class Parts:
    """A run, built and not yet started."""

    config: Config
    data: TaskData
    method: Method
    simulation: Simulation
    plan: PrivacyPlan | None
    strata_counts: np.ndarray  # int64 [clients, strata], training rows
    strata_names: tuple[str, ...]
    max_tokens: int
    loaded: Loaded
    predict: Predict  # scores rows, here or on all ranks
    asked: Asked | None  # rows that answers are generated to
    write: Write | None  # generates them, here or on all ranks
    processes: int = 1
    names: tuple[str, ...] | None = None  # of the clients, where the data names them
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def secret_inputs(self) -> str | None:
        """What the run secret is a hash of beside seed and signature (``run_secret``)."""
        return None if self.plan is None else self.loaded.digest

    @property
    def padding(self) -> str | None:
        """Why training pads; None where the examples' tokens lie end to end."""
        from ffalora_cli.models.fit import why_padded

        network = self.simulation.network
        settings: Any = network.plain.config
        return why_padded(self.config, settings.model_type, network.padding)

    def evaluate(self, record: RoundRecord) -> RoundRecord:
        """The record with the metrics of the global model, and of the clients where asked for."""
        from ffalora_cli.engine.evaluate import evaluate

        simulation, task = self.simulation, self.config.task
        metrics = dict(record.metrics)
        for index, (split, rows) in enumerate(self.data.evals.items()):
            prefix = evaluated("", split if index else "")
            metrics |= evaluate(
                simulation.network,
                rows,
                simulation.tensors,
                task,
                self.max_tokens,
                prefix,
                simulation.poll,
                self.predict,
            )
        record = replace(record, metrics=metrics)
        if simulation.personal or self.config.federation.eval_clients:
            record = self._evaluate_clients(record)
        return record

    def generate(self, record: RoundRecord, told: Told) -> tuple[RoundRecord, Lines]:
        """The record with scores of what the global model writes where that is due, and what.

        Args:
            record: of a round.
            told: how many answers of how many are written.
        """
        simulation = self.simulation
        last = simulation.is_last(record.round)
        if self.asked is None or self.write is None or not self.asked.due(record.round, last):
            return record, []
        metrics, lines = self.asked.scored(self.write, simulation.tensors, simulation.poll, told)
        return replace(record, metrics={**record.metrics, **metrics}), lines

    def _evaluate_clients(self, record: RoundRecord) -> RoundRecord:
        """The record with scores of the clients that took part (at most 100 of them).

        Each client's model is the global one with its personal tensors. Without any, all clients
        have the global score, and only that under their own labels says more.
        """
        from ffalora_cli.engine.evaluate import client_scores

        simulation = self.simulation
        ids = np.flatnonzero(simulation.client_states.last_round == record.round)[:100]
        if not len(ids):
            return record
        names = simulation.personal
        personal = simulation.client_states.gather(ids, names, simulation.network.initial)
        models = [
            simulation.tensors | {n: v[i] for n, v in personal.items()}
            for i in range(len(ids) if names else 1)
        ]
        plain, own = client_scores(
            simulation.network,
            next(iter(self.data.evals.values())),
            models,
            self.strata_counts[ids],
            self.config.task,
            self.max_tokens,
            simulation.poll,
            self.predict,
        )
        score = simulation.network.task.client_metric
        prefix = personalized(score) if names else of_clients(score)
        metrics = {**record.metrics, own_labels(prefix): float(own.mean())}
        scores = {int(i): {own_labels(score): float(o)} for i, o in zip(ids, own, strict=True)}
        if names:
            metrics |= {prefix: float(plain.mean()), f"{prefix}_min": float(plain.min())}
            for i, value in zip(ids, plain, strict=True):
                scores[int(i)][score] = float(value)
        lines = tuple({**line, **scores.get(int(line["client"]), {})} for line in record.clients)
        return replace(record, metrics=metrics, clients=lines)


def pin(config: Config, observer: Observer) -> Config:
    """The configuration with hub revisions turned into commits; rows are downloaded here."""
    from ffalora_cli.data.sources import source
    from ffalora_cli.models.backbone import pin_model

    model = pin_model(config.model, observer.note)
    task = source.pin(config.task, config.paths.data, observer.note)
    return replace(config, model=model, task=task)


def build(
    config: Config,
    signature: str,
    observer: Observer,
    poll: Poll = never,
    given: Given | None = None,
    weights: Weights = "loaded",
    ranks: Ranks | None = None,
) -> Parts:
    """Data, clients, privacy plan, network, engine: what can be refused is refused first.

    Args:
        config: checked.
        signature: that its draws are keyed by (``Job.draw_signature``).
        observer: is told what happens.
        poll: of the simulation.
        given: what is not to be made here, for audits.
        weights: of the model; a forecast needs none of its own (``load_backbone``).
        ranks: that share the work; None: this process does all of it.
    """
    import torch

    from ffalora_cli.data.cache import entry_key
    from ffalora_cli.data.encode import Encoded
    from ffalora_cli.data.partition.partition import fingerprint, strata_table
    from ffalora_cli.data.units import unit_keys
    from ffalora_cli.engine.build import build_engine, pick_device
    from ffalora_cli.engine.correctness import check_model_dropout, check_per_example_gradients
    from ffalora_cli.engine.evaluate import predict
    from ffalora_cli.engine.memory import auto_max_tokens, recompute_if_short
    from ffalora_cli.engine.precision import set_precision
    from ffalora_cli.engine.ranks import ALONE
    from ffalora_cli.engine.sharding import shard
    from ffalora_cli.experiment.generated import Asked
    from ffalora_cli.experiment.inputs import Loaded
    from ffalora_cli.experiment.shares import check_shares
    from ffalora_cli.experiment.trials import after_trials
    from ffalora_cli.federation.roles import covered_names
    from ffalora_cli.federation.server.robust import combination_warnings
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.methods import registry
    from ffalora_cli.models.backbone import load_skeleton
    from ffalora_cli.models.families.check import check_rows_apart
    from ffalora_cli.models.fit import check_fit, check_tokens
    from ffalora_cli.models.network import load_network
    from ffalora_cli.models.processor import load_processor
    from ffalora_cli.privacy.mechanism.secret import run_secret
    from ffalora_cli.privacy.planning.make import make_plan
    from ffalora_cli.privacy.planning.network_rules import check_network
    from ffalora_cli.privacy.planning.shared_rows import find_shared_rows
    from ffalora_cli.tasks import registry as tasks

    device = pick_device(config.engine.device)
    set_precision(config.engine.precision, device)
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    method = registry.get(config.method.name)
    if config.engine.shard:
        check_shares(config, method, ranks.world if ranks else 1)
    observer.note("reading data")
    config = pin(config, observer)
    processor = load_processor(config.model, config.task, observer.note)
    skeleton = load_skeleton(config.model, config.task, observer.note)
    about_data = check_fit(skeleton, processor, config)
    if given is None:
        data, people = population.load(config, processor)
    else:
        data, people = given.data, given.people
    config, clients = people.config, people.clients
    if weights != "loaded":
        config = replace(config, model=replace(config.model, random_weights=True))
    if isinstance(data.train, Encoded):
        about_data += check_tokens(data.train.ids, data.train.lengths, processor, config)
    about_data += remarks.of_data(config.task, data)
    asked = Asked.of(config.task, data.evals, processor, skeleton)
    if config.privacy.unit != "none":
        observer.note("planning privacy")
    keys = unit_keys(data.train, config.privacy.unit)
    shared = find_shared_rows(keys, clients.rows, clients.offsets)
    plan = make_plan(
        config.privacy, clients.num_units, config.federation, (), shared, method.exchanges()
    )
    plan = plan and after_trials(plan, config)
    warnings = (*about_data, *people.notes, *remarks.of_spread_units(config, bool(shared)))
    warnings += (*(plan.warnings if plan else ()), *combination_warnings(config, len(clients)))
    for warning in warnings:
        observer.note(f"warning: {warning}")
    notes = (*remarks.of_precision(config, device), *remarks.of_clip(config))
    for note in notes:
        observer.note(note)
    observer.note("loading the model")
    # Of a model in shares rank 0 has the weights on its CPU, the others their shapes.
    shares, known = None, "none" if config.engine.shard and ranks and ranks.rank else weights
    network = load_network(
        config.model,
        config.adapter,
        config.head,
        config.task,
        config.engine.precision,
        "cpu" if config.engine.shard else device,
        observer.note,
        known,
    )
    if config.engine.shard and ranks:
        dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
        shares = shard(network, skeleton, ranks, device, dtype)
    if plan is not None:
        covered = covered_names(network, method, config.head)
        plan = replace(plan, covered=covered, content=network.task.modality)
        check_network(network.plain, plan.covered, config.adapter.init)
        check_rows_apart(network)
    loaded = Loaded(
        tokens=data.train.content,
        clients=fingerprint(clients),
        weights=network.fingerprint,
        model=network.rest,
        tokenizer=entry_key(processor),
    )
    if config.engine.gradient_checkpointing:
        network.recompute()
    elif config.engine.gradient_checkpointing is None and config.engine.name == "stacked":
        recompute_if_short(network, config.engine.max_tokens)
    max_tokens = config.engine.max_tokens or auto_max_tokens(network)
    engine = build_engine(config.engine.name, network, data.train, max_tokens, ranks, shares)
    if plan is not None and plan.unit != "client" and config.engine.name == "reference":
        check_per_example_gradients(network, data.train, plan.covered)
    if config.model.dropout is not None:
        check_model_dropout(network, data.train, config.model.dropout)
    simulation = Simulation(
        method=method,
        network=network,
        engine=engine,
        clients=clients,
        config=config.federation,
        head=config.head,
        seeds={"adapter": config.adapter.seed, "head": config.head.seed},
        seed=config.seed,
        secret=run_secret(
            config.privacy.noise, config.seed, signature, loaded.digest if plan else None
        ),
        plan=plan,
        options=dict(config.method.options),
        dropout=config.adapter.dropout,
        mechanism=config.diagnostics == "mechanism",
        model_dropout=config.model.dropout,
        poll=poll,
    )
    strata, strata_names = tasks.strata(config.task, data.train.targets)
    table = strata_table(clients, strata, len(strata_names))
    return Parts(
        config,
        data,
        method,
        simulation,
        plan,
        table,
        strata_names,
        max_tokens,
        loaded,
        partial(predict, ranks=ranks or ALONE),
        asked,
        asked and asked.writer(network, max_tokens, ranks or ALONE),
        ranks.world if ranks else 1,
        people.names,
        warnings,
        notes,
    )
