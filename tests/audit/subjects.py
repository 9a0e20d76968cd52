"""One small private run and its audit subject, shared by the audit tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np

from ffalora_cli.audit.mechanism.accounting import empty_batches
from ffalora_cli.audit.mechanism.battery import QUICK
from ffalora_cli.audit.mechanism.draws import draw_empty, draw_full, draw_keys
from ffalora_cli.audit.mechanism.noise import noise_checks
from ffalora_cli.audit.mechanism.surrogate import build_subject
from ffalora_cli.audit.run import plan_of
from ffalora_cli.compose.jobs import plan as plan_jobs

SIZES = np.array([400, 300, 250])


@cache
def config(*overrides):
    """The embedded default with a trained head and a given noise: nothing is calibrated."""
    return plan_jobs(
        [
            "head.mode=trained",
            "privacy.epsilon_target=null",
            "privacy.noise_multiplier=1.1",
            "federation.rounds=5",
            "federation.local_steps=4",
            *overrides,
        ]
    )[0].config


def subject(*overrides, sizes=SIZES, secret=b"t" * 32, **plan_changes):
    chosen = config(*overrides)
    plan = plan_of(chosen, sizes)
    return build_subject(chosen, replace(plan, **plan_changes), secret)


def noise_part(subject):
    """The checks of the battery that look at noise."""
    empty, keys = draw_empty(subject, QUICK.pairs), draw_keys(subject, QUICK.keys)
    full = draw_full(subject, rounds=2, steps=8)
    return [*noise_checks(empty, full, keys), empty_batches(empty)]


def battery_of(part):
    """Stands in for the whole battery where mutants are run."""
    return lambda subject, effort: SimpleNamespace(checks=part(subject))
