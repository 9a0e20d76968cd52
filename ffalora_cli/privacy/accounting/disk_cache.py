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
from collections.abc import Callable, Mapping
from pathlib import Path

Question = Mapping[str, str | float | int | list[int]]
REVISION = 2  # of how answers are computed; older files are no answers


def folder() -> Path:
    """Where privacy numbers are kept; read from the environment at each call."""
    root = os.environ.get("FFALORA_CACHE")
    base = Path(root).expanduser() if root else Path.home() / ".cache" / "ffalora"
    return base / "privacy"


def load(question: Question) -> float | None:
    """The stored number (the same bits that were stored), or None."""
    answer = _load(question)
    return answer if isinstance(answer, float) else None


def answered(question: Question, answer: Callable[[], float]) -> float:
    """The stored number, or the one that is computed now and kept."""
    known = load(question)
    if known is None:
        known = answer()
        store(question, known)
    return known


def load_list(question: Question) -> list[float] | None:
    """The stored numbers, or None."""
    answer = _load(question)
    if isinstance(answer, list) and all(isinstance(value, float) for value in answer):
        return answer
    return None


def _load(question: Question) -> object:
    try:
        found = json.loads(_file(question).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("question") != dict(question):
        return None
    return found.get("answer")


def store(question: Question, answer: float | list[float]) -> None:
    """Keep an answer: temporary file, then rename, so that readers never see half of it."""
    target = _file(question)
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({"question": dict(question), "answer": answer}, stream)
            os.replace(name, target)
        except OSError:
            os.unlink(name)


def _file(question: Question) -> Path:
    canonical = json.dumps({"revision": REVISION, **question}, sort_keys=True)
    return folder() / f"{hashlib.sha256(canonical.encode()).hexdigest()[:32]}.json"
