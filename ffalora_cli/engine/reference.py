"""The reference engine: one client at a time, ordinary modules, Opacus. Slow and obvious.

The oracle of the tests and the baseline of the benchmark: same start, batches and noise as the
stacked engine, so the same result within rounding. Opacus' hooks take the first axis of every
layer's input for the examples; where a model's is something else its per-example gradients are
wrong, and ``engine.correctness`` refuses the run.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.adapters.context import Context
from ffalora_cli.adapters.head import HeadLinear
from ffalora_cli.adapters.sites import AdaptedLinear, replace
from ffalora_cli.engine.dropout import keyed_dropout
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalResult, StepBatches
from ffalora_cli.engine.model_dropout import model_dropout
from ffalora_cli.engine.precision import exact_products
from ffalora_cli.engine.stacked.round_tensors import views
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.mechanism import example_level
from ffalora_cli.privacy.mechanism.clipping import (
    SLACK,
    STABILITY,
    ClipRule,
    clip_rule,
    factors,
    was_cut,
)
from ffalora_cli.types import Examples, Stack, Tensors


class AdaptedLayer(nn.Module):
    """A frozen layer plus a form's module of ordinary layers."""

    def __init__(self, base: nn.Module, added: nn.Module, scale: float, site: str) -> None:
        super().__init__()
        self.base = base
        self.added = added
        self.scale = scale
        self.site = site
        self.dropout: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """``base(x) + scale * added(x)``."""
        inputs = x if self.dropout is None else self.dropout(x)
        delta = self.added(inputs.float()) * self.scale
        y: Tensor = self.base(x) + delta.to(x.dtype)
        return y


class HeadLayer(nn.Module):
    """A linear layer of the head: fp32, whatever the backbone is."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        # Opacus captures activations of modules in training mode only; a linear layer's forward is
        # the same in both, and nothing else of the model leaves eval mode.
        self.base = base.train()

    def forward(self, x: Tensor) -> Tensor:
        """``base(x)``."""
        y: Tensor = self.base(x.float())
        return y.to(x.dtype)


@dataclass
class ReferenceEngine:
    """Opacus ``GradSampleModule`` and ``DPOptimizer``, padded to the longest of each batch."""

    network: Network
    examples: Examples

    def train(self, job: LocalJob) -> LocalResult:
        """One round of local training, client after client."""
        clients = len(job.clients)
        results = [self._train_client(job, slot) for slot in range(clients)]
        trained = {n: torch.stack([r[0][n] for r in results]) for n in job.trainable}
        counts = np.array([r[1] for r in results], dtype=np.float64).reshape(clients, 7)
        return LocalResult(
            trained=trained,
            loss_sum=counts[:, 0],
            examples=counts[:, 1].astype(np.int64),
            clipped=counts[:, 2].astype(np.int64),
            nonfinite=counts[:, 3].astype(np.int64),
            units=counts[:, 4].astype(np.int64),
            tokens=int(counts[:, 5].sum()),
            padded_tokens=int(counts[:, 6].sum()),
        )

    def _train_client(self, job: LocalJob, slot: int) -> tuple[Tensors, list[float]]:
        model, names = self._module(job, slot)
        parameters = [names[name] for name in job.trainable]
        counts = np.zeros(7)
        with _optimizing(model, parameters, job, slot) as (wrapped, optimizer):
            for step, pairs in enumerate(job.batches):
                job.poll()
                mine = pairs.slots == slot
                rows, units = pairs.rows[mine], _rows_of_units(pairs, mine)
                optimizer.zero_grad()
                with _dropping(model, job, step, np.full(len(rows), slot), rows):
                    self._backward(
                        wrapped, job.trainable, parameters, job.privacy, rows, units, counts
                    )
                if job.optimizer.clip_gradients is not None:
                    nn.utils.clip_grad_norm_(parameters, job.optimizer.clip_gradients)
                if job.privacy is not None:
                    optimizer.units = units
                    optimizer.noise_for_step = _client_noise(job, slot, step, self.network.device)
                optimizer.step()
        trained = {n: names[n].detach().to("cpu", copy=True) for n in job.trainable}
        return trained, counts.tolist()

    def gradients(self, job: LocalJob, rows: np.ndarray) -> Stack:
        """Gradients in the job's first client: every row's by Opacus, without privacy their mean.

        Returns:
            ``[rows, ...]`` by name, without privacy ``[1, ...]``.
        """
        model, names = self._module(job, 0)
        parameters = [names[name] for name in job.trainable]
        with _optimizing(model, parameters, job, 0) as (wrapped, _):
            self._backward(wrapped, job.trainable, parameters, job.privacy, rows, [], np.zeros(7))
            if job.privacy is None:
                return {n: names[n].grad[None] for n in job.trainable}  # type: ignore[index]
            return {n: names[n].grad_sample for n in job.trainable}  # type: ignore[attr-defined]

    def _module(self, job: LocalJob, slot: int) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """The model with this client's factors, only the trainable ones learning."""
        model = _around_live_weights(self.network)
        values = {**job.common, **{n: v[slot] for n, v in job.start.items()}}
        device, network = self.network.device, self.network
        names = {
            name: nn.Parameter(
                value.detach().to(device, torch.float32, copy=True), name in job.trainable
            )
            for name, value in values.items()
        }
        for site in network.sites:
            added = network.form.module(network.form.of_site(names, site))
            base = model.get_submodule(site.name)
            replace(model, site.name, AdaptedLayer(base, added, network.scale, site.name))
        for name in network.head_names:
            path, _, leaf = name.removeprefix("head.").rpartition(".")
            if not isinstance(model.get_submodule(path), HeadLayer):
                replace(model, path, HeadLayer(model.get_submodule(path)))
            setattr(model.get_submodule(path).base, leaf, names[name])
        return model, names

    def _backward(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        parameters: list[nn.Parameter],
        privacy: ExamplePrivacy | None,
        rows: np.ndarray,
        units: list[list[int]],
        counts: np.ndarray,
    ) -> None:
        """Gradients of one batch (per example under privacy); an empty batch leaves zeros."""
        if not len(rows):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore
            return
        device = self.network.device
        lengths = np.asarray(self.examples.lengths)[rows]
        inputs = self.examples.inputs(rows, int(lengths.max()))
        outputs = model(**{n: t.to(device) for n, t in inputs.items()}).logits
        targets = self.examples.targets.batch(rows).to(device)
        read = targets.read(outputs.float())
        losses = targets.by_example(self.network.task.elementwise(read, targets.values))
        with warnings.catch_warnings():
            # FFA-LoRA's lowest B has an input without gradient; Opacus' hook handles that.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            (losses.sum() if privacy is not None else losses.mean()).backward()
        counts[0] += float(losses.detach().sum())
        counts[1] += len(rows)
        counts[4] += len(units)
        counts[5] += int(lengths.sum())
        counts[6] += len(rows) * int(lengths.max())
        if privacy is not None and units:
            rule = clip_rule(privacy.clip, privacy.max_grad_norm, names)
            counts[2:4] += _clean(parameters, rule, units)


