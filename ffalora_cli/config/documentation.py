"""Documents a key: its type, the values it may take, its unit, the schema's comment."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ffalora_cli.config import schema
from ffalora_cli.config.build import inner_type
from ffalora_cli.config.schema import Config

UNITS: Mapping[str, str] = {
    "task.max_length": "tokens",
    "task.holdout_fraction": "share of a class",
    "adapter.rank": "columns",
    "adapter.dropout": "probability",
    "model.dropout": "probability",
    "head.scale": "standard deviation",
    "model.head_scale": "standard deviation",
    "model.max_grad_norm": "norm",
    "partition.min_client_size": "rows",
    "partition.max_tries": "draws",
    "partition.shards_per_client": "shards",
    "privacy.delta": "probability",
    "privacy.noise_multiplier": "standard deviation in max_grad_norm",
    "privacy.max_grad_norm": "norm",
    "privacy.clip_quantile": "share of examples",
    "privacy.clip_count_noise": "standard deviation in examples",
    "privacy.participation_quantile": "probability",
    "privacy.trials": "runs",
    "federation.num_clients": "clients",
    "federation.cohort_size": "clients",
    "federation.rounds": "rounds",
    "federation.local_steps": "steps",
    "federation.local_batch_size": "rows",
    "federation.assumed_bad": "clients",
    "federation.max_upload_norm": "norm",
    "federation.clip_gradients": "norm",
    "federation.min_clients": "uploads",
    "federation.dropout_rate": "probability",
    "federation.straggler_rate": "probability",
    "federation.budget_megabytes": "MB of 10^6 bytes",
    "federation.eval_every": "rounds",
    "federation.warmup_rounds": "rounds",
    "federation.lr_end": "share of local_lr",
    "engine.max_tokens": "tokens",
    "engine.threads": "threads",
}
"""Of the values that have one."""

_WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number", Any: "anything"}


@dataclass(frozen=True)
class KeyType:
    """What a value of one key may be."""

    words: str  # "whole number, or null"
    allowed: tuple[str, ...]  # of a closed set; empty for an open one
    comment: str  # of the schema


def key_type(key: str) -> KeyType:
    """Type and comment of a dotted, known key; keys inside an open mapping have the mapping's."""
    expected: Any = Config
    comment = ""
    for part in key.split("."):
        expected = inner_type(expected)
        if dataclasses.is_dataclass(expected):
            comment = _comments(expected.__name__).get(part, "")  # type: ignore[union-attr]
            expected = get_type_hints(expected)[part]
        elif get_origin(expected) is dict:
            expected = get_args(expected)[1]
    return KeyType(_words(expected), _allowed(expected), comment)


def _words(expected: Any) -> str:
    origin, arguments = get_origin(expected), get_args(expected)
    if inner_type(expected) is not expected:
        several = [_words(a) for a in arguments if a is not type(None)]
        return f"{' or '.join(several)}, or null"
    if origin is Literal:
        return "one of a set" if len(arguments) > 1 else str(arguments[0])
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"mapping to {_words(arguments[1])}"
    if dataclasses.is_dataclass(expected):
        return "section"
    return _WORDS[expected]


def _allowed(expected: Any) -> tuple[str, ...]:
    if (inner := inner_type(expected)) is not expected:
        found = _allowed(inner)
        return (*found, "null") if found else ()
    if get_origin(expected) is Literal:
        return tuple(str(value) for value in get_args(expected))
    return ("true", "false") if expected is bool else ()


@cache
def _comments(name: str) -> dict[str, str]:
    """Comments behind the fields of one dataclass of the schema, and its docstring's first line."""
    source = inspect.getsource(schema)
    lines = source.splitlines()
    (found,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    comments = {}
    for item in found.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            last = lines[(item.end_lineno or item.lineno) - 1][item.end_col_offset or 0 :]
            comments[item.target.id] = last.partition("#")[2].strip()
    return comments
