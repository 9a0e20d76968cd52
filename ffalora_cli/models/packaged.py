"""Turns a model inside one file, GGUF or ONNX, into a folder that transformers loads: once.

The folder is in the cache, named after the content of the file, and whole or absent. It holds
``config.json``, ``model.safetensors``, the tokenizer or image processor, and ``conversion.json``,
which says what the weights are. A model is known by the file itself (``source.model_files``): the
folder's configuration may differ with the version of transformers that wrote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, one_line
from ffalora_cli.content import cache_folder, content_hash, hash_memory
from ffalora_cli.hub.access import Note, silent

CONVERTING = "converting"  # how a note about it begins
FORMAT = 1  # raise when what is written changes
_ABOUT = "conversion.json"
_NEEDS = {".gguf": ("gguf", ("gguf", "accelerate")), ".onnx": ("onnx", ("onnx", "ml_dtypes"))}
SUFFIXES = tuple(_NEEDS)
"""Of files that hold a whole model."""


@dataclass(frozen=True)
class Conversion:
    """One file of weights, and the folder that is made of it.

    Attributes:
        source: as typed, for messages.
        file: in a package, or anywhere.
        folder: in the cache; there once it was converted.
    """

    source: str
    file: Path
    folder: Path

    @property
    def done(self) -> bool:
        """Whether the folder is there."""
        return self.folder.is_dir()

    @property
    def about(self) -> str | None:
        """What its weights are, in one phrase; None before it is done."""
        found = json.loads((self.folder / _ABOUT).read_text()) if self.done else {}
        return found.get("weights")

    def run(self, note: Note = silent) -> Path:
        """The folder, made if it is not there; other processes wait for the first.

        Raises:
            ConfigError: a package is missing, the file is no model known here, or the disk is full.
        """
        if self.done:
            return self.folder
        self.check_packages()
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder.with_name(f".{self.folder.name}.lock")):
                if not self.done:
                    note(f"{CONVERTING} {self.file.name}, once, to {self.folder}")
                    self._write()
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: the model of {self.source!r} cannot be written there "
                f"({error.strerror or one_line(str(error))}); set paths.cache to a folder with room"
            ) from error
        return self.folder

    def check_packages(self) -> None:
        """Refuse where a package that reads the file is missing."""
        extra, modules = _NEEDS[self.file.suffix]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"model.source={self.source!r}: package {missing[0]} is not installed, which reads "
                f"{self.file.suffix} files; run: pip install 'ffalora[{extra}]'"
            )

    def _write(self) -> None:
        """Write beside the target, then rename."""
        from ffalora_cli.models import from_gguf, from_onnx

        read = from_gguf if self.file.suffix == ".gguf" else from_onnx
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder.parent))
        try:
            weights = read.convert(self.file, partial, self.source)
            about = {"source": self.source, "file": self.file.name, "weights": weights}
            (partial / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")
            os.rename(partial, self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def conversion(source: str, file: Path, cache_dir: str | None) -> Conversion:
    """Of a file that exists; its content is read here where it was not before.

    Args:
        source: as typed.
        file: ends with one of ``SUFFIXES``.
        cache_dir: ``paths.cache``.
    """
    digest = content_hash(file.parent, [file.absolute()], hash_memory(cache_dir))
    folder = cache_folder(cache_dir) / "models" / f"{file.stem}-{digest[:16]}-{FORMAT}"
    return Conversion(source, file, folder.absolute())


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, where the file system has locks."""
    with path.open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
