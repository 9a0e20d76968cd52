"""Images from every kind of source, as the model's own processor has them; what is no image."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil, ViTImageProcessorPil

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.dataset import prepare
from ffalora_cli.data.images import resize
from ffalora_cli.data.load import load_rows
from ffalora_cli.data.units import unit_keys
from ffalora_cli.models.processor import ImageProcessor
from tests.tiny import tiny_image_model

TASK = TaskConfig(
    name="shapes",
    version=1,
    text_columns=(),
    label_column="label",
    classes=("cat", "dog"),
    metrics=("accuracy",),
    splits={"train": "train"},
    eval_split="holdout",
    tune_split="holdout",
    holdout_fraction=0.25,
    kind="image_classification",
    image_column="image",
)
LABELS = ["cat", "dog"] * 6
OWN = {
    "vit": ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "dinov2": BitImageProcessorPil(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, resample=3
    ),
}


def pictures() -> list[Image.Image]:
    """Of different sizes and modes; the last is the first again."""
    generator = np.random.default_rng(0)
    shapes = [(40 + i, 50 - i, 3) for i in range(len(LABELS) - 1)]
    found = [Image.fromarray(generator.integers(0, 256, s).astype(np.uint8)) for s in shapes]
    found[1] = found[1].convert("L")
    return [*found, found[0]]


def encoded(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def write(folder, cells) -> None:
    table = pyarrow.table({"image": cells, "label": LABELS})
    (folder / "shapes").mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "shapes" / "train.parquet")


def processor(family: str = "vit", side: int | None = None) -> ImageProcessor:
    return ImageProcessor.of(OWN[family], tiny_image_model(family), side)


@pytest.fixture
def parquet(tmp_path):
    cells = [{"bytes": encoded(image), "path": None} for image in pictures()]
    cells[-1]["bytes"] = encoded(pictures()[-1], compress_level=0)  # another file
    write(tmp_path, cells)
    return tmp_path


@pytest.mark.parametrize("source", ["paths", "folders", "save_to_disk"])
def test_every_source_gives_the_same_rows(source, parquet, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "shapes").mkdir()
    if source == "paths":
        for i, image in enumerate(pictures()):
            image.save(other / "shapes" / f"{i}.png")
        write(other, [f"{i}.png" for i in range(len(LABELS))])
    elif source == "folders":
        for i, (image, label) in enumerate(zip(pictures(), LABELS, strict=True)):
            (other / "shapes" / "train" / label).mkdir(parents=True, exist_ok=True)
            image.save(other / "shapes" / "train" / label / f"{i:02}.png")
    else:
        from datasets import Dataset, Features, Value
        from datasets import Image as Cell

        rows = {"image": pictures(), "label": LABELS}
        features = Features({"image": Cell(), "label": Value("string")})
        made = Dataset.from_dict(rows, features=features)
        made.save_to_disk(str(other / "shapes" / "train"))
    wanted, found = load_rows(TASK, str(parquet), "train"), load_rows(TASK, str(other), "train")
    order = np.argsort(np.array(LABELS), kind="stable") if source == "folders" else slice(None)
    assert np.array_equal(wanted.text_keys[order], found.text_keys)
    assert np.array_equal(wanted.targets.values[order], found.targets.values)
    assert source == "folders" or wanted.fingerprint == found.fingerprint


@pytest.mark.parametrize("side", [None, 48])
@pytest.mark.parametrize("family", OWN)
def test_a_batch_is_what_the_models_own_processor_gives(family, side, parquet):
    ours = processor(family, side)
    images = resize(load_rows(TASK, str(parquet), "train"), ours)
    sized = {name: ours.call[name] for name in ("size", "crop_size") if name in ours.call}
    rgb = [image.convert("RGB") for image in pictures()]
    wanted = OWN[family](rgb, return_tensors="pt", **sized)["pixel_values"]
    found = images.inputs(np.arange(len(images)))["pixel_values"]
    assert torch.allclose(found, wanted, atol=1e-5)
    assert set(images.lengths) == {(found.shape[2] // 8) ** 2 + 1}


def test_what_the_cache_gives_back_is_what_was_written(parquet, tmp_path):
    read = [
        prepare(TASK, processor(), str(parquet), str(tmp_path / "cache"), keep_together="text")
        for _ in range(2)
    ]
    first, again = (data.train for data in read)
    assert [data.facts["train"]["cache"] for data in read] == ["written", "read"]
    assert first.content == again.content and first.fingerprint == again.fingerprint
    assert isinstance(again.pixels.base, np.memmap)  # and no copy of it
    rows = np.array([2, 0])
    assert torch.equal(
        again.take(rows).inputs(np.arange(2))["pixel_values"], first.inputs(rows)["pixel_values"]
    )
    changed = again.pixels.copy()
    changed[again.places[0]] ^= 1
    assert dataclasses.replace(again, pixels=changed).content == again.content  # by its digests


def test_two_files_of_one_picture_are_one(parquet):
    rows = load_rows(TASK, str(parquet), "train")
    images = resize(rows, processor())
    keys = unit_keys(rows, "text")
    assert keys[0] == keys[-1] and len(set(keys)) == len(keys) - 1
    assert images.sequence_keys[0] == images.sequence_keys[-1]
    assert len(set(images.sequence_keys)) == len(keys) - 1


@pytest.mark.parametrize("cell", [b"no image", None, encoded(pictures()[0])[:300]])
def test_what_is_no_image_is_one_line_with_its_row(cell, parquet):
    cells = [{"bytes": encoded(image), "path": None} for image in pictures()]
    cells[4]["bytes"] = cell
    write(parquet, cells)
    with pytest.raises(ConfigError, match=r"train\.parquet, row 4 .* no image that can be decoded"):
        load_rows(TASK, str(parquet), "train")


@pytest.mark.parametrize(
    "path, wrong",
    [
        ("nowhere/1.png", r"row 4 .* no file '.*nowhere/1\.png'; correct the path"),
        ("text.png", r"row 4 .* can be decoded \(cannot identify image file\); mend"),
    ],
)
def test_a_path_without_an_image_is_said_once(path, wrong, parquet):
    cells = [{"bytes": encoded(image), "path": None} for image in pictures()]
    cells[4] = {"bytes": None, "path": path}
    write(parquet, cells)
    (next(parquet.rglob("*.parquet")).parent / "text.png").write_text("no image")
    with pytest.raises(ConfigError, match=wrong):
        load_rows(TASK, str(parquet), "train")


def test_sizes_that_the_model_cannot_take():
    with pytest.raises(ConfigError, match=r"image_size=50 .* patches, .* 8 .*image_size=48 or 56"):
        processor("vit", 50)
    wide = BitImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False)
    with pytest.raises(ConfigError, match=r"different sizes; set task\.image_size"):
        ImageProcessor.of(wide, tiny_image_model("vit"), None)
