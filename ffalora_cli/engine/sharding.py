"""Holds the frozen weights in shares: each process of a run keeps its part of every layer.

torch's FSDP2 gathers a layer's weights from all processes just before they are used, forward and
backward, and drops them afterwards. Adapters are no part of the model (``adapters.context``), so
FSDP sees nothing that is trained and never sums a gradient. A gather needs all ranks: they make
equally many passes, those without a micro-batch left one that counts for nothing; and a rank that
runs out of memory in the middle of one still answers its gathers, before all halve together.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.memory import out_of_memory
from ffalora_cli.engine.ranks import Ranks
from ffalora_cli.models.families.recompute import layers_of
from ffalora_cli.models.network import Network

Passed = TypeVar("Passed")
DONE, BUSY, SHORT = range(3)  # what a rank says before a pass


@dataclass
class Gathers:
    """Gathers the layers' weights (FSDP2's ``AllGather``) and notes which gathers were made."""

    made: list[tuple[Tensor, Any]] = field(default_factory=list)  # share like this, of this group

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for what comes in."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False
    ) -> Any:
        """The shares of all ranks end to end."""
        self.made.append((input_tensor.to("meta"), group))
        return dist.all_gather_single(output_tensor, input_tensor, group, async_op)


@dataclass
class Shares:
    """What the ranks agree on while the layers of their model lie on all of them."""

    ranks: Ranks
    root: Any  # of the modules that FSDP2 wraps
    gathers: Gathers
    _usual: list[tuple[Tensor, Any]] = field(default_factory=list)  # gathers of a training pass

    def learn(self, nothing: Callable[[], object]) -> None:
        """Make a pass that counts for nothing, as all ranks do now, and note its gathers."""
        self.gathers.made.clear()
        nothing()
        self._usual = [*self.gathers.made]

    def together(self, work: Callable[[], Passed]) -> Passed:
        """Make a training pass while every rank makes one; what it returns.

        Raises:
            torch.OutOfMemoryError: one of the ranks had no memory for its pass, maybe this one.
        """
        self._agree(BUSY)
        return self._pass(work)

    def wait(self, nothing: Callable[[], object]) -> None:
        """Make passes that count for nothing until no rank has another one to make."""
        while self._agree(DONE):
            self._pass(nothing)

    def _pass(self, work: Callable[[], Passed]) -> Passed:
        self.gathers.made.clear()
        try:
            return work()
        except (RuntimeError, MemoryError) as error:  # what it holds is free after this block
            if not out_of_memory(error):
                raise
        self.root.reset_iter_state()
        for like, group in self._usual[len(self.gathers.made) :]:  # the others wait for these
            share = torch.empty_like(like, device=next(self.root.parameters()).device)
            whole = share.new_empty(self.ranks.world * len(share))
            dist.all_gather_single(whole, share, group=group)
        self._agree(SHORT)
        raise AssertionError("this rank itself was short")

    def _agree(self, state: int) -> bool:
        """Whether any rank has a micro-batch to pass."""
        most = self.ranks.every(np.array(state)).max()
        if most == SHORT:
            raise torch.OutOfMemoryError("a process of this run is out of memory")
        return bool(most == BUSY)


def shard(
    network: Network, skeleton: nn.Module, ranks: Ranks, device: str, dtype: torch.dtype
) -> Shares:
    """Leave every rank its share of the layers of rank 0's model, and all that is in no layer.

    Layer by layer, so that a device holds one whole layer at a time. The other ranks need no
    values, the same modules alone; fingerprints and heads are rank 0's, too.

    Args:
        network: with its weights on rank 0's CPU.
        skeleton: the model on the meta device, for whoever asks the network for names and shapes.
        ranks: two or more.
        device: of this process.
        dtype: of the frozen weights.

    Raises:
        ConfigError: a rank could not begin, or the model's layers are not known.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    _all_there(ranks)
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ConfigError(
            f"engine.shard=true: torch {torch.__version__} cannot go on after an interrupted pass; "
            "install torch 2.13 or later, or use engine.shard=false"
        )
    model, layers = network.model, layers_of(network.model)
    if not layers:
        family = skeleton.config.model_type  # type: ignore[union-attr]
        raise ConfigError(
            f"engine.shard=true: this {family} model has no layers that could be shared out one by "
            "one; use engine.shard=false"
        )
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # none is written
    mesh = init_device_mesh(torch.device(device).type, (ranks.world,))
    hand_out = _HandOut(ranks, device, dtype)
    gathers = Gathers()
    for layer in layers:
        hand_out.to(layer)
        wrapped: Any = fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        wrapped.set_custom_all_gather(gathers)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    hand_out.to(model)
    rest = {p for p in model.parameters() if id(p) not in inside}
    root = fully_shard(_first_called(network), mesh=mesh, ignored_params=rest)
    for name in network.head_names:
        ranks.hand_out(network.initial[name])
    told = [network.fingerprint, network.rest, network.padding]
    told = json.loads(ranks.tell(b"" if ranks.rank else json.dumps(told).encode()))
    network.fingerprint, network.rest, network.padding = told
    network.plain, network.sharded = skeleton, True
    return Shares(ranks, root, gathers)


def _all_there(ranks: Ranks) -> None:
    """A rank that could not begin says why instead (``experiment.ranks.serve``)."""
    for rank, answer in enumerate(ranks.gather(b"{}")):
        if "error" in json.loads(answer):
            why = json.loads(answer)["error"]
            raise ConfigError(f"rank {rank} could not begin: {why}")


def _first_called(network: Network) -> Any:
    """The module around all layers that a pass calls first: FSDP2's root."""
    model: Any = network.model
    if network.task.reads == "vocabulary":
        return model.get_decoder()
    return getattr(model, model.base_model_prefix)


@dataclass(frozen=True)
class _HandOut:
    """Puts rank 0's tensors in the place of a module's, on every rank's device."""

    ranks: Ranks
    device: str
    dtype: torch.dtype  # of those that are no whole numbers

    def to(self, module: nn.Module) -> None:
        """All of a module's that no earlier layer holds; tied ones stay tied."""
        held: dict[int, tuple[Tensor, Tensor]] = {}
        for part in module.modules():
            kinds: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
            for kind in kinds:
                for name, value in self._whole(kind.items()):
                    if id(value) not in held:
                        held[id(value)] = value, self._first(value)  # kept, so its id stays its own
                    kind[name] = held[id(value)][1]

    @staticmethod
    def _whole(named: Iterable[tuple[str, Any]]) -> list[tuple[str, Tensor]]:
        from torch.distributed.tensor import DTensor

        return [(n, v) for n, v in named if v is not None and not isinstance(v, DTensor)]

    def _first(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else value.dtype
        if self.ranks.rank == 0:
            found = value.detach().to(self.device, dtype, copy=True).contiguous()
        else:
            found = torch.empty(value.shape, dtype=dtype, device=self.device)
        self.ranks.hand_out(found)
        if isinstance(value, nn.Parameter):
            return nn.Parameter(found, requires_grad=False)
        return found
