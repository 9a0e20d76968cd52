"""Writes scikit-learn's handwritten digits as a task's folder, and a small random ViT beside it.

    python -m scripts.make_digits FOLDER
    ffalora run task=digits model=vit_small model.source=FOLDER/vit paths.data=FOLDER

For tests and first tries: 1,797 images of 8 x 8 pixels, and a model that runs in seconds.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIDE, TEST = 32, 360  # pixels of the images as written; the last rows are the test split


def main(folder: Path) -> None:
    """Write ``digits/{train,test}.parquet`` and ``vit``."""
    import pyarrow
    import pyarrow.parquet
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = np.kron(found.images * (255 / 16), np.ones((SIDE // 8, SIDE // 8)))
    rows = [
        {"image": {"bytes": _png(image), "path": None}, "label": int(label)}
        for image, label in zip(images, found.target, strict=True)
    ]
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows[:-TEST]), ("test", rows[-TEST:])):
        table = pyarrow.Table.from_pylist(part)
        pyarrow.parquet.write_table(table, folder / "digits" / f"{split}.parquet")
    write_vit(folder / "vit")


def write_vit(folder: Path, **changed: Any) -> None:
    """Write a random ViT of two layers that reads 32 x 32 pixels, and its image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    settings = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"intermediate_size": 128, "image_size": SIDE, "patch_size": 8} | changed
    torch.manual_seed(0)
    config = ViTConfig(**settings, initializer_range=0.1)
    ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": settings["image_size"], "width": settings["image_size"]}
    ViTImageProcessorPil(size=size).save_pretrained(folder)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
