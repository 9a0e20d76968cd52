"""What models of images need: any size of image, and in the last layer the row that is read."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

CLASS_ROW = ("ViTForImageClassification", "DeiTForImageClassification")
"""Models whose head reads the first row of the last layer alone."""
POSITIONS = "interpolate_pos_encoding"
"""What a forward is asked that keeps a table of positions of one size; at that size it changes
nothing. Who interpolates without being asked (DINOv2) takes no such argument."""


def takes_any_size(module: Any) -> dict[str, bool]:
    """What to call a module with so that it takes images of another size than its table's."""
    taken = inspect.signature(module.forward).parameters
    return {POSITIONS: True} if POSITIONS in taken else {}


def allow_any_size(model: Any) -> None:
    """Let every call of ``model``, and of its copies, interpolate the table of positions."""
    if takes_any_size(model):
        model.register_forward_pre_hook(_interpolate, with_kwargs=True)


def _interpolate(model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {POSITIONS: True}


def read_class_row(model: Any) -> None:
    """Let the class token alone pass what follows the last attention: no other row is read.

    The residuals broadcast: behind the last layer all rows but the first are of no use, and the
    head, which takes the first, has the very numbers it had.
    """
    if type(model).__name__ in CLASS_ROW:
        last = model.base_model.layers[-1]
        for module in (last.attention.o_proj, last.mlp):
            module.register_forward_pre_hook(_first_row)


def _first_row(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0][:, :1], *args[1:]  # [examples, 1, d]
