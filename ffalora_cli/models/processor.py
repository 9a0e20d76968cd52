"""What prepares rows for a model: its tokenizer, or its image processor cut in two.

Images are resized once, and scaled and normalised batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import ModelConfig, TaskConfig
from ffalora_cli.hub.access import Note, silent
from ffalora_cli.hub.model_files import PROCESSOR
from ffalora_cli.models.backbone import load_skeleton, load_tokenizer, local_folder
from ffalora_cli.models.families.vision import takes_any_size
from ffalora_cli.models.reading import quiet_transformers, readable_errors
from ffalora_cli.models.source import no_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBES = ((48, 64), (64, 48))  # [height, width] of two images: both must come out alike


def load_processor(config: ModelConfig, task: TaskConfig, note: Note = silent) -> Any:
    """What prepares the task's rows for its model; ``note`` is told of a download.

    Returns:
        A tokenizer, or of images an ``ImageProcessor``.

    Raises:
        ConfigError: the model has none, or images of no size that it takes.
    """
    if task.image_column is None:
        return load_tokenizer(config, note)
    import transformers

    folder = Path(local_folder(config, "processor", note))
    if not (folder / PROCESSOR).is_file():
        raise no_processor(config)
    with readable_errors(config.source), quiet_transformers():
        # Pillow's resizing wherever the run is: torchvision's differs in its rounding.
        own = transformers.AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False
        )
    return ImageProcessor.of(own, load_skeleton(config, task, note), task.image_size)


@dataclass(frozen=True)
class ImageProcessor:
    """The processor of a model at one size.

    Attributes:
        own: of transformers.
        call: what it is called with, so that its images have this size and are whole numbers.
        size: ``(height, width)`` of what it makes.
        tokens: that the model makes of an image.
    """

    own: Any
    call: Mapping[str, Any]
    size: tuple[int, int]
    tokens: int

    @staticmethod
    def of(own: Any, model: PreTrainedModel, side: int | None) -> ImageProcessor:
        """The processor at ``side`` x ``side`` pixels, or at its own size.

        Args:
            own: of transformers, working with Pillow.
            model: its modules; no value of them is read.
            side: ``task.image_size``.

        Raises:
            ConfigError: the images would be of different sizes, or no whole number of patches.
        """
        call = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
        call |= {} if side is None else _sized(own, side)
        sizes = {
            _resized(own, call, [np.zeros((*size, 3), np.uint8)]).shape[1:3] for size in PROBES
        }
        if len(sizes) > 1:
            raise ConfigError(
                f"the image processor of this {model.config.model_type} model makes images of "
                "different sizes; set task.image_size"
            )
        size = next(iter(sizes))
        _check_patches(model, size)
        return ImageProcessor(own, call, size, _tokens(model, size))

    def pixels(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images uint8 ``[height, width, 3]`` as the model's, uint8 ``[images, H, W, 3]``."""
        return _resized(self.own, self.call, images)

    @property
    def scale(self) -> float:
        """Factor of a pixel before it is normalised."""
        return float(self.own.rescale_factor) if self.own.do_rescale else 1.0

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each colour, taken from the scaled pixels."""
        return tuple(self.own.image_mean) if self.own.do_normalize else (0.0, 0.0, 0.0)

    @property
    def std(self) -> tuple[float, ...]:
        """Of each colour, by which they are divided then."""
        return tuple(self.own.image_std) if self.own.do_normalize else (1.0, 1.0, 1.0)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the pixels and what is made of them."""
        return {"own": self.own.to_dict(), "call": dict(self.call), "tokens": self.tokens}


def _resized(own: Any, call: Mapping[str, Any], images: Sequence[np.ndarray]) -> np.ndarray:
    found = own(list(images), input_data_format="channels_last", **call)["pixel_values"]
    return np.ascontiguousarray(np.transpose(np.asarray(found, np.uint8), (0, 2, 3, 1)))


def _sized(own: Any, side: int) -> dict[str, Any]:
    """Settings of a processor for another size; one that crops keeps its margin's share."""
    square = {"height": side, "width": side}
    if not getattr(own, "do_center_crop", False):
        return {"size": square}
    edge = own.size.shortest_edge
    if edge is None:
        return {"size": square, "crop_size": square}
    return {
        "size": {"shortest_edge": round(edge * side / own.crop_size.height)},
        "crop_size": square,
    }


def _check_patches(model: PreTrainedModel, size: tuple[int, int]) -> None:
    patch = getattr(model.config, "patch_size", 1)
    if isinstance(patch, int) and any(length % patch for length in size):
        below = max(size[0] // patch, 1) * patch
        raise ConfigError(
            f"task.image_size={size[0]} is no whole number of the model's patches, which are "
            f"{patch} pixels wide; set task.image_size={below} or {below + patch}"
        )


def _tokens(model: PreTrainedModel, size: tuple[int, int]) -> int:
    """Rows that the model's embeddings make of an image, class token and the like included."""
    embeddings = model.base_model.embeddings
    device = next(embeddings.parameters()).device
    with torch.no_grad():
        found = embeddings(torch.zeros(1, 3, *size, device=device), **takes_any_size(embeddings))
    return int((found[0] if isinstance(found, tuple) else found).shape[1])
