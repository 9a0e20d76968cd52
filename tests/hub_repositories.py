"""Repositories for the stand-in hub: a tiny model with a tokenizer, and GLUE's SST-2 in small."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hub_server import folder_files
from tests.tiny import save_tiny_bert

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
CARD = """\
---
configs:
- config_name: rte
  data_files: [{split: train, path: rte/train-*}]
- config_name: sst2
  data_files:
  - {split: train, path: sst2/train-*}
  - {split: validation, path: sst2/validation-*}
---
"""


@cache
def tiny_bert() -> dict[str, bytes]:
    """A random two-layer BERT as ``save_pretrained`` leaves it."""
    with TemporaryDirectory() as folder:
        save_tiny_bert(Path(folder))
        return folder_files(Path(folder))


def other_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same repository after its weights were changed."""
    from safetensors.torch import load, save

    changed = {name: value * 1.5 for name, value in load(files[WEIGHTS]).items()}
    return files | {WEIGHTS: save(changed, {"format": "pt"})}


def sharded(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same weights in two files and their index."""
    from safetensors.torch import load, save

    tensors = load(files[WEIGHTS])
    names, kept = sorted(tensors), {k: v for k, v in files.items() if k != WEIGHTS}
    place: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        kept[file] = save({name: tensors[name] for name in part}, {"format": "pt"})
        place |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": place}
    return kept | {f"{WEIGHTS}.index.json": json.dumps(index).encode()}


def sst2(rows: int) -> dict[str, bytes]:
    """GLUE as the hub has it, Parquet by configuration; every second row is positive."""
    import datasets

    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
        }
    )

    def parquet(count: int, word: str) -> bytes:
        column = [f"{word} film number {i} is {'good' if i % 2 else 'bad'}" for i in range(count)]
        table = {"sentence": column, "label": [i % 2 for i in range(count)]}
        stream = io.BytesIO()
        datasets.Dataset.from_dict(table, features=features).to_parquet(stream)
        return stream.getvalue()

    return {
        "README.md": CARD.encode(),
        "rte/train-00000-of-00001.parquet": parquet(4, "this"),
        "sst2/train-00000-of-00001.parquet": parquet(rows, "this"),
        "sst2/validation-00000-of-00001.parquet": parquet(20, "that"),
    }
