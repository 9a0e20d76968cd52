"""Draws noise of the real client many times: rounds of empty batches release noise alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ffalora_cli.audit.mechanism.observe import Watched
from ffalora_cli.audit.mechanism.surrogate import WIDTH, Subject
from ffalora_cli.privacy.mechanism import example_level
from ffalora_cli.privacy.planning.plan import PrivacyPlan

STEPS = 40  # local steps of a round of noise


@dataclass(frozen=True)
class Draws:
    """Noise in units of what the plan claims (noise multiplier times clip): standard normal.

    Attributes:
        names: of the tensors.
        sizes: elements of each.
        first: the first ``WIDTH`` elements of every draw, fp32
            ``[rounds, steps, clients, tensors, WIDTH]``.
        squares: sum of squares of every whole draw, float64 ``[rounds, steps, clients, tensors]``.
        charged: steps the ledger charged each client ``[clients]``.
        asked: local steps each client was asked to take.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    first: np.ndarray
    squares: np.ndarray
    charged: np.ndarray
    asked: int

    @property
    def pairs(self) -> int:
        """Draws of each tensor, over all rounds, steps and clients."""
        return int(np.prod(self.squares.shape[:3]))


def endless(plan: PrivacyPlan, **changes: Any) -> PrivacyPlan:
    """The plan without its end (an audit takes more steps than a run), and with other changes."""
    forever = np.full(plan.num_clients, 2**40, dtype=np.int64)
    return replace(plan, planned_steps=forever, planned_rounds=forever, **changes)


def draw_empty(subject: Subject, pairs: int) -> Draws:
    """At least ``pairs`` draws of every tensor, from empty batches."""
    clients = subject.plan.num_clients
    plan = endless(subject.plan, sample_rate=np.zeros(clients))
    simulation = subject.simulation(plan, local_steps=STEPS)
    watched = Watched(simulation)
    return _collect(subject, watched, -(-pairs // (STEPS * clients)))


def draw_full(subject: Subject, rounds: int, steps: int) -> Draws:
    """Draws of steps with ordinary batches, in several micro-batches, whose gradients are zero."""
    simulation = subject.simulation(endless(subject.plan), local_steps=steps)
    size = sum(spec.size for spec in simulation.trainable(1))
    watched = Watched(simulation, craft=lambda slots, rows: torch.zeros(len(rows), size))
    return _collect(subject, watched, rounds)


def _collect(subject: Subject, watched: Watched, rounds: int) -> Draws:
    simulation = watched.simulation
    unit = subject.plan.added_noise * subject.plan.max_grad_norm  # [clients]
    first: list[torch.Tensor] = []
    squares: list[torch.Tensor] = []
    names: tuple[str, ...] = ()
    sizes: list[int] = []
    assert simulation.privacy_ledger is not None and simulation.plan is not None
    for round in range(1, rounds + 1):
        watched.play(round)
        one = watched.seen.pop()
        parts = one.by_tensor(one.sums() / torch.from_numpy(unit)[None, :, None])
        names, sizes = tuple(parts), [v.shape[-1] for v in parts.values()]
        squares.append(torch.stack([v.square().sum(-1) for v in parts.values()], dim=-1))
        first.append(torch.stack([v[..., :WIDTH].float() for v in parts.values()], dim=-2))
    return Draws(
        names,
        np.array(sizes),
        torch.stack(first).numpy(),
        torch.stack(squares).numpy(),
        simulation.privacy_ledger.steps_taken,
        rounds * simulation.plan.steps_per_round,
    )


def draw_keys(subject: Subject, draws: int) -> np.ndarray:
    """First values of the noise of many clients, by the engine's own function.

    Returns:
        fp32 ``[draws, 4]``. Two equal rows mean that two keys led to the same draw.
    """
    ones, device = np.ones(draws), subject.network.device
    layout, clients = {"keys": (16,)}, range(draws)
    drawn = example_level.step_noise(layout, clients, ones, subject.secret, 1, 0, device)
    return drawn[:, :4].cpu().numpy()
