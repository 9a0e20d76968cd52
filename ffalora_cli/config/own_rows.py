"""Answers a word that names a file of rows where a task, a key or a folder belongs."""

from __future__ import annotations

import os
import shlex

from ffalora_cli.config.errors import ConfigError, brief

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv", ".arrow")
"""Of files that are read as rows."""
KEYS = frozenset({"data", "dataset", "data_path", "data_file", "file", "files", "path", "csv"})
"""What other programs call the key."""


def refuse_rows(typed: str, word: str) -> None:
    """Refuse what names a file of rows, or would with an ending, and say what to do with it.

    Args:
        typed: the override, verb or option, whole.
        word: the part of it that could be a file.

    Raises:
        ConfigError: it is one.
    """
    bare = word.strip("'\"")
    if bare.lower().endswith(ENDINGS):
        raise _instead(typed, "is a file of rows, not a task", bare)
    if bare and "\0" not in bare and len(bare) < 200:
        for ending in ENDINGS:
            if os.path.isfile(bare + ending):
                raise _instead(typed, f"is not there, but {bare}{ending} lies here", bare + ending)


def _instead(typed: str, what: str, file: str) -> ConfigError:
    command = f"ffalora new task {shlex.quote(file)}"
    return ConfigError(f"{brief(typed, 60)[1:-1]} {what}; make it a task with: {command}")
