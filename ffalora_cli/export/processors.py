"""Writes what prepares a model's inputs: its tokenizer, or the processor of its images."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.records.files import to_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ffalora_cli.models.processor import ImageProcessor


def save_processor(processor: Any, folder: Path) -> None:
    """Its files; read back by plain transformers they are the same processor.

    Args:
        processor: as ``models.processor.load_processor`` gives it.
        folder: there already.

    Raises:
        RunFailed: they are another one.
    """
    from ffalora_cli.models.processor import ImageProcessor

    of_images = isinstance(processor, ImageProcessor)
    if not (_save_images(processor, folder) if of_images else _save_tokenizer(processor, folder)):
        raise RunFailed(
            f"the saved {'image processor' if of_images else 'tokenizer'} is another one when it "
            "is loaded: nothing was kept"
        )


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    """Files without the path it was loaded from; -> whether they are the same tokenizer."""
    from transformers import AutoTokenizer

    from ffalora_cli.data.cache import entry_key

    tokenizer.save_pretrained(str(folder))
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for key in ("name_or_path", "tokenizer_file", "special_tokens_map_file"):
        settings.pop(key, None)
    file.write_bytes(to_json(settings, indent=2))
    back = AutoTokenizer.from_pretrained(folder)
    return entry_key(back) == entry_key(tokenizer) and back.chat_template == tokenizer.chat_template


def _save_images(processor: ImageProcessor, folder: Path) -> bool:
    """The model's own processor at the run's size; -> whether it is read back as that."""
    from transformers import AutoImageProcessor

    own = copy.deepcopy(processor.own)
    for name in {"size", "crop_size"} & processor.call.keys():
        setattr(own, name, processor.call[name])
    own.save_pretrained(folder)
    back = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return json.dumps(back.to_dict(), default=dict) == json.dumps(own.to_dict(), default=dict)
