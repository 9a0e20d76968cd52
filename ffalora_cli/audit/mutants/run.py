"""Breaks the real code as real projects broke their privacy: the audit must catch each one.

Noise, clip and divisor are in ``of_step``, batches, ledger and uploads in
``of_run``, units of several rows in ``of_units``; the sources are in the mutants'
own words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ffalora_cli.audit.mechanism.battery import QUICK, run_checks
from ffalora_cli.audit.mechanism.surrogate import build_subject
from ffalora_cli.audit.mutants import of_run, of_step, of_units
from ffalora_cli.audit.mutants.seams import Mutant, replaced
from ffalora_cli.audit.outcome import judge
from ffalora_cli.audit.run import plan_of
from ffalora_cli.config.schema import Config
from ffalora_cli.keys import Key

MUTANTS = (*of_step.MUTANTS, *of_run.MUTANTS, *of_units.MUTANTS)


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


def run_mutant(config: Config, sizes: np.ndarray, secret: Key, mutant: Mutant) -> Caught:
    """The battery on a mutant of a run's mechanism, on the surrogate.

    The head is trained, so that "no noise on the head" means something; a run of one client is
    given a twin, so that clients can share a seed. Units are texts, so that some have several rows.

    Args:
        config: of the run, of a unit inside a client.
        sizes: rows of its clients ``[clients]``.
        secret: key of the draws.
        mutant: what is broken.
    """
    if config.head.mode == "frozen":
        config = replace(config, head=replace(config.head, mode="trained"))
    if config.privacy.unit == "row":
        config = replace(config, privacy=replace(config.privacy, unit="text"))
    if len(sizes) == 1:
        sizes = np.repeat(sizes, 2)
        config = replace(config, federation=replace(config.federation, num_clients=2))
    with replaced(mutant.changes):
        measured = run_checks(build_subject(config, plan_of(config, sizes), secret), QUICK)
    failed = tuple(check.name for check in judge(measured.checks) if not check.passed)
    return Caught(mutant.name, mutant.caught_by, failed)
