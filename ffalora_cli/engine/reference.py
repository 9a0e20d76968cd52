"""The reference engine: one client at a time, ordinary modules, Opacus. Slow and obvious.

The oracle of the tests and the baseline of the benchmark: same start, batches and noise as the
stacked engine, so the same result within rounding.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.engine.dropout import keyed_dropout
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalResult
from ffalora_cli.models.adapters import AdaptedLinear
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.clipping import STABILITY, ClipRule, clip_rule, factors, was_cut
from ffalora_cli.privacy.example_level import noise_stack
from ffalora_cli.types import Examples, Tensors


class LoraLinear(nn.Module):
    """A frozen linear layer plus A and B as ordinary ``nn.Linear`` children."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, site: str = "") -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Linear(base.in_features, rank, bias=False, device=base.weight.device)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False, device=base.weight.device)
        self.scale = scale
        self.site = site
        self.dropout: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """``base(x) + scale * lora_b(lora_a(x))``."""
        inputs = x if self.dropout is None else self.dropout(x)
        delta = self.lora_b(self.lora_a(inputs.float())) * self.scale
        return self.base(x) + delta.to(x.dtype)


@dataclass
class ReferenceEngine:
    """Opacus ``GradSampleModule`` and ``DPOptimizer``, padded to the longest of each batch."""

    network: Network
    examples: Examples
    precision: str = "fp32"

    def train(self, job: LocalJob) -> LocalResult:
        """One round of local training, client after client."""
        clients = len(job.clients)
        results = [self._train_client(job, slot) for slot in range(clients)]
        trained = {n: torch.stack([r[0][n] for r in results]) for n in job.trainable}
        counts = np.array([r[1] for r in results], dtype=np.float64).reshape(clients, 6)
        return LocalResult(
            trained=trained,
            loss_sum=counts[:, 0],
            examples=counts[:, 1].astype(np.int64),
            clipped=counts[:, 2].astype(np.int64),
            nonfinite=counts[:, 3].astype(np.int64),
            tokens=int(counts[:, 4].sum()),
            padded_tokens=int(counts[:, 5].sum()),
        )

    def _train_client(self, job: LocalJob, slot: int) -> tuple[Tensors, list[float]]:
        model, names = self._module(job, slot)
        parameters = [names[name] for name in job.trainable]
        optimizer = job.optimizer.build(parameters)
        if job.privacy is None:
            wrapped: nn.Module = model
        else:
            wrapped, optimizer = _make_private(model, optimizer, job, slot)
        counts = np.zeros(6)
        for step, pairs in enumerate(job.batches):
            job.poll()
            rows = pairs.rows[pairs.slots == slot]
            if job.dropout > 0:
                _set_dropout(model, keyed_dropout(job, step, np.full(len(rows), slot), rows))
            optimizer.zero_grad()
            self._backward(wrapped, job.trainable, parameters, job.privacy, rows, counts)
            if job.privacy is not None:
                optimizer.noise_for_step = _client_noise(job, slot, step, self.network.device)  # type: ignore[attr-defined]
            optimizer.step()
        return {n: names[n].detach().clone() for n in job.trainable}, counts.tolist()

    def _module(self, job: LocalJob, slot: int) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """A copy of the classifier with this client's factors, only the trainable ones learning."""
        model = copy.deepcopy(self.network.plain)
        for site in self.network.sites:
            live = self.network.model.get_submodule(site.name)
            target = model.get_submodule(site.name)
            assert isinstance(live, AdaptedLinear) and isinstance(target, nn.Linear)
            target.weight.data = live.base.weight.detach().float().clone()  # merges included
        if self.precision == "bf16":
            model.to(torch.bfloat16)
        values = {**job.common, **{n: v[slot] for n, v in job.start.items()}}
        names: dict[str, nn.Parameter] = {}
        for site in self.network.sites:
            rank = values[f"{site.name}.lora_a"].shape[0]
            parent, _, leaf = site.name.rpartition(".")
            base = model.get_submodule(site.name)
            assert isinstance(base, nn.Linear)
            layer = LoraLinear(base, rank, self.network.scale, site.name)
            setattr(model.get_submodule(parent), leaf, layer)
            names[f"{site.name}.lora_a"] = layer.get_parameter("lora_a.weight")
            names[f"{site.name}.lora_b"] = layer.get_parameter("lora_b.weight")
        for name in self.network.head_names:
            path = name.removeprefix("head.")
            names[name] = model.get_parameter(path)
            # Opacus captures activations of modules in training mode only; a linear layer's
            # forward is the same in both, and nothing else of the model leaves eval mode.
            model.get_submodule(path.rpartition(".")[0]).train()
        for name, parameter in names.items():
            parameter.data = values[name].detach().to(parameter.device, torch.float32).clone()
            parameter.requires_grad_(name in job.trainable)
        return model, names

    def _backward(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        parameters: list[nn.Parameter],
        privacy: ExamplePrivacy | None,
        rows: np.ndarray,
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
        logits = model(**{n: t.to(device) for n, t in inputs.items()}).logits.float()
        labels = torch.from_numpy(np.asarray(self.examples.labels)[rows]).to(device)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        with warnings.catch_warnings():
            # FFA-LoRA's lowest B has an input without gradient; Opacus' hook handles that.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            (losses.sum() if privacy is not None else losses.mean()).backward()
        counts[0] += float(losses.detach().sum())
        counts[1] += len(rows)
        counts[4] += int(lengths.sum())
        counts[5] += len(rows) * int(lengths.max())
        if privacy is not None:
            rule = clip_rule(privacy.clip, privacy.max_grad_norm, names)
            counts[2:4] += _clean(parameters, rule)


def _make_private(
    model: nn.Module, optimizer: torch.optim.Optimizer, job: LocalJob, slot: int
) -> tuple[nn.Module, Any]:
    """Wrap with Opacus; the noise is handed in, so that both engines draw the same."""
    from opacus import GradSampleModule

    assert job.privacy is not None
    wrapped = GradSampleModule(model, loss_reduction="sum")
    private = _optimizer_class(job)(
        optimizer,
        noise_multiplier=1.0,
        max_grad_norm=job.privacy.max_grad_norm,
        expected_batch_size=1,
        loss_reduction="mean",
    )
    private.expected_batch_size = float(job.privacy.expected_batch[slot])
    return wrapped, private


def _optimizer_class(job: LocalJob) -> Any:
    """Opacus' ``DPOptimizer`` with our keyed noise and, beyond ``flat``, the rule's clip."""
    from opacus.optimizers import DPOptimizer

    assert job.privacy is not None
    kind = job.privacy.clip
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(job.trainable):
        layers.setdefault(name.rpartition(".")[0] if kind == "per_layer" else "", []).append(i)

    class KeyedDPOptimizer(DPOptimizer):
        """Clips by the rule, scales as Opacus, adds the noise it was handed."""

        noise_for_step: list[Tensor]

        def clip_and_accumulate(self) -> None:
            """Opacus' own for ``flat``; a loop over layers and examples for the others."""
            if kind == "flat":
                super().clip_and_accumulate()
                return
            bound = self.max_grad_norm / len(layers) ** 0.5
            for parameter in self.params:
                parameter.summed_grad = torch.zeros_like(parameter)
            for members in layers.values():
                parameters = [self.params[i] for i in members]
                for row in range(len(parameters[0].grad_sample)):
                    rows = [p.grad_sample[row] for p in parameters]
                    norm = torch.cat([r.flatten() for r in rows]).norm()
                    cut = bound / (norm + (STABILITY if kind == "automatic" else 1e-6))
                    cut = cut if kind == "automatic" else cut.clamp(max=1.0)
                    for p, r in zip(parameters, rows, strict=True):
                        p.summed_grad += cut * r

        def add_noise(self) -> None:
            """Add the prepared noise to the clipped sums."""
            for parameter, noise in zip(self.params, self.noise_for_step, strict=True):
                total = parameter.summed_grad + noise  # in the noise's precision
                parameter.grad = total.to(parameter.dtype).view_as(parameter)

    return KeyedDPOptimizer


def _client_noise(job: LocalJob, slot: int, step: int, device: torch.device) -> list[Tensor]:
    assert job.privacy is not None
    shapes = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
    noise = noise_stack(
        shapes,
        job.clients[slot : slot + 1].tolist(),
        torch.from_numpy(job.privacy.noise_sd[slot : slot + 1]),
        job.privacy.secret,
        job.round,
        step,
        device,
    )
    return [noise[name][0] for name in job.trainable]


def _clean(parameters: list[nn.Parameter], rule: ClipRule) -> tuple[int, int]:
    """Replace non-finite per-example rows by zero; count the clipped and the dropped."""
    samples: list[Tensor] = [p.grad_sample for p in parameters]  # type: ignore[attr-defined]
    squares = torch.stack([g.flatten(1).square().sum(1) for g in samples], 1)
    finite = torch.isfinite(squares.sum(1))
    if not bool(finite.all()):
        for p, rows in zip(parameters, samples, strict=True):
            shape = (-1,) + (1,) * (rows.dim() - 1)
            p.grad_sample = torch.where(finite.view(shape), rows, torch.zeros_like(rows))  # type: ignore
    clipped = finite & was_cut(factors(squares, rule))
    return int(clipped.sum()), int((~finite).sum())


def _set_dropout(model: nn.Module, masks: Any) -> None:
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.dropout = partial(masks, module.site)
