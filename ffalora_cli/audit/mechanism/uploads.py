"""Checks what leaves a client: covered tensors alone, made of noised gradients alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ffalora_cli.audit.mechanism.draws import endless
from ffalora_cli.audit.mechanism.observe import Seen, Watched
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.outcome import Check, exact, within

if TYPE_CHECKING:
    from ffalora_cli.federation.simulation import Simulation

REPLAY = 1e-6  # relative: rounding of a device other than the one that trained
ROUNDS, STEPS = 4, 2  # more rounds where the method's cycle is longer


@dataclass(frozen=True)
class Played:
    """A few ordinary rounds with the model's own gradients.

    Attributes:
        simulation: as it is after them.
        seen: what happened, an exchange an entry.
        refusal: why the run's own guard stopped it, if one did.
    """

    simulation: Simulation
    seen: Sequence[Seen]
    refusal: str = ""


def play(subject: Subject) -> Played:
    """Play some rounds of ``STEPS`` steps with the planned batches."""
    simulation = subject.simulation(endless(subject.plan), local_steps=STEPS)
    watched = Watched(simulation)
    try:
        for round in range(1, max(ROUNDS, len(simulation.method.cycle)) + 1):
            watched.play(round)
    except RuntimeError as error:
        return Played(simulation, watched.seen, str(error))
    return Played(simulation, watched.seen)


def upload_checks(subject: Subject, played: Played) -> list[Check]:
    """The battery on uploads and frozen tensors."""
    return [uploads(subject, played), only_noised(played), frozen(played)]


def uploads(subject: Subject, played: Played) -> Check:
    """Uploaded names are those trained and not kept, all covered; all covered were trained."""
    covered, personal = set(subject.plan.covered), set(played.simulation.personal)
    odd = {played.refusal} if played.refusal else set()
    trained: set[str] = set()
    for one in played.seen:
        trained |= set(one.job.trainable)
        odd |= set(one.upload) ^ (set(one.job.trainable) - personal)
        odd |= set(one.upload) - covered
    odd |= covered ^ trained
    text = f"{len(covered)} tensors are covered, {len(covered - personal)} of them uploaded"
    if odd:
        text = f"not as covered: {', '.join(sorted(odd))}"
    return exact("uploaded tensors are covered", len(odd), text)


def only_noised(played: Played) -> Check:
    """What was uploaded follows from the start and the noised gradients alone.

    A fresh optimiser of the run's kind is given the gradients that were seen; the upload must be
    what it comes to, rounded as the wire does. Everything else is post-processing.
    """
    worst = 0.0
    for one in played.seen:
        replayed = _replay(one)
        rounded = torch.bfloat16 if played.simulation.config.wire_dtype == "bfloat16" else None
        for name, value in one.upload.items():
            if name in replayed:
                expected = replayed[name] if rounded is None else replayed[name].to(rounded).float()
                worst = max(worst, _difference(value, expected))
    steps = sum(len(one.gradients) for one in played.seen)
    text = f"{steps} steps replayed from them: largest relative difference {worst:.1e}"
    return within("uploads follow from noised gradients", worst, REPLAY, text)


def frozen(played: Played) -> Check:
    """Training leaves every frozen tensor as it was, to the bit."""
    changed = sum(not one.frozen_kept for one in played.seen)
    text = f"changed by training in {changed} of {len(played.seen)} rounds"
    return exact("frozen tensors stay", changed, text)


def _replay(one: Seen) -> dict[str, Tensor]:
    """Values ``[clients, ...]`` that the seen gradients lead to."""
    clients = len(one.job.clients)
    flat = torch.nn.Parameter(
        torch.cat([one.job.start[n].reshape(clients, -1).float() for n in one.job.trainable], 1)
    )
    optimizer = one.job.optimizer.build([flat])
    for gradient in one.gradients:
        flat.grad = gradient.clone()
        optimizer.step()
    parts = one.by_tensor(flat.detach()).items()
    return {name: part.unflatten(1, one.shapes[name]) for name, part in parts}


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value; infinite where one is not finite."""
    gap = float((found.cpu() - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    return gap if gap == gap else float("inf")
