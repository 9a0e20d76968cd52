"""Experiments that are sweeps, as one of their runs."""

from __future__ import annotations

from importlib import resources

import yaml


def one_job(experiment: str) -> list[str]:
    """An experiment as the overrides of a single run: of its grid, the last value of every key."""
    file = resources.files("ffalora_cli.configs").joinpath("experiment", f"{experiment}.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    grid = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    words = [f"experiment={experiment}"]
    for key, values in grid.items():
        last = str(values).split(",")[-1].strip()
        count = last.removeprefix("range(").removesuffix(")")
        words.append(f"{key}={int(count) - 1}" if last.startswith("range(") else f"{key}={last}")
    return words
