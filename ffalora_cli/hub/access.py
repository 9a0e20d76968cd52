"""Asks the hub: its libraries' switches and patience, and the commit of a revision.

A revision is turned into a commit once, at the start of a run; everything after it is loaded by
commit, so that ``main`` cannot move between a tokenizer and its weights.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

Kind = Literal["model", "dataset"]
Note = Callable[[str], None]
"""Is told one line that a person should see."""

DOWNLOADING = "downloading"  # how a note about a download begins
COMMIT = re.compile(r"[0-9a-f]{40}")
BUSY = (408, 429, 500, 502, 503, 504)  # answers after which huggingface_hub asks again
WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)  # seconds between questions, as there
LONGEST = 60.0  # seconds a hub may ask for (Retry-After); more is an error that says so

_PROBES: dict[Kind, str] = {"model": "config.json", "dataset": "README.md"}
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_T = TypeVar("_T")


def silent(text: str) -> None:
    """A ``Note`` that says nothing."""


def is_offline(kind: Kind = "model") -> bool:
    """Whether a switch forbids requests, in any spelling that the libraries understand."""
    from huggingface_hub import constants

    if kind == "model":
        return bool(constants.HF_HUB_OFFLINE)
    from datasets import config

    return bool(config.HF_HUB_OFFLINE or constants.HF_HUB_OFFLINE)


def offline_switch() -> str:
    """The switch that is set, as it was typed."""
    from huggingface_hub import constants

    for name in _SWITCHES:
        if os.environ.get(name, "").upper() in constants.ENV_VARS_TRUE_VALUES:
            return f"{name}={os.environ[name]}"
    return "offline mode"


def cache_folder(kind: Kind, repository: str) -> Path:
    """Where the libraries keep a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type=kind)
    return Path(constants.HF_HUB_CACHE).expanduser() / name


def local_commit(kind: Kind, repository: str, revision: str) -> str | None:
    """The commit of a revision as far as this machine knows; no request."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        text = (cache_folder(kind, repository) / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def ask_commit(kind: Kind, repository: str, revision: str) -> str:
    """The commit of a revision as the hub says; the libraries' cache remembers it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    said = repository_info(kind, repository, revision).sha
    fetch = partial(hf_hub_download, repository, _PROBES[kind], repo_type=kind, revision=revision)
    try:
        with quiet():
            return Path(patiently(fetch)).parent.name  # snapshots/<commit>/<file>
    except EntryNotFoundError:
        return local_commit(kind, repository, revision) or str(said)


def repository_info(kind: Kind, repository: str, revision: str) -> Any:
    """What the hub says of one revision: ``sha``, and ``siblings`` with their sizes."""
    from huggingface_hub import HfApi, constants

    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    wait = constants.HF_HUB_ETAG_TIMEOUT
    return patiently(partial(ask, repository, revision=revision, files_metadata=True, timeout=wait))


def patiently(ask: Callable[[], _T]) -> _T:
    """Ask again while the hub is busy or slow; a hub that cannot be reached fails at once.

    huggingface_hub does so for files, not for questions about repositories.
    """
    for usual in WAITS:
        try:
            return ask()
        except Exception as error:
            wait = _wait(error, usual)
            if wait is None:
                raise
        time.sleep(wait)
    return ask()


def _wait(error: BaseException, usual: float) -> float | None:
    """Seconds after which to ask again; None: this will not pass."""
    for cause in chain(error):
        response = getattr(cause, "response", None)
        if getattr(response, "status_code", None) in BUSY:
            asked = str(response.headers.get("Retry-After", ""))
            wait = float(asked) if asked.isdecimal() else usual
            return wait if wait <= LONGEST else None
        if type(cause).__name__ == "ReadTimeout":  # of httpx, whichever the library brings
            return usual
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def quiet(library: str = "huggingface_hub.utils") -> Iterator[None]:
    """Without a library's log lines: what matters of them is said in our own.

    Bars are the business of who started the program.
    """
    logging = importlib.import_module(f"{library}.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
