"""The frozen model with adapters: named trainable tensors in, outputs out."""

from __future__ import annotations

import copy
import inspect
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.adapters import registry as forms
from ffalora_cli.adapters import sites as adapters
from ffalora_cli.adapters.context import Context, Factor
from ffalora_cli.adapters.head import install_head
from ffalora_cli.adapters.layout import CLASS_ROWS, Layout
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import QUANTISED, AdapterConfig, HeadConfig, ModelConfig, TaskConfig
from ffalora_cli.hub.access import Note, silent
from ffalora_cli.models.backbone import Backbone, Weights, load_backbone
from ffalora_cli.models.families import (
    attention,
    check,
    packed,
    quantised,
    recompute,
    vision,
    vocabulary,
)
from ffalora_cli.models.families.frozen import freeze_linears
from ffalora_cli.tasks.base import Task
from ffalora_cli.tasks.targets import BatchTargets
from ffalora_cli.types import Examples, Site, Tensors, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.overrides import TorchFunctionMode

    from ffalora_cli.adapters.base import Form


Inputs = Tensors | packed.Packed
"""Of a micro-batch: keyword arguments of a model that pads, or rows end to end."""


@dataclass
class Network:
    """An unmodified Hugging Face model whose sites read their factors from a context.

    Attributes:
        task: what its outputs are for.
        model: the backbone with sites swapped in; every parameter frozen.
        plain: the same weights without sites, for the reference engine and for exports.
        sites: adapted layers in model order.
        specs: every tensor that may be trained or sent, adapters first, then the head.
        form: what the factors of a site do to it.
        scale: alpha / rank.
        initial: values at round 0, on the CPU as all of the server's state: factors as the form
            starts them, head as loaded or drawn.
        fingerprint: of the frozen weights.
        rest: fingerprint of what else decides its function (``Backbone.rest``).
        padding: why the model pads; empty where its rows lie end to end.
        recomputes: whether layers keep their input alone for the backward pass.
        sharded: whether other processes hold parts of its layers; ``plain`` has no values then.
        base_delta: what was added to the base weights of merged sites, by site.
    """

    task: Task
    model: nn.Module
    plain: nn.Module
    sites: list[Site]
    specs: list[TensorSpec]
    form: Form
    scale: float
    initial: Tensors
    fingerprint: str
    context: Context
    draw: Callable[[int], Tensors]  # a seed -> adapters as they would begin with it
    rank: int
    rest: str = ""
    padding: str = ""
    recomputes: bool = False
    sharded: bool = False
    replaced: int = 0  # how often a frozen weight moved to another address
    base_delta: Tensors = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the frozen weights are."""
        return next(self.model.parameters()).device

    @property
    def head_names(self) -> tuple[str, ...]:
        """Tensors of the head, ``head.<layer>.<weight|bias>``."""
        return tuple(spec.name for spec in self.specs if spec.kind == "head")

    @property
    def frozen_parameters(self) -> int:
        """Number of parameters of the backbone, the head left out; a tied weight counts once."""
        named = self.plain.named_parameters(remove_duplicate=False)
        held = {id(p): p.numel() for name, p in named if f"head.{name}" not in self.head_names}
        return sum(held.values())

    @property
    def packs(self) -> bool:
        """Whether rows lie end to end now: texts do if the model can and no dropout is on.

        Images are all of one size, so that a batch of them has nothing to leave out.
        """
        texts = self.task.modality == "text"
        drops = self.context.dropout or self.context.model_dropout
        return texts and not self.padding and drops is None

    @property
    def class_rows(self) -> int:
        """What a class of a layout costs here, in rows; the same on every machine."""
        return CLASS_ROWS[next(self.model.parameters()).dtype]

    def inputs(self, examples: Examples, rows: np.ndarray) -> Inputs:
        """What the model reads of a micro-batch, on its device, without padding where it can.

        Args:
            examples: the data set.
            rows: int64 [examples], sorted by length, longest first.
        """
        lengths = np.asarray(examples.lengths)[rows]
        if self.packs:
            ids, types = examples.packed(rows)
            layout = Layout.of(lengths, self.class_rows)
            return packed.Packed.of(ids, types, layout).to(self.device)
        padded = examples.inputs(rows, int(lengths.max()))
        return {name: tensor.to(self.device) for name, tensor in padded.items()}

    def outputs(
        self, inputs: Inputs, values: Mapping[str, Factor], targets: BatchTargets | None = None
    ) -> Tensor:
        """Outputs of a micro-batch, fp32: of each target ``[targets, width]``.

        Args:
            inputs: of this network.
            values: factors by name (``adapters.context.Factor``): common, one copy an example, or
                with ghost norms. Head tensors may be left out: then the head is as loaded.
            targets: whose outputs; None where the task reads one an example.
        """
        rows = self.read(inputs, values, targets)
        if self.task.reads == "vocabulary":
            return vocabulary.scores(self.model, rows)
        return rows.float()

    def losses(self, inputs: Inputs, values: Mapping[str, Factor], targets: BatchTargets) -> Tensor:
        """One number an example, fp32 ``[examples]``, differentiable in ``values``."""
        rows = self.read(inputs, values, targets)
        if self.task.reads == "vocabulary":
            each = vocabulary.losses(self.model, rows, targets.values, self.task.elementwise)
        else:
            each = self.task.elementwise(rows.float(), targets.values)
        return targets.by_example(each)

    def answers(
        self, inputs: Inputs, values: Mapping[str, Factor], targets: BatchTargets
    ) -> tuple[Tensor, Tensor]:
        """The task's answer to each target ``[targets]``, and its loss, fp32 ``[targets]``."""
        rows = self.read(inputs, values, targets)
        wanted = targets.values
        if self.task.reads != "vocabulary":
            return self.task.answers(rows.float()), self.task.elementwise(rows.float(), wanted)
        answers, each = wanted.new_empty(len(rows)), rows.new_empty(len(rows), dtype=torch.float32)
        for part in vocabulary.chunks(rows):
            scores = vocabulary.scores(self.model, rows[part])
            answers[part] = self.task.answers(scores)
            each[part] = self.task.elementwise(scores, wanted[part])
        return answers, each

    def read(
        self, inputs: Inputs, values: Mapping[str, Factor], targets: BatchTargets | None
    ) -> Tensor:
        """What the model gives, or of a language model its decoder, unrounded.

        Returns:
            Each target's row ``[targets, width]``; without ``targets`` every row, as it comes.
        """
        part: Any = vocabulary.part_read(self.model, self.task.reads)
        if isinstance(inputs, packed.Packed):
            self.context.values = dict(values)
            one_row = self.task.reads == "example"
            found = packed.outputs(part, self.context, inputs, one_row)
            if one_row or targets is None:
                return found
            return found.index_select(0, inputs.rows(targets))
        self._padding(values)
        with self.context.model_dropout or nullcontext():
            padded: Tensor = part(**inputs)[0]
        return padded if targets is None else targets.read(padded)

    def next_scores(
        self, values: Tensors, ids: Tensor, seen: Tensor, places: Tensor, cache: Any
    ) -> Tensor:
        """A language model's scores of the token after the last, fp32 ``[rows, vocabulary]``.

        Args:
            values: plain-shaped factors by name.
            ids: int64 ``[rows, new]``, padded on the left.
            seen: int64 ``[rows, tokens]``, 1 where there is a token, the new ones last.
            places: int64 ``[rows, new]``, of each new token in its text, from 0.
            cache: keys and values of the tokens before; the new ones' are added.
        """
        model = self._padding(values)
        named = inspect.signature(model.forward).parameters
        kept = "cache" if "cache" in named else "past_key_values"  # until transformers 5.24
        given = {"input_ids": ids, "attention_mask": seen, "position_ids": places, kept: cache}
        found: Tensor = model(**given, use_cache=True, logits_to_keep=1).logits
        return found[:, -1].float()

    def _padding(self, values: Mapping[str, Factor]) -> Any:
        """The model for a pass of padded rows, with these factors and the attention of its own."""
        self.context.values = dict(values)
        model: Any = self.model
        own: Any = self.plain.config
        if model.config._attn_implementation != own._attn_implementation:
            model.set_attn_implementation(own._attn_implementation)
        return model

    def recompute(self) -> None:
        """From now on layers recompute in the backward pass what they would have kept for it.

        Raises:
            ConfigError: transformers marks no layers of this family.
        """
        if len(recompute.layers_of(self.model)) < 2:
            family = self.plain.config.model_type  # type: ignore[union-attr]
            raise ConfigError(
                f"engine.gradient_checkpointing=true: this {family} model has no layers that could "
                "be recomputed one after another; use engine.gradient_checkpointing=false"
            )
        recompute.install(self.model, self.context)
        self.recomputes = True

    def add_to_base(self, deltas: Tensors) -> None:
        """Set every merged site's base weight to its loaded value plus ``deltas[site]``."""
        self.base_delta |= deltas
        for site, delta in deltas.items():
            loaded = adapters.weight_of(self.plain.get_submodule(site))
            base = self.model.get_submodule(f"{site}.base")
            if base.weight.data_ptr() == loaded.data_ptr():  # still shared with ``plain``
                base.weight = nn.Parameter(torch.empty_like(base.weight), requires_grad=False)
                self.replaced += 1
            adapters.weight_of(base).copy_(loaded.float() + delta.to(loaded.device))

    @contextmanager
    def dropping(
        self, masks: Callable[[str, Tensor], Tensor] | None, model: TorchFunctionMode | None = None
    ) -> Iterator[None]:
        """Passes with dropout on adapters' inputs, and in the frozen model (None: without)."""
        context = self.context
        context.dropout, context.model_dropout, context.dropped = masks, model, 0
        if model is not None:
            self.model.train()
        try:
            yield
        finally:
            context.dropout = context.model_dropout = None
            if model is not None:
                self.model.eval()