def _around_live_weights(network: Network) -> nn.Module:
    """The plain model's modules anew around the adapted model's frozen weights.

    Nothing is copied; merges and precision are those of the adapted model.
    """
    weights: dict[int, Any] = {}
    for name, module in network.plain.named_modules():
        live = network.model.get_submodule(name)
        live = live.base if isinstance(live, AdaptedLinear | HeadLinear) else live
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        weights |= {id(value): getattr(live, leaf) for leaf, value in own}
    return copy.deepcopy(network.plain, weights)


@contextmanager
def _optimizing(
    model: nn.Module, parameters: Sequence[nn.Parameter], job: LocalJob, slot: int
) -> Iterator[tuple[nn.Module, Any]]:
    """The module to call and the optimiser to step: plain ones, or Opacus' under privacy.

    The noise is handed in, so that both engines draw the same. Opacus' hooks and the module they
    are on hold each other, and every gradient with them: they are taken off at the end.
    """
    optimizer = job.optimizer.build(parameters)
    if job.privacy is None:
        yield model, optimizer
        return
    from opacus import GradSampleModule

    wrapped = GradSampleModule(model, loss_reduction="sum")
    private = _optimizer_class()(
        optimizer,
        noise_multiplier=1.0,
        max_grad_norm=job.privacy.max_grad_norm,
        expected_batch_size=1,
        loss_reduction="mean",
    )
    private.expected_batch_size = float(job.privacy.expected_batch[slot])
    private.rule = clip_rule(job.privacy.clip, job.privacy.max_grad_norm, job.trainable)
    try:
        yield wrapped, private
    finally:
        wrapped.remove_hooks()


