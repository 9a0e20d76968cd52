"""Names a run by what was typed and its seed: ``sst2-ffa_lora-alpha0.3-eps6-s1``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.build import leaf_keys
from ffalora_cli.config.schema import AUTOMATIC, Config
from ffalora_cli.config.signature import in_identity

if TYPE_CHECKING:
    from ffalora_cli.compose.overrides import Setting

_LONGEST, _LONGEST_PART = 60, 24  # characters
_SHORT = {
    "privacy.epsilon_target": "eps",
    "privacy.noise_multiplier": "noise",
    "privacy.max_grad_norm": "clip",
    "partition.dirichlet_alpha": "alpha",
    "adapter.alpha": "lora_alpha",
    "federation.local_lr": "lr",
    "federation.local_steps": "steps",
    "federation.local_batch_size": "batch",
    "federation.num_clients": "clients",
    "federation.cohort_size": "cohort",
}
_SAID = ("task.name", "method.name", "seed")  # the name says them anyway
_THERE = ("task", "method", "tracking")  # options of groups that are said, or no part of a run


def run_name(config: Config, settings: Sequence[Setting]) -> str:
    """The name of a run that was given none.

    Task and method come first and the seed last. What is typed between them is left out where it
    changes no number, and from the longest word on where all is longer than 60 characters: a
    signature follows in a folder's name.

    Args:
        config: of the run.
        settings: as typed.
    """
    first = [safe(config.task.name), safe(config.method.name)]
    return _fitting(first, _words(settings), [f"s{config.seed}"])


def fork_name(name: str, settings: Sequence[Setting]) -> str:
    """The name of a run that begins with another one's rounds, and of what was changed there."""
    seeds = [f"s{one.value}" for one in settings if one.key == "seed"]
    return _fitting([name], _words(settings), seeds)


def _fitting(first: list[str], typed: list[str], last: list[str]) -> str:
    while typed and len("-".join([*first, *typed, *last])) > _LONGEST:
        typed.remove(max(reversed(typed), key=len))
    return "-".join([*first, *typed, *last])


def _words(settings: Sequence[Setting]) -> list[str]:
    """One for each setting that the name does not say anyway: options, then keys."""
    options = [
        f"no_{one.key}" if one.value == "none" else str(one.value)
        for one in settings
        if one.chooses and one.key not in _THERE
    ]
    keys = [
        _word(one.key, one.value) for one in settings if not one.chooses and in_identity(one.key)
    ]
    words = [safe(word)[:_LONGEST_PART].strip("._-") for word in (*options, *keys) if word]
    return [word for word in words if word and word != "null"]


def short_key(key: str) -> str:
    """``alpha``, ``eps``, ``rank``; with its section where several keys end alike."""
    end = key.rsplit(".", 1)[-1]
    alone = sum(other.rsplit(".", 1)[-1] == end for other in leaf_keys()) == 1
    return _SHORT.get(key, end if alone else "_".join(key.split(".")[-2:]))


def safe(text: str) -> str:
    """The text with letters that fit the name of a folder and of a run in a tracker."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_-") or "_"


def named(config: Config) -> bool:
    """Whether the run has a name of its own."""
    return config.name != AUTOMATIC


def _word(key: str, value: Any) -> str:
    """``rank4``, ``targets_value``, ``eval_clients``; empty for what the name says anyway."""
    if key in _SAID:
        return ""
    short = short_key(key)
    if isinstance(value, bool):
        return short if value else f"no_{short}"
    if isinstance(value, int | float):
        return f"{short}{'_' * short[-1].isdigit()}{value:g}"
    if value is None:
        return f"no_{short}"
    return f"{short}_{str(value).rpartition('/')[2]}"  # of a path its last part
