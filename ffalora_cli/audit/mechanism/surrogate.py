"""Builds a run as the audit drives it: its own plan, protocol and client code, a tiny model.

Nothing of the mechanism is re-implemented. Sampler, clip, noise, optimiser, upload and ledger are
those of ``Simulation`` and the engine, with the run's rates, noise multipliers, clip and steps.
Only the frozen weights and the rows are surrogates: the mechanism must hold for any of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import Engine
from ffalora_cli.federation.roles import covered_names
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.keys import Key
from ffalora_cli.methods import registry
from ffalora_cli.models.backbone import Backbone, load_settings
from ffalora_cli.models.network import Network, build_network
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.tasks import registry as tasks
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.types import Examples

WIDTH = 64  # hidden size and classes: no trained tensor has fewer elements, so each gets its draws
VOCABULARY = 64  # words; targets are below it, be they words or classes
PATCHES = 4  # on each side of an image
DERIVED = (
    "layer_types", "id2label", "label2id", "problem_type", "out_features",
    "out_indices", "stage_names",
)  # fmt: skip
"""Settings of a model that follow from others, or are of its own task."""
DISTINCT_ROWS = 61
CLIENTS = 8  # most clients audited: the statistics are per client
SEVERAL = 5  # rows of every tenth unit, where units may have more than one


@dataclass(frozen=True)
class Subject:
    """What is audited; every ``simulation()`` starts afresh.

    Attributes:
        config: of the run.
        plan: of the audited clients, with their real numbers of units.
        clients: rows and units of each.
        network: the surrogate; frozen, shared by all simulations.
        examples: surrogate rows, as many as the clients have.
        secret: key of the audit's own draws, never the run's.
    """

    config: Config
    plan: PrivacyPlan
    clients: ClientRows
    network: Network
    examples: Examples
    secret: Key
    max_tokens: int

    def simulation(self, plan: PrivacyPlan | None = None, **federation: Any) -> Simulation:
        """The run's federation of the audited clients, all taking part in every round.

        Args:
            plan: instead of the subject's own, e.g. with other rates.
            federation: fields of ``FederationConfig`` to change, e.g. ``local_steps=1``.
        """
        plan, config = plan or self.plan, self.config
        everybody: dict[str, Any] = {"num_clients": plan.num_clients, "cohort_size": None}
        everybody |= {"cohort_sampling": "full", "eval_clients": False}
        # What left a client has left it, whether or not the server uses it.
        everybody |= {"dropout_rate": 0.0, "straggler_rate": 0.0, "combination": "mean"}
        everybody |= {"max_upload_norm": math.inf}
        protocol = replace(config.federation, **(everybody | federation))
        method = registry.get(config.method.name)
        plan = replace(plan, steps_per_round=protocol.local_steps * method.exchanges())
        # What an earlier simulation merged into the shared base weights is taken out again.
        self.network.add_to_base({s.name: torch.zeros(s.d_out, s.d_in) for s in self.network.sites})
        return Simulation(
            method=method,
            network=self.network,
            engine=self.engine(),
            clients=self.clients,
            config=protocol,
            head=config.head,
            seeds={"adapter": config.adapter.seed, "head": config.head.seed},
            seed=config.seed,
            secret=self.secret,
            plan=plan,
            privacy_ledger=PrivacyLedger(plan.noise_multiplier, plan.accounted_rate),
            options=dict(config.method.options),
        )

    def engine(self) -> Engine:
        """The run's engine over the surrogate."""
        name = self.config.engine.name
        return build_engine(name, self.network, self.examples, self.max_tokens)


