"""Explains a failure of the hub in one line, with the remedy that fits.

The libraries wrap the cause several times; the whole chain is looked at, innermost cause first.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, brief, listed, one_line
from ffalora_cli.hub.access import BUSY, LONGEST, Kind, chain, is_offline, offline_switch

_LOGIN = "hf auth login (or set HF_TOKEN)"
_LATER = "the same command tries again"
_BROKEN = ("RemoteProtocolError", "ReadError", "IncompleteRead", "ChunkedEncodingError")


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    kind: Kind  # of the repository
    repository: str  # ``owner/name``
    revision: str  # as typed; ``main`` where nothing was
    key: str  # configuration key of the revision
    instead: str  # what to use in place of a repository that cannot be had
    configuration: str | None = None  # of a data set
    named: str = ""  # how it was asked for; every message begins with it

    def error(self, said: str) -> ConfigError:
        """What is wrong with it and what to do, as one line."""
        return ConfigError(f"{self.named}: {said}")


@contextmanager
def explained(wanted: Wanted) -> Iterator[None]:
    """What a dozen libraries raise, all meaning "not to be had", as one line of ours."""
    try:
        yield
    except Exception as error:
        if of_ours(error):
            raise
        raise wanted.error(reason(error, wanted)) from error


def reason(error: BaseException, wanted: Wanted) -> str:
    """``what is wrong; what to do``, on one line and whole."""
    causes = list(chain(error))[::-1]
    for kind in (_of_disk, _of_repository, _of_status, _of_network, _of_data):
        for cause in causes:
            if (said := kind(cause, wanted)) is not None:
                return said
    if is_offline(wanted.kind):
        return absent(wanted, "it")
    text = one_line(str(error)).rstrip(". ") or "no reason given"
    return f"{type(error).__name__}: {text}; {wanted.instead}"


def of_ours(error: Exception) -> bool:
    """Whether our own code raised it: a finished message, or a bug, which is nobody's damage."""
    if isinstance(error, ConfigError):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    name = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return name.startswith("ffalora_cli.") and not isinstance(error, OSError)


def absent(wanted: Wanted, what: str) -> str:
    """The reason where a switch forbids to ask."""
    return (
        f"{what} is not in the local cache and {offline_switch()} forbids to fetch it; "
        f"unset that, or {wanted.instead}"
    )


def _of_disk(cause: BaseException, wanted: Wanted) -> str | None:
    number = getattr(cause, "errno", None)
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return None
    from huggingface_hub import constants

    named = getattr(cause, "filename", None)
    folder = Path(named).parent if isinstance(named, str) else Path(constants.HF_HOME)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left in {folder}; free some, or set HF_HOME to a folder with room"
    return f"{folder} cannot be written; set HF_HOME to a folder you can write to"


def _of_repository(cause: BaseException, wanted: Wanted) -> str | None:
    from huggingface_hub import errors

    if isinstance(cause, errors.GatedRepoError):
        return f"gated; accept its terms at {_page(wanted)}, then {_LOGIN}"
    if isinstance(cause, errors.RevisionNotFoundError):
        what = f"it has no revision {brief(wanted.revision)}"
        return f"{what}; give a branch, tag or commit it has ({wanted.key})"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"no such repository, or a private one; correct its name, or {_LOGIN}"
    return None


def _of_status(cause: BaseException, wanted: Wanted) -> str | None:
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refused access ({status}); {_LOGIN}, with a token that may read it"
    if status in BUSY:
        asked = str(cause.response.headers.get("Retry-After", ""))  # type: ignore[attr-defined]
        long = asked.isdecimal() and float(asked) > LONGEST
        again = f", {asked} s from now" if long else ""
        return f"the hub answered {status} again and again; {_LATER}{again}"
    return f"the hub answered {status} for {_page(wanted)}; {wanted.instead}" if status else None


def _page(wanted: Wanted) -> str:
    from huggingface_hub import constants

    kind = "" if wanted.kind == "model" else "datasets/"
    return f"{constants.ENDPOINT}/{kind}{wanted.repository}"


def _of_network(cause: BaseException, wanted: Wanted) -> str | None:
    from huggingface_hub import constants

    name, text = type(cause).__name__, one_line(str(cause)).rstrip(".")
    if name in _BROKEN or "Consistency check failed" in text:
        return f"the download broke off; {_LATER}"
    if name in ("ReadTimeout", "PoolTimeout", "WriteTimeout"):
        seconds = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        return (
            f"the hub did not answer within {seconds} s; {_LATER}, with more patience under "
            "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT"
        )
    if name in ("ConnectError", "ConnectTimeout", "ProxyError", "ConnectionRefusedError"):
        return (
            f"{constants.ENDPOINT} cannot be reached ({text or name}); check the network, or set "
            "HF_HUB_OFFLINE=1 to use what is cached"
        )
    return None


def _of_data(cause: BaseException, wanted: Wanted) -> str | None:
    """What `datasets` says of a repository that is there."""
    text = str(cause)
    if "scripts are no longer supported" in text:
        return (
            "a script, which is never run; the hub's own Parquet copy is "
            f"task.hub_path={wanted.repository}@refs/convert/parquet"
        )
    found = re.search(r"BuilderConfig '.*' not found\. Available: \[(.*)\]", text)
    if found:
        names = re.findall(r"'([^']*)'", found[1])
        return f"no configuration {brief(wanted.configuration)}; task.hub_name is {listed(names)}"
    missing = re.search(r"Config name is missing\.\s*Please pick one among[^:]*: \[(.*?)\]", text)
    if missing:
        names = re.findall(r"'([^']*)'", missing[1])
        return f"it has several configurations; set task.hub_name to one of {listed(names)}"
    return None
