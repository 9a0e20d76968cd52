"""Keeps splits as a model reads them on disk: written once, atomically, checked, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.content import cache_folder
from ffalora_cli.data.encode import TARGET_ARRAYS, Encoded, Split
from ffalora_cli.data.images import Images
from ffalora_cli.tasks.targets import Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 4  # raise when the files or their meaning change
META = "meta.json"


def cache_root(cache_dir: str | None) -> Path:
    """Tokens, below ``paths.cache``, else ``$FFALORA_CACHE``, else ``~/.cache/ffalora``."""
    return cache_folder(cache_dir) / "tokens"


def entry_key(processor: Any, *parts: str | int) -> str:
    """Hash of everything that decides tokens or pixels: the processor's content and ``parts``.

    Without parts it says which processor it is.

    Args:
        processor: a tokenizer, or a ``models.processor.ImageProcessor``, which has ``settings``.
        parts: what else decides them.

    Raises:
        ConfigError: the tokenizer has no content to hash (a slow, Python-only one).
    """
    images = getattr(processor, "settings", None)
    content = [FORMAT, *(_of_tokenizer(processor) if images is None else [images]), list(parts)]
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        name = tokenizer.name_or_path
        raise ConfigError(f"model.source={name}: no fast tokenizer; choose a model that has one")
    content = json.loads(backend.to_str())
    content["truncation"] = content["padding"] = None  # left over from the last call
    settings = [
        tokenizer.pad_token_id,
        tokenizer.truncation_side,
        sorted(tokenizer.model_input_names),
    ]
    return [content, settings]


def read_entry(folder: Path) -> Any:
    """A cached split, memory-mapped; None when absent or when any byte is not as written."""
    try:
        meta = json.loads((folder / META).read_text())
        arrays: dict[str, Any] = {}
        for name, checksum in meta["crc32"].items():
            path = folder / f"{name}.npy"
            if _crc32(path) != checksum:
                return None
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        if _checksum(meta["facts"]) != meta["facts_crc32"]:
            return None
        facts = {n: tuple(v) if isinstance(v, list) else v for n, v in meta["facts"].items()}
        found = {n: arrays.pop(name, None) for n, name in TARGET_ARRAYS.items()}
        made = Images if "pixels" in arrays else Encoded
        return made(targets=Targets(**found), **arrays, **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_entry(folder: Path, encoded: Split) -> None:
    """Write beside the target, then rename: a reader sees all of it or nothing.

    Raises:
        OSError: the cache folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        checksums = {}
        for name, array in encoded.arrays().items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
            checksums[name] = _crc32(partial / f"{name}.npy")
        facts = {name: getattr(encoded, name) for name in encoded.FACTS}
        meta = {"crc32": checksums, "facts": facts, "facts_crc32": _checksum(facts)}
        (partial / META).write_text(json.dumps(meta))
        if folder.exists():  # damaged, or another process was faster: ours is as good
            shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _checksum(facts: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _crc32(path: Path) -> int:
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return zlib.crc32(content)