def build_subject(config: Config, plan: PrivacyPlan, secret: Key, width: int = WIDTH) -> Subject:
    """A subject for a run's plan.

    Args:
        config: of the run; the model's architecture, targets and rank are kept.
        plan: of the whole run, of a unit inside a client; at most ``CLIENTS`` of its clients are
            kept, those with the largest epsilon first.
        secret: key of the audit's draws.
        width: hidden size and number of classes of the surrogate.

    Raises:
        ConfigError: the model's architecture cannot be read.
    """
    network = surrogate_network(config, width)
    covered = covered_names(network, registry.get(config.method.name), config.head)
    kept = replace(some_clients(plan, CLIENTS), covered=covered)
    clients = surrogate_clients(kept)
    rows = surrogate_rows(np.arange(len(clients.rows)) % DISTINCT_ROWS, config, network)
    tokens = float(kept.expected_batch.sum()) * float(rows.lengths[:DISTINCT_ROWS].mean())
    # Several micro-batches a step, so that what must happen once a step is seen to.
    return Subject(config, kept, clients, network, rows, secret, max(64, int(tokens / 4)))


def surrogate_clients(plan: PrivacyPlan) -> ClientRows:
    """Clients with as many units as those of the plan, every tenth of several rows if it may be."""
    several = plan.unit in ("text", "column")
    units = int(plan.examples.sum())
    sizes = np.where(np.arange(units) % 10 == 0, SEVERAL if several else 1, 1)
    return clients_of_units(sizes, plan.examples)


def clients_of_units(sizes: np.ndarray, counts: np.ndarray) -> ClientRows:
    """Clients whose rows are numbered unit by unit.

    Args:
        sizes: rows of every unit ``[units]``, the clients' units end to end.
        counts: units of each client ``[clients]``.
    """
    ends = np.concatenate([[0], np.cumsum(sizes)])  # [units + 1]
    first = np.concatenate([[0], np.cumsum(counts)])  # [clients + 1]
    within = np.arange(len(sizes)) - np.repeat(first[:-1], counts)
    units = np.repeat(within, sizes) if (sizes > 1).any() else None
    return ClientRows(np.arange(ends[-1]), ends[first], units)


def some_clients(plan: PrivacyPlan, most: int) -> PrivacyPlan:
    """The plan of at most ``most`` clients, those with the largest epsilon, in their order."""
    if plan.num_clients <= most:
        return plan
    ids = np.sort(np.argsort(-plan.epsilon_planned, kind="stable")[:most])
    columns: dict[str, Any] = {
        name: value[ids]
        for name, value in vars(plan).items()
        if isinstance(value, np.ndarray) and len(value) == plan.num_clients
    }
    return replace(plan, **columns)


def surrogate_network(config: Config, width: int = WIDTH) -> Network:
    """A random model of the run's architecture and kind of task, two layers, its adapters."""
    import transformers

    kind = tasks.get(config.task.kind)
    full = load_settings(config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind.auto_class).from_config(shrink(full, width))
        for parameter in model.parameters():
            if parameter.dim() == 2:  # larger than usual, so that no gradient is tiny
                torch.nn.init.normal_(parameter, std=0.15)
    model.eval().requires_grad_(False)
    targets = config.model.targets[config.adapter.targets]
    some = None if config.adapter.layers is None else 1  # of two: one stays as it was loaded
    adapter = replace(config.adapter, layers=some)
    return build_network(Backbone(model, "surrogate", (), kind), adapter, targets)


