"""A GPU that is imagined: its tensors have shapes and no values, and every kernel is counted.

The engine is told that tensors of torch's meta device are on ``cuda:0``, so it takes the way it
takes on a GPU, at full width and in no memory; a decision that needs a value cannot be made and
raises, as it would make a GPU wait. Attention is one fused operator each way, as there.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

CUDA, META = torch.device("cuda:0"), torch.device("meta")
MEMORY = 139 * 2**30  # bytes, all of them free: an H200
FROM_HOST = "copy from the host"
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
SAME_MEMORY = ("_unsafe_view", "detach", "alias", "lift_fresh", "_reshape_alias")


class _Imagined(TorchFunctionMode):
    """Names meta tensors ``cuda:0``, and sends there what is sent to a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "__get__" and func.__self__.__name__ == "device":
            found = func(*args)
            return CUDA if found.type == "meta" else found
        if name == "__get__" and func.__self__.__name__ == "is_cuda":
            return args[0].is_meta
        if name == "scaled_dot_product_attention":
            return _attention(*args, **kwargs)
        if name == "pin_memory":
            return args[0]
        if name in ("to", "cpu") and args[0].is_meta and _to_host(name, (args[1:], kwargs)):
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        args, kwargs = tree_map(_there, (args, kwargs))
        return func(*args, **kwargs)


def _to_host(name: str, rest: Any) -> bool:
    """Whether a move ends on the CPU."""
    return name == "cpu" or any(str(value) == "cpu" for value in tree_leaves(rest))


def _there(value: Any) -> Any:
    """An argument, with the GPU's name replaced by that of the meta device."""
    named = isinstance(value, torch.device | str) and str(value).startswith("cuda")
    return META if named else value


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **named: Any
) -> Tensor:
    """The fused operator that torch takes on a GPU: flash without a mask, or memory-efficient."""
    given = {k: v for k, v in named.items() if k in ("dropout_p", "is_causal", "scale")}
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, **given
        )[0]
        return attended
    bias = attn_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(
            bias.logical_not(), -torch.inf
        )
    if bias is not None:
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    attended = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, query.requires_grad, **given
    )[0]
    return attended


class _Generator(torch.Generator):
    """Stands for a GPU's, which is placed by seed and offset."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls)
        return made

    def set_offset(self, offset: int) -> None:
        """Nothing is drawn."""


@dataclass
class Work:
    """What a GPU was asked to do.

    Attributes:
        operators: how often, by name; each is about a kernel. Views and allocations are none.
        bytes: read and written, by name of the operator; gathers read what they return.
        flops: of products and attention.
        peak: most bytes held at once beyond what was there before.
    """

    operators: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    flops: int = 0
    peak: int = 0

    def __sub__(self, other: Work) -> Work:
        operators, moved = Counter(self.operators), Counter(self.bytes)
        operators.subtract(other.operators)
        moved.subtract(other.bytes)
        return Work(operators, moved, self.flops - other.flops, self.peak)


class _Watching(TorchDispatchMode):
    """Writes down every operator on the imagined GPU."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self._held: dict[int, int] = {}  # bytes by storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(result)
        if not any(t.is_meta for t in (*read, *written)):
            return result
        for tensor in written:
            self._hold(tensor)
        name = func.overloadpacket.__name__
        if not _is_view(func) and name not in (*ALLOCATIONS, *SAME_MEMORY):
            if any(not t.is_meta and t.dim() for t in read):
                name = FROM_HOST
            self.work.operators[name] += 1
            self.work.bytes[name] += _moved(name, read, written)
        return result

    def _hold(self, tensor: Tensor) -> None:
        """Count a storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.is_meta and key not in self._held:
            self._held[key] = storage.nbytes()
            weakref.finalize(storage, self._held.pop, key, None)
            self.work.peak = max(self.work.peak, sum(self._held.values()))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_view(func: Any) -> bool:
    """Whether its result shares its argument's memory without writing to it."""
    aliases = (result.alias_info for result in func._schema.returns)
    return any(alias is not None and not alias.is_write for alias in aliases)


def _moved(name: str, read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes of operands and results; of a gather's source only what it takes."""
    size = sum(t.numel() * t.element_size() for t in written)
    if name in ("index_select", "embedding", "gather", "index"):
        return 2 * size
    return size + sum(t.numel() * t.element_size() for t in read)


@contextmanager
def imagined_gpu() -> Iterator[None]:
    """One GPU inside the ``with``, of ``MEMORY`` bytes."""
    generator = mock.patch.object(torch, "Generator", _Generator)
    memory = mock.patch.object(torch.cuda, "mem_get_info", lambda device=None: (MEMORY, MEMORY))
    with generator, memory, _Imagined():
        yield


@contextmanager
def watched() -> Iterator[Work]:
    """What is asked of the imagined GPU inside the ``with``."""
    work, products = Work(), FlopCounterMode(display=False)
    with _Watching(work), products:
        yield work
    work.flops = products.get_total_flops()
