"""What others run: PEFT's LoRA, client after client, padded; with Opacus' hooks under privacy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.engine.job import LocalJob
from ffalora_cli.engine.stacked.round_tensors import views
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.mechanism.example_level import step_noise
from ffalora_cli.types import Examples, Stack


class PeftLoop:
    """A PEFT model fine-tuned batch by batch, each padded to its longest row; no privacy."""

    def __init__(self, network: Network, examples: Examples, precision: str) -> None:
        self.examples = examples
        self.device = network.device
        self.model, self.parameters = _peft_model(network, precision)

    def train(self, job: LocalJob) -> Stack:
        """One round, one client after the other."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in job.trainable)
            if name not in job.trainable:
                parameter.data.copy_(job.common[name])
        chosen = [self.parameters[name] for name in job.trainable]
        rows = [self._train_client(job, slot, chosen) for slot in range(len(job.clients))]
        return {n: torch.stack([row[n] for row in rows]) for n in job.trainable}

    def _train_client(
        self, job: LocalJob, slot: int, chosen: list[nn.Parameter]
    ) -> dict[str, Tensor]:
        for name in job.trainable:
            self.parameters[name].data.copy_(job.start[name][slot])
        optimizer = self._optimizer(job, slot, chosen)
        for step, pairs in enumerate(job.batches):
            optimizer.zero_grad()
            losses = self._losses(pairs.rows[pairs.slots == slot])
            self._step(job, slot, step, losses, optimizer)
        return {name: self.parameters[name].detach().clone() for name in job.trainable}

    def _losses(self, rows: np.ndarray) -> Tensor:
        inputs = self.examples.inputs(rows)
        logits = self.model(**{n: t.to(self.device) for n, t in inputs.items()}).logits
        targets = self.examples.targets.batch(rows).to(self.device)
        read = targets.read(logits).float()
        each = nn.functional.cross_entropy(read, targets.values, reduction="none")
        return targets.by_example(each)

    def _optimizer(self, job: LocalJob, slot: int, chosen: list[nn.Parameter]) -> Any:
        return job.optimizer.build(chosen)

    def _step(self, job: LocalJob, slot: int, step: int, losses: Tensor, optimizer: Any) -> None:
        losses.mean().backward()
        optimizer.step()


class PeftOpacus(PeftLoop):
    """The same under Opacus: ``GradSampleModule`` hooks and ``DPOptimizer`` with our noise."""

    def train(self, job: LocalJob) -> Stack:
        """One round; the hooks are put on once, when it is known what is trained."""
        from opacus import GradSampleModule

        if not isinstance(self.model, GradSampleModule):
            for name, parameter in self.parameters.items():
                parameter.requires_grad_(name in job.trainable)
            self.model = GradSampleModule(self.model, loss_reduction="sum")
        return super().train(job)

    def _optimizer(self, job: LocalJob, slot: int, chosen: list[nn.Parameter]) -> Any:
        from opacus.optimizers import DPOptimizer

        assert job.privacy is not None
        batch = int(job.privacy.expected_batch[slot])
        inner = job.optimizer.build(chosen)
        optimizer = DPOptimizer(
            inner,
            noise_multiplier=0.0,  # Opacus' clip and scaling; the noise is ours, added in _step
            max_grad_norm=job.privacy.max_grad_norm,
            expected_batch_size=batch,
            loss_reduction="mean",
        )
        return optimizer

    def _step(self, job: LocalJob, slot: int, step: int, losses: Tensor, optimizer: Any) -> None:
        assert job.privacy is not None
        losses.sum().backward()
        layout = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
        drawn = step_noise(
            layout,
            job.clients[slot : slot + 1].tolist(),
            job.privacy.noise_sd[slot : slot + 1],
            job.privacy.secret,
            job.round,
            step,
            self.device,
        )
        optimizer.pre_step()
        for name, noise in views(drawn, layout).items():
            self.parameters[name].grad += noise[0] / optimizer.expected_batch_size
        optimizer.original_optimizer.step()


def _peft_model(network: Network, precision: str) -> tuple[Any, dict[str, nn.Parameter]]:
    """PEFT on new module objects around the same frozen weights, and its factors by our names."""
    from peft import LoraConfig, get_peft_model

    plain = network.plain
    memo = {id(t): t for t in (*plain.parameters(), *plain.buffers())}
    base = copy.deepcopy(plain, memo if precision == "fp32" else None)
    if precision == "bf16":
        base.to(torch.bfloat16)
    rank = next(spec.shape[0] for spec in network.specs if spec.factor == "lora_a")
    settings = LoraConfig(
        r=rank,
        lora_alpha=network.scale * rank,
        lora_dropout=0.0,
        target_modules=[site.name for site in network.sites],
    )
    model = get_peft_model(base, settings).eval()
    named = {}
    for site in network.sites:
        for ours, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            layer = model.get_submodule(f"base_model.model.{site.name}.{theirs}.default")
            # Opacus reads activations in training mode only; to a linear layer it is all one.
            layer.train()
            named[f"{site.name}.{ours}"] = layer.weight
    return model, named
