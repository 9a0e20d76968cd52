"""Reads the DINOv2 backbone out of an ONNX file that torch exported a larger model to.

torch keeps the names of a module's parameters, but for what its optimiser folds: the weights of
linear layers become unnamed constants, transposed, of products whose biases still have names. The
names written are those of the hub's checkpoints, which every transformers knows how to read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = "backbone."
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,  # bicubic
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _IMAGENET["mean"],
    "image_std": _IMAGENET["std"],
}
"""As DINOv2's authors preprocess images."""


def convert(file: Path, folder: Path, source: str) -> str:
    """Write the backbone with its configuration and image processor.

    Args:
        file: ONNX, of a model whose part ``backbone`` is a ``Dinov2Model``.
        folder: empty.
        source: as typed, for messages.

    Returns:
        What the weights are.

    Raises:
        ConfigError: there is no such part in it.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from safetensors.numpy import save_file

    try:
        graph = onnx.load(str(file)).graph
        tensors = _tensors(graph)
        settings = _settings(tensors)
    except (DecodeError, LookupError, ValueError) as error:
        raise ConfigError(
            f"model.source={source!r}: no DINOv2 backbone in this ONNX file, the only kind that is "
            "read from one; use a hub id, or a folder written by save_pretrained"
        ) from error
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR, indent=2) + "\n")
    return "DINOv2 as an ONNX file has it, in fp32"


def _tensors(graph: Any) -> dict[str, np.ndarray]:
    """The backbone's parameters under the hub's names."""
    from onnx import numpy_helper

    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {n.removeprefix(_PREFIX): v for n, v in held.items() if n.startswith(_PREFIX)}
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            made = maker.get(product)
            if bias.startswith(_PREFIX) and bias.endswith(".bias") and made is not None:
                constants = [held[name] for name in made.input if name in held]
                if made.op_type == "MatMul" and constants:  # [d_in, d_out]
                    name = bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"
                    found[name] = np.ascontiguousarray(constants[0].T)
    width = found["embeddings.cls_token"].shape[-1]
    found["embeddings.position_embeddings"] = _positions(held, width)
    found["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # of its own training alone
    return {name: np.asarray(value, np.float32) for name, value in sorted(found.items())}


def _positions(held: Mapping[str, np.ndarray], width: int) -> np.ndarray:
    """The table of positions, which folding cut into the class token's row and the patches'."""
    tables = [v for n, v in held.items() if not n.startswith(_PREFIX) and v.shape[:1] == (1,)]
    tables = [v for v in tables if v.ndim == 3 and v.shape[-1] == width]
    first, patches = sorted(tables, key=lambda table: table.shape[1])
    return np.concatenate([first, patches], axis=1)  # [1, 1 + patches, width]


def _settings(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``config.json``, read off the shapes; heads are 64 wide in every DINOv2.

    Raises:
        ValueError: a parameter of the architecture is missing.
    """
    patches = tensors["embeddings.patch_embeddings.projection.weight"]  # [width, 3, p, p]
    width, _, patch, _ = patches.shape
    layers = len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")})
    side = int((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    expected = 7 + 18 * layers  # five of the embeddings, the last norm; those of a layer
    if len(tensors) != expected:
        raise ValueError(f"{len(tensors)} parameters where DINOv2 has {expected}")
    return {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": int(width),
        "num_hidden_layers": layers,
        "num_attention_heads": int(width) // 64,
        "mlp_ratio": tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // int(width),
        "patch_size": int(patch),
        "image_size": side * int(patch),
        "layer_norm_eps": 1e-6,
        "dtype": "float32",
    }
