"""Finds a model's files; no file is parsed and nothing heavy imported."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, brief, listed
from ffalora_cli.config.packages import absent
from ffalora_cli.config.schema import ModelConfig
from ffalora_cli.hub.model_files import INDEX, PROCESSOR, SETTINGS, VOCABULARIES, WEIGHTS
from ffalora_cli.models.packaged import SUFFIXES, Conversion, conversion

_PROCESSORS = dict.fromkeys(
    (*(name for names in VOCABULARIES for name in names), *SETTINGS, PROCESSOR)
)


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model on this machine that decide what it computes.

    Attributes:
        folder: that they are in.
        weights: the configuration and the weights; the configuration alone for random weights;
            empty where weights are not on this machine.
        tokenizer: whatever there is of it, or of an image processor.
        commit: of the hub's repository; None for a folder.
    """

    folder: Path
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    commit: str | None


def resolve_source(source: str, cache_dir: str | None = None) -> str:
    """Turn a package's or file's path into a folder; hub ids and folders pass through.

    Args:
        source: ``model.source``.
        cache_dir: ``paths.cache``, where a model inside one file is unpacked to; the folder is
            there once ``Conversion.run`` made it.

    Raises:
        ConfigError: the package is not installed, or a path-like source does not exist.
    """
    path = _path(source)
    if path is None:
        return source
    if path.suffix in SUFFIXES:
        return str(conversion(source, path, cache_dir).folder)
    return str(path)


def packed_file(config: ModelConfig) -> Conversion | None:
    """The one file that holds the whole model, and the folder that is made of it.

    Raises:
        ConfigError: as ``resolve_source``.
    """
    path = _path(config.source)
    if path is None or path.suffix not in SUFFIXES:
        return None
    return conversion(config.source, path, config.cache)


def _path(source: str) -> Path | None:
    """Where a source lies on this machine; None for a hub id."""
    if source.startswith("package:"):
        return _of_package(source)
    if not source.startswith((".", "/", "~")):
        return None
    path = Path(source).expanduser()
    if path.suffix in SUFFIXES and path.is_file():
        return path
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"model.source={source!r}: no config.json there; give a folder written by "
            "save_pretrained, a .gguf file, or a hub id"
        )
    return path


def _of_package(source: str) -> Path:
    """The folder or file that ``package:<module>/<path>`` names."""
    module, _, inner = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"model.source={source!r}: {absent(module)}")
    root = Path(spec.submodule_search_locations[0])
    if Path(inner).suffix in SUFFIXES and not (root / inner).is_file():
        files = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in SUFFIXES]
        raise ConfigError(
            f"model.source={source!r}: no such file in package {module} "
            f"(it has {listed(sorted(files)) or 'no model'})"
        )
    return root / inner


def model_files(config: ModelConfig) -> ModelFiles | None:
    """The files that ``load_backbone`` and ``load_tokenizer`` would read; None: not here yet.

    Where one file holds the whole model that is it, the same on every machine: what is unpacked
    from it follows from it.

    Raises:
        ConfigError: the package or folder does not exist, or what reads it is not installed.
    """
    packed = packed_file(config)
    if packed is not None:
        packed.check_packages()
        return ModelFiles(packed.file.parent, (packed.file,), (packed.file,), None)
    path = resolve_source(config.source)
    folder, commit = Path(path), None
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(path, "config.json", revision=config.revision or "main")
        if not isinstance(found, str):
            return None
        folder = Path(found).parent
        commit = folder.name  # snapshots/<commit>
    folder = folder.absolute()
    names = [name for name in _PROCESSORS if (folder / name).is_file()]
    weights = () if config.random_weights else _weights(folder)
    whole = bool(weights) or config.random_weights
    settings = folder / "config.json"
    return ModelFiles(
        folder,
        (settings, *weights) if whole and settings.is_file() else (),
        tuple(folder / name for name in names),
        commit,
    )


def check_processor_files(config: ModelConfig, images: bool) -> None:
    """Refuse a folder in which no file holds a tokenizer (or image processor); nothing is loaded.

    Raises:
        ConfigError: there is none, or no such package or folder.
    """
    files = model_files(config)
    if files is None or files.commit is not None:
        return  # of the hub: what is not in the cache may still come
    if files.tokenizer == files.weights:
        return  # in one file with them
    present = {file.name for file in files.tokenizer}
    if images:
        if PROCESSOR not in present:
            raise no_processor(config)
    elif not any(present.issuperset(names) for names in VOCABULARIES):
        raise no_tokenizer(config)


def no_processor(config: ModelConfig) -> ConfigError:
    """What to say of a source without an image processor."""
    return ConfigError(
        f"model.source={brief(config.source, 60)}: no {PROCESSOR} there, so nobody knows what "
        "images it takes; save it beside the model (AutoImageProcessor, save_pretrained)"
    )


def no_tokenizer(config: ModelConfig) -> ConfigError:
    """What to say of a source without a tokenizer."""
    remedy = "add them with tokenizer.save_pretrained"
    if not Path(resolve_source(config.source, config.cache)).is_dir():
        remedy = "run once online, or save model and tokenizer in a folder (model.source=FOLDER)"
    return ConfigError(
        f"model.source={brief(config.source, 60)}: no tokenizer files there (tokenizer.json, "
        f"vocab.txt, ...); {remedy}"
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    """One file, or an index and its shards; empty where one of them is missing."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    try:
        index = json.loads((folder / INDEX).read_bytes())
        files = [folder / INDEX, *(folder / n for n in sorted({*index["weight_map"].values()}))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(files) if all(file.is_file() for file in files) else ()
