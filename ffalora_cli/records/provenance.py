"""What a mirror is told about where a run's numbers come from: enough to compare it with others.

It travels in the tracker's config under the key ``KEY`` and is read back as a manifest and a
privacy statement (``report/wandb_runs.py``). No path, no command, no client and, in a private run,
no fingerprint of training rows: a hash of them is computed without noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

KEY = "ffalora"
_FACTS = ("signature", "created", "ffalora", "versions", "device", "threads", "max_tokens")
_SIZES = ("trainable_parameters", "frozen_parameters", "model_fingerprint", "seeds", "forked_from")
_CLAIM = (
    "schema", "sentence", "unit", "relation", "sampling", "accountant", "library", "delta",
    "max_grad_norm", "calibration", "epsilon_target", "epsilon_max", "num_clients",
)  # fmt: skip


def provenance(
    manifest: Mapping[str, Any], statement: Mapping[str, Any] | None, private: bool
) -> dict[str, Any]:
    """Facts of a manifest and of a planned privacy statement that may leave the machine.

    Args:
        manifest: as ``manifest.json`` has it.
        statement: as ``privacy.json`` has it; None without privacy.
        private: whether the run promises privacy.

    Returns:
        ``{"manifest": ..., "privacy": ...}`` with the keys they have on disk.
    """
    data = manifest.get("data") or {}
    evals = {name: _fingerprint(rows) for name, rows in (data.get("evals") or {}).items()}
    prints = dict(manifest.get("data_fingerprints") or {})
    facts = {key: manifest[key] for key in (*_FACTS, *_SIZES) if key in manifest}
    facts["data"] = {"evals": evals, **{k: data[k] for k in ("eval_on", "version") if k in data}}
    if private:
        prints.pop("train", None)
    else:
        clients = ((manifest.get("identity") or {}).get("data") or {}).get("clients")
        facts["identity"] = {"data": {"clients": clients}}
    facts["data_fingerprints"] = prints
    claim = {key: statement[key] for key in _CLAIM if key in statement} if statement else None
    return {"manifest": facts, "privacy": claim}


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config without the section ``paths``; a local model goes by its folder's name.

    Paths say more about the user's machine than about the run.
    """
    kept = {key: value for key, value in config.items() if key != "paths"}
    source = str((config.get("model") or {}).get("source") or "")
    if source.startswith(("/", "~", ".", "\\")) or ":\\" in source[:3]:
        kept["model"] = {**config["model"], "source": PurePath(source).name}
    return kept


def _fingerprint(rows: Any) -> dict[str, Any]:
    found = rows.get("fingerprint") if isinstance(rows, Mapping) else None
    return {} if found is None else {"fingerprint": found}