def shrink(full: Any, width: int) -> Any:
    """The same architecture with two layers, ``width`` wide, ``width`` classes, 64 words."""
    settings = full.to_dict()
    small = {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": width // 4,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "intermediate_size": 2 * width,
        "hidden_dim": 2 * width,
        "ffn_dim": 2 * width,
        "embedding_size": width,
        "word_embed_proj_dim": width,
        "pooler_hidden_size": width,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 40,
        "image_size": PATCHES * settings.get("patch_size", 0),
    }
    derived: tuple[str, ...] = DERIVED
    if "depths" in settings:  # Swin's settings are of each stage
        small |= {"embed_dim": width, "depths": [1, 1], "num_attention_heads": [4, 4]}
        small |= {"window_size": PATCHES // 2}
        derived = (*DERIVED, "hidden_size", "num_layers")
    for name in derived:
        settings.pop(name, None)
    settings["architectures"] = full.architectures or []  # where a class is chosen by them (DeiT)
    names = {full.attribute_map.get(name, name): value for name, value in small.items()}
    settings |= {n: v for n, v in names.items() if settings.get(n) is not None}
    for name, value in settings.items():
        if name.endswith("_token_id"):  # one, or a list of those that end a text
            ids = value if isinstance(value, list) else [value]
            settings[name] = 0 if any(i is not None and i >= VOCABULARY for i in ids) else value
    return type(full)(**settings, num_labels=width)


def surrogate_rows(own: np.ndarray, config: Config, network: Network) -> Examples:
    """Random rows of what the run's model reads.

    Args:
        own: which of ``DISTINCT_ROWS`` each row is, int64 ``[rows]``; row 0 has one token.
        config: of the run.
        network: the surrogate.
    """
    if tasks.get(config.task.kind).modality == "text":
        return SurrogateRows(own, config.task)
    from ffalora_cli.data.images import Images

    generator, side = np.random.default_rng(0), getattr(network.plain.config, "image_size", 0)
    keys = np.arange(len(own), dtype=np.uint64)
    images: Any = Images(  # nobody asks for rows of them end to end
        targets=Targets(generator.integers(0, VOCABULARY, DISTINCT_ROWS)).take(own),
        hashes=keys,
        text_keys=keys,
        pixels=generator.integers(0, 256, (DISTINCT_ROWS, side, side, 3)).astype(np.uint8),
        places=own,
        digests=np.zeros((len(own), 16), np.uint8),
        tokens=PATCHES**2,
        scale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fingerprint="surrogate",
    )
    return images


class SurrogateRows:
    """Random token rows, some of the least length, long answers and short ones.

    Args:
        own: as of ``surrogate_rows``.
        task: of the run; where its loss is made of single tokens, a row's last ones are targets.
        distinct: rows there are.
    """

    def __init__(self, own: np.ndarray, task: TaskConfig, distinct: int = DISTINCT_ROWS) -> None:
        generator = np.random.default_rng(0)
        lengths = generator.integers(2, 14, distinct).astype(np.int32)
        lengths[:3] = 1  # nothing but one special token: the shortest row there is
        self._tokens = [generator.integers(5, VOCABULARY, n) for n in lengths]
        self._own = own
        self.lengths = lengths[own]
        targets = Targets(generator.integers(0, VOCABULARY, distinct))
        if tasks.get(task.kind).reads != "example":
            targets = _answers(lengths, task.loss_reduction, generator)
        self.targets = targets.take(own)

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> dict[str, torch.Tensor]:
        """Right-padded ``input_ids`` and ``attention_mask``, int64 ``[rows, width]``."""
        width = pad_to or int(self.lengths[rows].max())
        ids = np.zeros((len(rows), width), np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for i, row in enumerate(rows):
            ids[i, : self.lengths[row]] = self._tokens[self._own[row]]
            mask[i, : self.lengths[row]] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def packed(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token ids end to end, int64 ``[tokens]``; no segments."""
        return torch.from_numpy(np.concatenate([self._tokens[i] for i in self._own[rows]])), None


def _answers(lengths: np.ndarray, reduction: str, generator: np.random.Generator) -> Targets:
    """From one to all of each row's last tokens, their loss as the run has it."""
    counts = generator.integers(1, lengths + 1)  # [rows]
    ends = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(ends[-1]) - np.repeat(ends[:-1], counts)
    weights = np.repeat(1.0 / counts if reduction == "mean" else np.ones(len(counts)), counts)
    return Targets(
        generator.integers(0, VOCABULARY, ends[-1]),
        ends,
        (within + np.repeat(lengths - counts, counts)).astype(np.int32),
        weights.astype(np.float32),
    )
