"""Collects a run's provenance: versions, git, machine, fingerprints, seeds, command."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import ffalora_cli
from ffalora_cli.config.schema import Config
from ffalora_cli.records.run_directory import SCHEMA_VERSION

PACKAGES = (
    "torch", "transformers", "tokenizers", "datasets", "opacus", "dp-accounting", "numpy", "scipy",
    "safetensors", "pyarrow", "hydra-core", "omegaconf", "wandb",
)  # fmt: skip
"""Distributions whose version can change a number, or how it was recorded."""

NUMERICS = 2
"""Which arithmetic makes a run's bits; one more whenever a step's sums or noise get others.

Runs that do not record it are 1. A run that was begun by another goes on as a fork only.
"""


def build_manifest(
    *,
    id: str,
    signature: str,
    command: Sequence[str],
    device: str,
    threads: int,
    seeds: Mapping[str, int],
    data_fingerprints: Mapping[str, str],
    model_fingerprint: str,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything ``manifest.json`` says.

    Args:
        id: the run's id, its folder's name.
        signature: of its config.
        command: the command line, as the user typed it.
        device: what was trained on, e.g. ``cpu`` or ``cuda:0 NVIDIA H100``.
        threads: torch's threads.
        seeds: by purpose (``run``, ``partition``, ``adapter``, ``head``).
        data_fingerprints: by split.
        model_fingerprint: of the frozen weights.
        extra: further facts, e.g. the resolved ``max_tokens``.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "id": id,
        "signature": signature,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "seeds": dict(seeds),
        "data_fingerprints": dict(data_fingerprints),
        "model_fingerprint": model_fingerprint,
        "device": device,
        "threads": threads,
        **environment(),
        **(extra or {}),
    }


def recorded_commits(config: Config, manifest: Mapping[str, Any]) -> Config:
    """The config of a run with the hub commits that it was made from, wherever main is by now.

    What an older run did not record stays as it was typed.
    """
    model, task = config.model, config.task
    commit = (manifest.get("model") or {}).get("commit")
    if commit:
        model = replace(model, revision=str(commit))
    origin = str(((manifest.get("data") or {}).get("train") or {}).get("origin", ""))
    if origin.startswith("hub:") and task.hub_path is not None:
        repository, used = task.hub_path.partition("@")[0], origin.rpartition("@")[2]
        task = replace(task, hub_path=f"{repository}@{used}")
    return replace(config, model=model, task=task)


def environment() -> dict[str, Any]:
    """Versions, git state and machine, without importing what is not yet imported.

    Neither host name, user name nor environment variables: a manifest is made to be shared.
    """
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "ffalora": ffalora_cli.__version__,
        "numerics": NUMERICS,
        "python": platform.python_version(),
        "versions": versions,
        "git": git_state(Path(ffalora_cli.__file__).parent),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
    }


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit of the checkout that tracks this package, and whether tracked files were changed.

    Returns:
        ``{"commit", "dirty"}``, or None without git, outside a checkout, and for a package that
        merely lies inside one (a virtual environment in someone's own repository).
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ":/")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # Without optional locks a status beside a working editor or another run writes nothing.
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def code_of(manifest: Mapping[str, Any]) -> str:
    """Version and commit that made a run, and whether files were changed since."""
    git, code = manifest.get("git"), f"ffalora {manifest.get('ffalora')}"
    if git:
        code += f" at {str(git['commit'])[:12]}{' with local changes' if git['dirty'] else ''}"
    return code


def joined(values: Mapping[str, Any] | None) -> str:
    """``run 0, data 1``: names and values in one line."""
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())
