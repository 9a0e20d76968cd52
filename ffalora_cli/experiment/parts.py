"""From a checked configuration to the parts of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.schema import Config
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from ffalora_cli.data.dataset import TaskData
    from ffalora_cli.data.partition import ClientRows
    from ffalora_cli.experiment.inputs import Inputs, Loaded
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.methods.base import Method
    from ffalora_cli.privacy.plan import PrivacyPlan


@dataclass
class Parts:
    """A run, built and not yet started."""

    config: Config
    data: TaskData
    method: Method
    simulation: Simulation
    plan: PrivacyPlan | None
    label_counts: np.ndarray  # int64 [clients, classes]
    max_tokens: int
    loaded: Loaded
    inputs: Inputs
    notes: tuple[str, ...] = ()  # what should be said about how the parts fit

    @property
    def secret_inputs(self) -> str | None:
        """What the run secret is a hash of beside seed and signature (``run_secret``)."""
        return None if self.plan is None else self.loaded.digest

    def evaluate(self, record: RoundRecord) -> RoundRecord:
        """The record with the metrics of the global model, and of the clients where asked for."""
        from ffalora_cli.evaluation.evaluate import evaluate

        simulation, task = self.simulation, self.config.task
        metrics = dict(record.metrics)
        for index, (split, rows) in enumerate(self.data.evals.items()):
            prefix = "eval/" if index == 0 else f"eval/{split}/"
            metrics |= evaluate(
                simulation.network,
                rows,
                simulation.state.tensors,
                task.metrics,
                len(task.classes),
                self.max_tokens,
                prefix,
                simulation.poll,
            )
        record = replace(record, metrics=metrics)
        if simulation.personal or self.config.federation.eval_clients:
            record = self._evaluate_clients(record)
        return record

    def _evaluate_clients(self, record: RoundRecord) -> RoundRecord:
        """The record with accuracies of the clients that took part (at most 100 of them).

        Each client's model is the global one with its personal tensors, if the method has any.
        """
        from ffalora_cli.evaluation.evaluate import client_accuracy

        simulation = self.simulation
        ids = np.flatnonzero(simulation.client_states.last_round == record.round)[:100]
        if not len(ids):
            return record
        names = simulation.personal
        personal = simulation.client_states.gather(ids, names, simulation.network.initial)
        models = [
            simulation.state.tensors | {n: v[i] for n, v in personal.items()}
            for i in range(len(ids) if names else 1)
        ]
        plain, own = client_accuracy(
            simulation.network,
            next(iter(self.data.evals.values())),
            models,
            self.label_counts[ids],
            self.max_tokens,
            simulation.poll,
        )
        prefix = "eval/personalized_accuracy" if names else "eval/client_accuracy"
        metrics = {
            **record.metrics,
            prefix: float(plain.mean()),
            f"{prefix}_min": float(plain.min()),
            f"{prefix}_own_labels": float(own.mean()),
        }
        scores = {
            int(i): {"accuracy": float(p), "accuracy_own_labels": float(o)}
            for i, p, o in zip(ids, plain, own, strict=True)
        }
        lines = tuple({**line, **scores.get(int(line["client"]), {})} for line in record.clients)
        return replace(record, metrics=metrics, clients=lines)


def client_table(config: Config) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Labels of every client: int64 [clients, classes], class names, sizes int64 [clients]."""
    from ffalora_cli.data.dataset import training_labels
    from ffalora_cli.data.partition import label_table, partition

    classes = config.task.classes
    labels, groups = training_labels(config.task, config.paths.data)
    clients = partition(
        config.partition, labels, len(classes), config.federation.num_clients, groups
    )
    return label_table(clients, labels, len(classes)), classes, clients.sizes


def build(config: Config, signature: str, observer: Observer, poll: Poll = never) -> Parts:
    """Data, clients, privacy plan, network, engine: what can be refused is refused first."""
    import torch

    from ffalora_cli.data.cache import entry_key
    from ffalora_cli.data.partition import fingerprint, label_table
    from ffalora_cli.engine import auto_max_tokens, build_engine, pick_device
    from ffalora_cli.experiment.inputs import Loaded, inputs_of
    from ffalora_cli.federation.robust import combination_warnings
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.federation.tensors import covered_names
    from ffalora_cli.methods import registry
    from ffalora_cli.models.backbone import load_skeleton, load_tokenizer
    from ffalora_cli.models.fit import check_fit, check_tokens
    from ffalora_cli.models.network import load_network
    from ffalora_cli.privacy.network_rules import check_network
    from ffalora_cli.privacy.plan import make_plan
    from ffalora_cli.privacy.secret import run_secret
    from ffalora_cli.privacy.shared_rows import find_shared_rows

    device = pick_device(config.engine.device)
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    method = registry.get(config.method.name)
    observer.note("reading data")
    tokenizer = load_tokenizer(config.model)
    notes = check_fit(load_skeleton(config.model, len(config.task.classes)), tokenizer, config)
    data, clients = _load_clients(config, tokenizer)
    notes += check_tokens(data.train.ids, data.train.lengths, tokenizer, config)
    for note in notes:
        observer.note(note)
    observer.note("planning privacy" if config.privacy.unit != "none" else "loading the model")
    shared = find_shared_rows(data.train.hashes, clients.rows, clients.offsets)
    plan = make_plan(config.privacy, clients.sizes, config.federation, (), shared)
    for warning in plan.warnings if plan else ():
        observer.note(f"warning: {warning}")
    for warning in combination_warnings(config):
        observer.note(f"warning: {warning}")
    network = load_network(
        config.model,
        config.adapter,
        config.head,
        len(config.task.classes),
        config.engine.precision,
        device,
    )
    if plan is not None:
        plan = replace(plan, covered=covered_names(network, method, config.head))
        check_network(network.plain, plan.covered, config.adapter.init)
    loaded = Loaded(
        tokens=data.train.content,
        clients=fingerprint(clients),
        weights=network.fingerprint,
        model=network.rest,
        tokenizer=entry_key(tokenizer),
    )
    max_tokens = config.engine.max_tokens or auto_max_tokens(network)
    simulation = Simulation(
        method=method,
        network=network,
        engine=build_engine(
            config.engine.name, network, data.train, max_tokens, config.engine.precision
        ),
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
        poll=poll,
    )
    table = label_table(clients, data.train.labels, len(config.task.classes))
    return Parts(
        config,
        data,
        method,
        simulation,
        plan,
        table,
        max_tokens,
        loaded,
        inputs_of(config),
        tuple(notes),
    )


def _load_clients(config: Config, tokenizer: Any) -> tuple[TaskData, ClientRows]:
    """Tokenised rows and who owns which."""
    from ffalora_cli.data.dataset import prepare
    from ffalora_cli.data.partition import partition

    data = prepare(config.task, tokenizer, config.paths.data, config.paths.cache)
    clients = partition(
        config.partition,
        np.asarray(data.train.labels),
        len(config.task.classes),
        config.federation.num_clients,
        data.train.clients,
    )
    return data, clients
