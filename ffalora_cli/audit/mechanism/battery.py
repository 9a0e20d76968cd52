"""Runs every direct test of the mechanism as implemented."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from ffalora_cli.audit.mechanism.accounting import accounting_checks
from ffalora_cli.audit.mechanism.clip import clip_checks, unit_checks
from ffalora_cli.audit.mechanism.draws import Draws, draw_empty, draw_full, draw_keys
from ffalora_cli.audit.mechanism.noise import noise_checks
from ffalora_cli.audit.mechanism.sampler import Inclusions, draw_batches, sampler_checks
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.mechanism.uploads import play, upload_checks
from ffalora_cli.audit.outcome import Check


@dataclass(frozen=True)
class Effort:
    """Numbers of draws.

    Attributes:
        pairs: noise draws of each tensor. A tensor of 64 elements needs 9,600 for 0.5 % of its sd
            to be 5.5 standard deviations.
        inclusions: rows drawn by each client's sampler.
        keys: small draws compared with each other, to see how many bits key them.
    """

    pairs: int = 9_600
    inclusions: int = 600_000
    keys: int = 200_000


QUICK = Effort(960, 20_000, 1_000)  # what shows a mutant is larger than chance by far


def effort_for(minutes: float) -> Effort:
    """Draws for a time limit: the full battery takes some 20 seconds, less is scaled down.

    More time is not used up: past the full battery a fault that is still hidden is smaller than
    half a per cent of the noise.
    """
    share = min(1.0, 3.0 * minutes)
    draws = zip(astuple(QUICK), astuple(Effort()), strict=True)
    return Effort(*(max(least, int(full * share)) for least, full in draws))


@dataclass(frozen=True)
class Measured:
    """What the battery found.

    Attributes:
        checks: not yet judged.
        empty: its noise draws.
        drawn: its batches, a client an entry.
        contribution: largest that one example or unit made, in units of the clip.
    """

    checks: list[Check]
    empty: Draws
    drawn: list[Inclusions]
    contribution: float


def run_checks(subject: Subject, effort: Effort | None = None) -> Measured:
    """Every direct test of the mechanism."""
    effort = effort or Effort()
    empty = draw_empty(subject, effort.pairs)
    full = draw_full(subject, rounds=2, steps=8)
    checks = noise_checks(empty, full, draw_keys(subject, effort.keys))
    clipping, contribution = clip_checks(subject)
    drawn = draw_batches(subject, effort.inclusions)
    played = play(subject)
    checks += [*clipping, *unit_checks(subject), *sampler_checks(subject, drawn)]
    checks += [*upload_checks(subject, played), *accounting_checks(subject, empty, played)]
    return Measured(checks, empty, drawn, contribution)
