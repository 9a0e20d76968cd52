"""Says which process of a run this one is, by what torchrun puts into the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Number of this process, from 0, and of all of them."""

    rank: int
    world: int

    @staticmethod
    def of(environment: Mapping[str, str]) -> Place:
        """Of ``RANK`` and ``WORLD_SIZE``; where one is missing this process is alone.

        Raises:
            ConfigError: they are no numbers, or the rank is none of the world's.
        """
        rank, world = environment.get("RANK"), environment.get("WORLD_SIZE")
        if rank is None or world is None:
            return Place(0, 1)
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise ConfigError(
                f"RANK={rank} and WORLD_SIZE={world} in the environment name no process of a run; "
                "unset both, or start with torchrun"
            )
        return Place(int(rank), int(world))

    def check_alone(self, verb: str) -> None:
        """Refuse what several processes would do several times."""
        if self.world > 1:
            raise ConfigError(
                f"ffalora {verb} works in one process, and WORLD_SIZE={self.world} says that there "
                "are more; start it without torchrun (run and resume are what is shared)"
            )
