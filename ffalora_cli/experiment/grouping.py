"""Which jobs can share a frozen model, rows and shapes, and why a job is left by itself."""

from __future__ import annotations

from collections.abc import Sequence

from ffalora_cli.config.schema import Config


def groups(configs: Sequence[Config], signatures: Sequence[str], most: int) -> list[list[int]]:
    """Places of jobs that can be trained together, at most so many; each job is in one group.

    The same job asked for twice is in two groups: the second finds what the first has done.
    """
    found: list[list[int]] = []
    for index, config in enumerate(configs):
        for group in found:
            same = signatures[index] in [signatures[i] for i in group]
            if len(group) < most and not same and not reasons(config, configs[group[0]]):
                group.append(index)
                break
        else:
            found.append([index])
    return found


def reasons(one: Config, other: Config) -> list[str]:
    """Why two jobs cannot be trained together, as keys; empty when they can.

    Seeds, learning rates, clips, budgets, partitions, methods and schedules may differ.
    """
    ours, theirs = _shared(one), _shared(other)
    keys = [key for key in ours if ours[key] != theirs[key]]
    alone = [] if one.engine.name == other.engine.name == "stacked" else ["engine.name"]
    if one.adapter.dropout or other.adapter.dropout:
        alone.append("adapter.dropout")  # masks are keyed by the run
    return list(dict.fromkeys([*keys, *alone]))


def note(index: int, configs: Sequence[Config]) -> str:
    """One line for a job that is trained by itself although there are others."""
    others = [reasons(configs[index], c) for i, c in enumerate(configs) if i != index]
    keys = min(others, key=len) or ["the same job"]
    return f"trained by itself, not together with the other jobs, because of: {', '.join(keys)}"


def _shared(config: Config) -> dict[str, object]:
    model, adapter, engine = config.model, config.adapter, config.engine
    return {
        "task": config.task,
        "model.source": (model.source, model.revision, model.random_weights),
        "adapter.targets": model.targets[adapter.targets],
        "adapter.rank": adapter.rank,
        "adapter.alpha": adapter.alpha,
        "engine.precision": engine.precision,
        "engine.device": engine.device,
        "engine.threads": engine.threads,
        "paths.data": config.paths.data,
    }
