"""Computes a run's identity: a hash of what can change its results in its configuration.

Left out, because the same numbers come out either way:

- ``tracking``, ``paths``, ``model.cache`` and ``name``: where records and trackers are and what
  they are called;
- ``engine.device``, ``engine.max_tokens``, ``engine.threads``, ``engine.share_secret``,
  ``engine.gradient_checkpointing``, ``engine.shard``: how the work is cut and where it is done
  (equal within rounding, and what was used is recorded in the manifest);
- ``model.local_lr``, ``model.max_grad_norm``, ``model.head_scale``, ``model.tuned``:
  recommendations, and where they were found. The values a run really uses stand in ``federation``,
  ``privacy`` and ``head``, so retuning a recommendation does not rename runs that never used it;
- ``privacy.trials``, ``privacy.trial_distribution``, ``privacy.trial_runs``: they change what the
  statement says about a search over runs, not the run;
- ``privacy.budget_guard``: it decides whether a run starts, not what comes out of it;
- ``federation.budget_megabytes``: plans alone read it;
- ``task.license``, and ``task.folder``: the rows' content is compared, wherever they lie.

A key that is younger than recorded runs is left out at the value that says what those did, so that
they keep their identity.

``federation.eval_every``, ``eval_clients`` and ``evaluation.max_examples`` stay in although they
do not change the model: they decide which numbers a run reports, so a run evaluated more often, or
on more rows, is a different answer, and a finished coarse one must not be returned for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_IGNORED = frozenset(
    {
        "name",
        "tracking",
        "paths",
        "engine.device",
        "engine.max_tokens",
        "engine.threads",
        "engine.share_secret",
        "engine.gradient_checkpointing",
        "engine.shard",
        "model.local_lr",
        "model.max_grad_norm",
        "model.head_scale",
        "model.tuned",
        "federation.budget_megabytes",
        "model.cache",
        "privacy.budget_guard",
        "privacy.trials",
        "privacy.trial_distribution",
        "privacy.trial_runs",
        "task.license",
        "task.folder",
    }
)

_UNSAID: Mapping[str, Any] = {
    "diagnostics": "none",
    "adapter.form": "lora",
    "adapter.layers": None,
    "task.kind": "text_classification",
    "task.prompt": None,
    "task.completion": None,
    "task.messages_column": None,
    "task.template_version": 1,
    "task.loss_reduction": "mean",
    "federation.lr_schedule": "constant",
    "federation.warmup_rounds": 0,
    "federation.lr_end": 0.0,
    "task.long_rows": "cut",
    "task.generate": None,
    "task.image_column": None,
    "task.image_size": None,
    "task.target_range": [],
    "federation.clip_gradients": None,
    "model.dropout": None,
    "privacy.participation_quantile": None,
}
"""Younger keys, and the value at which each is left out."""
_YOUNG_PATTERNS = frozenset({"value"})
"""Patterns that ``model.targets`` has had since; left out where another one is used."""

_YOUNG_NAMES = tuple(
    f"|{names}"
    for names in (
        "attn.q|in_proj|q_proj|qkv_proj|c_attn|query_key_value",
        "attn.k|in_proj|k_proj|qkv_proj|c_attn|query_key_value",
        "attn.v|in_proj|v_proj|qkv_proj|c_attn|query_key_value",
        "attn.o|self_attention.dense|o_proj|out_proj|self_attn.dense|attn.c_proj|attention.dense",
        "fc_in|gate_proj|up_proj|gate_up_proj|fc1|c_fc|dense_h_to_4h",
        "fc_out|down_proj|fc2|mlp.c_proj|dense_4h_to_h",
    )
)
"""Ends of patterns of ``model=auto``: names of more layers, of which no older run had any."""


def signature(resolved: Mapping[str, Any]) -> str:
    """Twelve hex digits of BLAKE2b over the canonical JSON of what can change results.

    Args:
        resolved: ``build.to_plain`` of a configuration, so that ``8`` and ``8.0`` are one value.

    Returns:
        The same digits for the same experiment, whatever the order of its keys.
    """
    return digest(relevant(resolved))


def digest(value: Any) -> str:
    """Twelve hex digits of BLAKE2b over the canonical JSON of a value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()


def relevant(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what cannot change results."""
    kept = _relevant(resolved, "")
    for pattern in _YOUNG_PATTERNS - {resolved["adapter"]["targets"]}:
        kept["model"]["targets"].pop(pattern, None)
    for pattern, names in kept["model"]["targets"].items():
        kept["model"]["targets"][pattern] = [_without_young(name) for name in names]
    return kept


def _without_young(name: str) -> str:
    return next((name.removesuffix(end) for end in _YOUNG_NAMES if name.endswith(end)), name)


def in_identity(key: str) -> bool:
    """Whether a run with another value of this dotted key is another run."""
    return not any(key == one or key.startswith(f"{one}.") for one in _IGNORED)


def _relevant(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The section without what is left out; mappings are walked, everything else is kept."""
    kept: dict[str, Any] = {}
    for name, value in section.items():
        key = f"{prefix}{name}"
        if key not in _IGNORED and (key not in _UNSAID or value != _UNSAID[key]):
            kept[name] = _relevant(value, f"{key}.") if isinstance(value, Mapping) else value
    return kept