def build_network(
    backbone: Backbone, adapter: AdapterConfig, targets: tuple[str, ...], precision: str = "fp32"
) -> Network:
    """Install adapters and head on a copy of the backbone's modules (weights are shared).

    Args:
        backbone: loaded, frozen.
        adapter: form, rank, alpha, init, seed, layers.
        targets: module-name suffixes.
        precision: of the frozen weights in the adapted model; ``bf16`` copies them, ``int8`` and
            ``nf4`` round those of linear layers and leave ``plain`` as it is.

    Raises:
        ConfigError: a target matches no layer, or no form has this name.
    """
    plain = backbone.model
    sites = adapters.find_sites(plain, targets, adapter.layers)
    form = forms.get(adapter.form)
    specs = form.specs(sites, adapter.rank)
    draw = partial(form.initial, sites, adapter.rank, adapter.init)
    initial = draw(adapter.seed)
    head = tuple(backbone.task.head(plain))
    for name in head:
        for leaf, parameter in plain.get_submodule(name).named_parameters():
            full = f"head.{name}.{leaf}"
            value = parameter.detach() if backbone.real else torch.empty(parameter.shape)
            initial[full] = value.to("cpu", copy=True)
            specs.append(TensorSpec(full, tuple(parameter.shape), "head", "head", f"{name}.{leaf}"))
    context = Context()
    if precision == "bf16":  # weights of its own: casting a shared parameter would cast both
        model = copy.deepcopy(plain).to(torch.bfloat16)
    else:
        model = _share_weights_copy(plain)
    install_head(model, head, context)
    if precision in QUANTISED:
        quantised.quantise(model, precision)
    freeze_linears(model)
    adapters.install(model, sites, form, adapter.scale, context)
    attention.install(model, context)
    vision.read_class_row(model)
    network = Network(
        backbone.task,
        model,
        plain,
        sites,
        specs,
        form,
        adapter.scale,
        initial,
        backbone.fingerprint,
        context,
        draw,
        adapter.rank,
        backbone.rest,
    )
    if backbone.task.modality == "text":
        network.padding = check.why_padded(network, backbone.real)
    return network


def load_network(
    config: ModelConfig,
    adapter: AdapterConfig,
    head: HeadConfig,
    task: TaskConfig,
    precision: str = "fp32",
    device: str = "cpu",
    note: Note = silent,
    weights: Weights = "loaded",
) -> Network:
    """Load, adapt, move: the one way a run gets its network; ``note`` is told of a download."""
    backbone = load_backbone(config, head, task, note, weights)
    rounded = precision in QUANTISED  # where the backbone is, so that only few bits travel
    if backbone.real:
        backbone.model.to("cpu" if rounded else device)
    network = build_network(backbone, adapter, config.targets[adapter.targets], precision)
    if backbone.real and rounded:
        network.model.to(device)
    return network


def _share_weights_copy(model: nn.Module) -> nn.Module:
    """New module objects around the same weight tensors: swapping sites leaves the original be."""
    memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)
