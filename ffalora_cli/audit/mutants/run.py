"""Breaks the real code as real projects broke their privacy: the audit must catch each one.

Noise, clip and divisor are in ``mutants_of_step``, batches, ledger and uploads in
``mutants_of_run``, units of several rows in ``mutants_of_units``; the sources are in the mutants'
own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ffalora_cli.audit.mechanism.battery import QUICK, run_checks
from ffalora_cli.audit.mechanism.surrogate import build_subject
from ffalora_cli.audit.mutants.seams import Mutant
from ffalora_cli.audit.outcome import judge
from ffalora_cli.audit.run import plan_of
from ffalora_cli.config.schema import Config
from ffalora_cli.keys import Key


@dataclass(frozen=True)
class Caught:
    """What the battery said about a mutant."""

    mutant: str
    expected: str
    failed: tuple[str, ...]  # names of the checks that failed

    @property
    def caught(self) -> bool:
        """Whether the check that should fail did."""
        return self.expected in self.failed


def all_mutants() -> tuple[Mutant, ...]:
    """Every mutant, in the order of the report."""
    from ffalora_cli.audit.mutants import of_run, of_step, of_units

    return (*of_step.MUTANTS, *of_run.MUTANTS, *of_units.MUTANTS)


def run_mutants(
    config: Config, sizes: np.ndarray, secret: Key, mutants: Sequence[Mutant] | None = None
) -> list[Caught]:
    """The battery on every mutant of a run's mechanism, on the surrogate.

    The head is trained, so that "no noise on the head" means something; a run of one client is
    given a twin, so that clients can share a seed. Units are texts, so that some have several rows.

    Args:
        config: of the run, of a unit inside a client.
        sizes: rows of its clients ``[clients]``.
        secret: key of the draws.
        mutants: some of them; all by default.
    """
    if config.head.mode == "frozen":
        config = replace(config, head=replace(config.head, mode="trained"))
    if config.privacy.unit == "row":
        config = replace(config, privacy=replace(config.privacy, unit="text"))
    if len(sizes) == 1:
        sizes = np.repeat(sizes, 2)
        config = replace(config, federation=replace(config.federation, num_clients=2))
    return [_one(config, sizes, secret, m) for m in (mutants or all_mutants())]


def _one(config: Config, sizes: np.ndarray, secret: Key, mutant: Mutant) -> Caught:
    with mutant.broken():
        measured = run_checks(build_subject(config, plan_of(config, sizes), secret), QUICK)
    failed = tuple(check.name for check in judge(measured.checks) if not check.passed)
    return Caught(mutant.name, mutant.caught_by, failed)
