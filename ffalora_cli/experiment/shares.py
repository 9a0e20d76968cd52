"""Says what cannot be run while the frozen weights lie in shares on several processes."""

from __future__ import annotations

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.methods.base import Method


def check_shares(config: Config, method: Method, world: int) -> None:
    """Refuse ``engine.shard=true`` where ranks could not keep step, or frozen weights change."""
    if world < 2:
        raise ConfigError(
            "engine.shard=true: one process cannot share its weights with others; start several, "
            "as in torchrun --nproc-per-node=2 -m ffalora_cli run ..., or use engine.shard=false"
        )
    if method.merges:
        raise ConfigError(
            f"engine.shard=true: method={method.name} adds to the frozen weights, of which each "
            "process holds a part; use a method whose weights stay as they are, such as ffa_lora"
        )
    if config.task.generate is not None:
        raise ConfigError(
            "engine.shard=true: generated answers end at different steps on each process, and "
            "every step needs all of them; use task.generate=null"
        )
