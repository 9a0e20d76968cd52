"""A GPU that is not there: tensors that compute on the CPU, say ``cuda:0``, and refuse to mix.

A torch function mode sees every call before torch does. What is made for ``cuda`` or comes from
such a tensor is marked as being there; an operation on both kinds of tensor ends as it does on a
real GPU. Values are real, so whole simulations can be played. Inside a backward pass nothing is
checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
COPIES = {"copy_", "_copy_from"}  # the only operations between devices
GETTERS = {"device": CUDA, "is_cuda": True, "is_cpu": False}


class OnDevice(torch.Tensor):
    """A tensor on the pretended GPU; ``Pretended`` does all that is special about it."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Pretended(TorchFunctionMode):
    """There is one GPU while this mode is on."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        here = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in here if isinstance(t, OnDevice)]
        if name == "__get__" and there and func.__self__.__name__ in GETTERS:
            return GETTERS[func.__self__.__name__]
        if name in ("to", "cpu", "cuda"):
            return moved(func, name, args, kwargs)
        if name == "pin_memory":
            return args[0]
        if name == "_has_compatible_shallow_copy_type" and 0 < len(there) < len(here):
            return False  # a module that moves gets new parameters
        if name in ("numpy", "__array__") and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        wanted = device_of(kwargs.pop("device", None))
        if wanted is not None:
            kwargs["device"] = CPU
        elif name not in COPIES and there:
            refuse_mixing(name, here)
        on_gpu = bool(there) if wanted is None else wanted.type == "cuda"
        if name in COPIES:
            on_gpu = isinstance(args[0], OnDevice)
        return marked(func(*args, **kwargs), on_gpu)


def device_of(value):
    """The device that an argument names; None if it names none."""
    if isinstance(value, torch.Tensor):
        return CUDA if isinstance(value, OnDevice) else CPU
    if isinstance(value, str):
        return torch.device(value)
    return value if isinstance(value, torch.device) else None


def moved(func, name, args, kwargs):
    """``to``, ``cpu``, ``cuda``: a copy where the device changes, as between real devices."""
    tensor, rest = args[0], list(args[1:])
    named = [d for d in map(device_of, (*rest, *kwargs.values())) if d is not None]
    target = {"cpu": CPU, "cuda": CUDA}.get(name) or (named[0] if named else device_of(tensor))
    kwargs |= {"device": CPU} if "device" in kwargs else {}
    rest = [CPU if isinstance(v, str | torch.device) else v for v in rest]
    result = tensor if name != "to" else func(tensor, *rest, **kwargs)
    if target.type != device_of(tensor).type and result.data_ptr() == tensor.data_ptr():
        result = result.clone()
    return marked(result, target.type == "cuda")


def refuse_mixing(name, tensors):
    """What torch says; a CPU tensor without dimensions is a number, and may index."""
    plain = [t for t in tensors if not isinstance(t, OnDevice) and t.dim() > 0]
    if plain and not (name == "__getitem__" and isinstance(tensors[0], OnDevice)):
        raise RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two "
            "devices, cuda:0 and cpu!"
        )


def marked(result, on_gpu):
    """The tensors of a result as being on the GPU, or not."""
    if isinstance(result, torch.Tensor):
        if isinstance(result, OnDevice) == on_gpu:
            return result
        return result.as_subclass(OnDevice if on_gpu else torch.Tensor)
    if isinstance(result, tuple | list):
        parts = [marked(part, on_gpu) for part in result]
        return type(result)(parts)
    return result


class _Generator(torch.Generator):
    """Draws on the CPU, whatever device it is for."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def set_offset(self, offset):
        return self  # a CPU's has none


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """One GPU inside the ``with``; modules move to it as they would, generators draw for it."""
    generator = torch.Generator
    torch.Generator = _Generator
    try:
        with Pretended():
            yield
    finally:
        torch.Generator = generator
