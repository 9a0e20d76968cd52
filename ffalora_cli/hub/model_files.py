"""Finds or fetches the files of a hub model that a tokenizer or its weights need."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Literal

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.hub.access import (
    COMMIT,
    DOWNLOADING,
    Note,
    ask_commit,
    cache_folder,
    is_offline,
    local_commit,
    patiently,
    quiet,
    repository_info,
    silent,
)
from ffalora_cli.hub.reasons import Wanted, absent, explained

Part = Literal["config", "tokenizer", "processor", "weights"]

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
VOCABULARIES = (
    ("tokenizer.json",), ("vocab.txt",), ("merges.txt", "vocab.json"), ("spm.model",),
    ("spiece.model",), ("sentencepiece.bpe.model",), ("tokenizer.model",),
)  # fmt: skip
"""Any one of these sets is a tokenizer; without one, transformers makes up an empty one."""

PROCESSOR = "preprocessor_config.json"
"""Of images."""
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
INSTEAD = "use model=minilm, smollm2 to write texts (no download), or model.source=FOLDER"


def pinned_commit(repository: str, revision: str | None, note: Note = silent) -> str:
    """The commit that stands for a revision from now on.

    What the cache has of a branch is kept to; the hub is asked where it has nothing.

    Raises:
        ConfigError: it cannot be had.
    """
    asked = revision or "main"
    commit, place = local_commit("model", repository, asked), "from the local cache"
    if commit is None or (commit != asked and not _has(repository, commit, "config")):
        wanted, place = _wanted(repository, revision), "from the hub"
        if is_offline():
            raise wanted.error(absent(wanted, _of(wanted, "it")))
        with explained(wanted):
            commit = ask_commit("model", repository, asked)
    note(f"model {repository}: commit {commit} ({place})")
    return commit


def model_folder(
    repository: str, commit: str, part: Part, revision: str | None = None, note: Note = silent
) -> Path:
    """A folder with ``config.json`` and one part of the model, whole.

    Args:
        repository: ``owner/name``.
        commit: of it.
        part: what is needed beside the configuration.
        revision: as the user typed it, for messages.
        note: is told of a download.

    Raises:
        ConfigError: the repository lacks it, or it cannot be had.
    """
    folder = cache_folder("model", repository) / "snapshots" / commit
    if not (_has(repository, commit, "config") and _has(repository, commit, part)):
        wanted = _wanted(repository, revision or commit)
        if is_offline():
            raise wanted.error(_missing_offline(folder, part, wanted))
        with explained(wanted):
            _fetch(wanted, commit, part, note)
    return folder


def _has(repository: str, commit: str, part: Part) -> bool:
    """Whether all files of a part are here."""
    cache = cache_folder("model", repository)
    folder = cache / "snapshots" / commit
    if part == "config":
        return (folder / CONFIG).is_file()
    if part == "tokenizer":
        settings = SETTINGS[0]  # an interrupted program may have left the vocabulary alone
        known = any((p / settings).exists() for p in (folder, cache / ".no_exist" / commit))
        whole = any(all((folder / n).is_file() for n in names) for names in VOCABULARIES)
        return whole and (known or is_offline())
    if part == "processor":
        return (folder / PROCESSOR).is_file()
    if (folder / WEIGHTS).is_file():
        return True
    return (folder / INDEX).is_file() and all(
        (folder / name).is_file() for name in _shards(folder / INDEX)
    )


def _shards(index: Path) -> list[str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in found.values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index}: no index of weights; delete it to fetch it again") from error


def _fetch(wanted: Wanted, commit: str, part: Part, note: Note) -> None:
    """Download what is missing; the file that makes a part whole comes last."""
    from huggingface_hub import constants

    info = repository_info("model", wanted.repository, commit)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings}
    folder = cache_folder("model", wanted.repository) / "snapshots" / commit
    if CONFIG not in sizes:
        raise wanted.error(f"no {CONFIG} there, so no model of transformers; {INSTEAD}")
    _download(wanted.repository, commit, CONFIG)
    if part == "config":
        return
    names = FILES[part](sizes, wanted)
    if INDEX in names:
        _download(wanted.repository, commit, INDEX)
        names += [name for name in _shards(folder / INDEX) if name in sizes]
    left = [name for name in names if not (folder / name).is_file()]
    if any(sizes.get(name) for name in left):
        size = _size(sum(sizes.get(name, 0) for name in left))
        note(f"{DOWNLOADING} {wanted.repository} ({part}), {size}, to {constants.HF_HUB_CACHE}")
    for name in left:
        _download(wanted.repository, commit, name)
    if not _has(wanted.repository, commit, part):
        text = f"{INDEX} names files that the repository lacks; {INSTEAD}"
        raise wanted.error(text)


def _tokenizer(sizes: Collection[str], wanted: Wanted) -> list[str]:
    sets = [names for names in VOCABULARIES if all(name in sizes for name in names)]
    if not sets:
        raise wanted.error(
            "no tokenizer files there (tokenizer.json, vocab.txt, ...); save model and tokenizer "
            "in one folder (save_pretrained), then model.source=FOLDER",
        )
    settings = [SETTINGS[0], *(name for name in SETTINGS[1:] if name in sizes)]
    return settings + [name for names in reversed(sets) for name in names]


def _weights(sizes: Collection[str], wanted: Wanted) -> list[str]:
    if WEIGHTS in sizes:
        return [WEIGHTS]
    if INDEX in sizes:
        return [INDEX]
    if any(name in sizes for name in _PICKLES):
        raise wanted.error(_pickles())
    raise wanted.error(f"no weights there ({WEIGHTS}); {INSTEAD}")


def _processor(sizes: Collection[str], wanted: Wanted) -> list[str]:
    if PROCESSOR not in sizes:
        raise wanted.error(f"no {PROCESSOR} there, so nobody knows what images it takes")
    return [PROCESSOR]


FILES = {"tokenizer": _tokenizer, "processor": _processor, "weights": _weights}
"""Part -> names of its files, of those that a repository has."""


def _download(repository: str, commit: str, name: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        with quiet():
            patiently(partial(hf_hub_download, repository, name, revision=commit))
    except EntryNotFoundError:
        if name != SETTINGS[0]:  # asked for all the same: the cache notes that it is not there
            raise


def _missing_offline(folder: Path, part: Part, wanted: Wanted) -> str:
    if part == "weights" and any((folder / name).is_file() for name in _PICKLES):
        return _pickles()
    what = {"config": "it", "tokenizer": "its tokenizer", "processor": "its image processor"}
    what |= {"weights": "the whole of its weights"}
    return absent(wanted, _of(wanted, what[part]))


def _of(wanted: Wanted, what: str) -> str:
    if COMMIT.fullmatch(wanted.revision):
        return f"{what} (commit {wanted.revision[:12]})"
    return what if wanted.revision == "main" else f"{what} (revision {wanted.revision})"


def _pickles() -> str:
    return (
        "its weights are pickles only, which are never opened; where you trust it, save it with "
        "safetensors (save_pretrained), then model.source=FOLDER"
    )


def check_sentencepiece(folder: Path, source: str) -> None:
    """A SentencePiece model is read by a package of its own, which is not always there.

    Raises:
        ConfigError: the folder's tokenizer is one, and the package is missing.
    """
    models = any((folder / n).is_file() for (n, *_) in VOCABULARIES if n.endswith(".model"))
    plain = any(all((folder / n).is_file() for n in names) for names in VOCABULARIES[:3])
    if models and not plain and importlib.util.find_spec("sentencepiece") is None:
        raise ConfigError(
            f"model.source={source!r}: its tokenizer is a SentencePiece model, which needs the "
            "package sentencepiece; pip install 'ffalora[sentencepiece]'"
        )


def _wanted(repository: str, revision: str | None) -> Wanted:
    named = f"model.source={repository!r}"
    return Wanted("model", repository, revision or "main", "model.revision", INSTEAD, named=named)


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
