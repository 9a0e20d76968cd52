"""The battery: every direct test of the mechanism as implemented."""

from __future__ import annotations

from dataclasses import dataclass

from ffalora_cli.audit.accounting import accounting_checks
from ffalora_cli.audit.clip import clip_checks
from ffalora_cli.audit.draws import Draws, draw_empty, draw_full
from ffalora_cli.audit.noise import noise_checks
from ffalora_cli.audit.outcome import Check
from ffalora_cli.audit.release import play, release_checks
from ffalora_cli.audit.sampler import Inclusions, draw_batches, sampler_checks
from ffalora_cli.audit.standin import Subject


@dataclass(frozen=True)
class Effort:
    """How much is drawn.

    Attributes:
        pairs: noise draws of each tensor. A tensor of 64 elements needs 9,600 for 0.5 % of its sd
            to be 5.5 standard deviations.
        inclusions: rows drawn by each client's sampler.
    """

    pairs: int = 9_600
    inclusions: int = 600_000


QUICK = Effort(pairs=960, inclusions=20_000)  # what shows a mutant is larger than chance by far


@dataclass(frozen=True)
class Measured:
    """What the battery found.

    Attributes:
        checks: not yet judged.
        empty: its noise draws.
        drawn: its batches, a client an entry.
        contribution: largest that one example made, in units of the clip.
    """

    checks: list[Check]
    empty: Draws
    drawn: list[Inclusions]
    contribution: float


def run_checks(subject: Subject, effort: Effort | None = None) -> Measured:
    """Every direct test of the mechanism."""
    effort = effort or Effort()
    empty = draw_empty(subject, effort.pairs)
    checks = noise_checks(empty, draw_full(subject, rounds=2, steps=8))
    clipping, contribution = clip_checks(subject)
    drawn = draw_batches(subject, effort.inclusions)
    played = play(subject)
    checks += clipping + sampler_checks(subject, drawn) + release_checks(subject, played)
    checks += accounting_checks(subject, empty, played)
    return Measured(checks, empty, drawn, contribution)