@cache
def _optimizer_class() -> Any:
    """Opacus' ``DPOptimizer`` with our keyed noise and, beyond ``flat``, the rule's clip."""
    from opacus.optimizers import DPOptimizer

    class KeyedDPOptimizer(DPOptimizer):
        """Clips by the rule, scales as Opacus, adds the noise it was handed."""

        rule: ClipRule
        noise_for_step: list[Tensor]
        units: list[list[int]]  # rows of the batch that are one unit of privacy

        @exact_products()
        def clip_and_accumulate(self) -> None:
            """Opacus' own for ``flat`` rows; otherwise a loop over layers, units and rows."""
            if self.rule.kind == "flat" and all(len(unit) == 1 for unit in self.units):
                super().clip_and_accumulate()
                return
            layers: dict[int, list[Any]] = {}
            for parameter, layer in zip(self.params, self.rule.groups.values(), strict=True):
                parameter.summed_grad = torch.zeros_like(parameter)
                layers.setdefault(layer, []).append(parameter)
            bound = self.max_grad_norm / len(layers) ** 0.5
            for parameters in layers.values():
                for unit in self.units:
                    rows = [
                        self._cut([p.grad_sample[row] for p in parameters], bound) for row in unit
                    ]
                    total = [sum(parts) for parts in zip(*rows, strict=True)]
                    total = total if len(unit) == 1 else self._cut(total, bound)
                    for p, part in zip(parameters, total, strict=True):
                        p.summed_grad += part

        def _cut(self, parts: list[Tensor], bound: float) -> list[Tensor]:
            """One gradient of a layer, cut by the rule."""
            rescales = self.rule.kind == "automatic"
            norm = torch.cat([part.flatten() for part in parts]).norm()
            factor = bound / (norm + (STABILITY if rescales else SLACK))
            return [(factor if rescales else factor.clamp(max=1.0)) * part for part in parts]

        def add_noise(self) -> None:
            """Add the prepared noise to the clipped sums."""
            for parameter, noise in zip(self.params, self.noise_for_step, strict=True):
                total = parameter.summed_grad + noise  # in the noise's precision
                parameter.grad = total.to(parameter.dtype).view_as(parameter)

    return KeyedDPOptimizer


def _client_noise(job: LocalJob, slot: int, step: int, device: torch.device) -> list[Tensor]:
    assert job.privacy is not None
    shapes = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
    noise = example_level.step_noise(
        shapes,
        job.clients[slot : slot + 1].tolist(),
        job.privacy.noise_sd[slot : slot + 1],
        job.privacy.secret,
        job.round,
        step,
        device,
        None if job.extents is None else {n: e[slot : slot + 1] for n, e in job.extents.items()},
    )
    return [of_tensor[0] for of_tensor in views(noise, shapes).values()]


def _rows_of_units(pairs: StepBatches, mine: np.ndarray) -> list[list[int]]:
    """Places in one client's batch, by unit; ``mine`` says which pairs are the client's."""
    if pairs.units is None:
        return [[row] for row in range(int(mine.sum()))]
    own = pairs.units[mine]
    return [np.flatnonzero(own == unit).tolist() for unit in dict.fromkeys(own.tolist())]


def _clean(
    parameters: list[nn.Parameter], rule: ClipRule, units: list[list[int]]
) -> tuple[int, int]:
    """Replace units with a non-finite row by zero; count units clipped, and dropped."""
    samples: list[Tensor] = [p.grad_sample for p in parameters]  # type: ignore[attr-defined]
    squares = torch.stack([g.flatten(1).square().sum(1) for g in samples], 1)
    finite = torch.isfinite(squares.sum(1))
    for unit in units:
        finite[unit] = finite[unit].all()
    if not bool(finite.all()):
        for p, rows in zip(parameters, samples, strict=True):
            shape = (-1,) + (1,) * (rows.dim() - 1)
            p.grad_sample = torch.where(finite.view(shape), rows, torch.zeros_like(rows))  # type: ignore
    kept = factors(squares, rule)  # [rows, tensors]
    cut, clipped, dropped = was_cut(kept), 0, 0
    for unit in units:
        if not finite[unit[0]]:
            dropped += 1
            continue
        parts = [
            torch.einsum("r,r...->...", kept[unit, column], p.grad_sample[unit])  # type: ignore
            for column, p in enumerate(parameters)
        ]
        whole = torch.stack([part.square().sum() for part in parts])[None]  # [1, tensors]
        again = len(unit) > 1 and bool(was_cut(factors(whole, rule)))
        clipped += bool(cut[unit].any()) or again
    return clipped, dropped


@contextmanager
def _dropping(
    model: nn.Module, job: LocalJob, step: int, slots: np.ndarray, rows: np.ndarray
) -> Iterator[None]:
    """A step with the job's dropout; the next one draws its own."""
    masks = keyed_dropout(job, step, slots, rows)
    for module in model.modules():
        if masks is not None and isinstance(module, AdaptedLayer):
            module.dropout = partial(masks, module.site)
    own = model_dropout(Context(), job, step, slots, rows)
    if own is not None:
        model.train()
    with own or nullcontext():
        yield
