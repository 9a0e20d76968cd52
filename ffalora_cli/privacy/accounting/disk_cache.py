"""Keeps numbers that take seconds: one small JSON file a number, written atomically.

The folder is ``$FFALORA_CACHE/privacy`` or ``~/.cache/ffalora/privacy``. A file states the question
it answers, so a damaged or foreign file is simply not an answer. A folder that cannot be written
costs time, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ffalora_cli.content import cache_folder

Question = dict[str, str | float | int | list[int]]
_Answer = TypeVar("_Answer", float, list[float])
REVISION = 2  # of how answers are computed; older files are no answers


def folder() -> Path:
    """Where privacy numbers are kept; read from the environment at each call."""
    return cache_folder() / "privacy"


def load(question: Question) -> Any:
    """The stored answer (the same bits that were stored), or None."""
    try:
        found = json.loads(_file(question).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.get("question") == question
    answer = found.get("answer") if known else None
    values = answer if isinstance(answer, list) else [answer]
    return answer if all(isinstance(value, float) for value in values) else None


def answered(question: Question, answer: Callable[[], _Answer]) -> _Answer:
    """The stored number or numbers, or what is computed now and kept."""
    known: _Answer | None = load(question)
    if known is None:
        known = answer()
        store(question, known)
    return known


def store(question: Question, answer: float | list[float]) -> None:
    """Keep an answer: temporary file, then rename, so that readers never see half of it."""
    target = _file(question)
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({"question": question, "answer": answer}, stream)
            os.replace(name, target)
        except OSError:
            os.unlink(name)


def _file(question: Question) -> Path:
    canonical = json.dumps({"revision": REVISION, **question}, sort_keys=True)
    return folder() / f"{hashlib.sha256(canonical.encode()).hexdigest()[:32]}.json"
