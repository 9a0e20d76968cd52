"""Data sets of the Hugging Face hub: what this machine has prepared before, else a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.readers import Table, from_arrow


def cached(task: TaskConfig) -> Any | None:
    """A data set this machine has prepared before; no request is made."""
    from datasets.packaged_modules.cache.cache import Cache

    repository = str(task.hub_path).partition("@")[0]
    try:
        return Cache(
            repo_id=repository,
            dataset_name=repository.rpartition("/")[2],
            config_name=task.hub_name,
            version="auto",
            hash="auto",
        )
    except (ValueError, OSError, KeyError):  # not cached, or not readable: ask the hub
        return None


def download(task: TaskConfig, stem: str) -> Any:
    """Download and prepare, after one short request: `datasets` retries for half a minute."""
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    repository, _, revision = str(task.hub_path).partition("@")
    try:
        commit = HfApi().dataset_info(repository, revision=revision or None, timeout=5).sha
        builder = load_dataset_builder(repository, task.hub_name, revision=commit)
        builder.download_and_prepare()
    except Exception as error:  # a dozen libraries' exceptions, all meaning "not to be had"
        reason = type(error).__name__
        raise ConfigError(
            f"task={task.name}: {repository} is neither in the local Hugging Face cache nor to be "
            f"had from the hub ({reason}); set paths.data=FOLDER with {task.name}/{stem}.parquet"
        ) from error
    return builder


def read(builder: Any, stem: str, origin: str, columns: Sequence[str]) -> Table:
    """Columns of one split; class labels by name.

    Raises:
        ConfigError: no such split or column.
    """
    if stem not in builder.info.splits:
        raise choose(f"split of {origin}", stem, builder.info.splits)
    return from_arrow(builder.as_dataset(split=stem).data.table, columns, origin)
