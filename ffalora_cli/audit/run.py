"""Runs one audit: the run's plan, a subject for it, the battery, the bounds, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ffalora_cli.audit.canary.answers import hidden_answers
from ffalora_cli.audit.canary.canaries import run_canaries
from ffalora_cli.audit.canary.step_level import step_level
from ffalora_cli.audit.mechanism.battery import Effort, run_checks
from ffalora_cli.audit.mechanism.one_more import one_more
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.outcome import Bound, Check, Verdict, judge
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.experiment import client_table, population
from ffalora_cli.methods import registry
from ffalora_cli.models.processor import load_processor
from ffalora_cli.privacy.planning import make as planning
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.tasks import registry as tasks

TIERS = ("mechanism", "canary", "all")


def check_auditable(config: Config, tier: str = "mechanism") -> None:
    """Refuse what this audit does not cover.

    Raises:
        ConfigError: for a run without privacy inside its clients, or more than the sensitivity of
            another engine.
    """
    if not config.privacy.inside_clients:
        raise ConfigError(
            f"privacy.unit={config.privacy.unit}: the audit covers units inside a client; "
            "use privacy=text"
        )
    if config.engine.name != "stacked" and tier != "mechanism":
        raise ConfigError(
            f"engine.name={config.engine.name}: of this engine only the sensitivity is tested, the "
            "rest watches the stacked one, which is tested equal to it; use engine=stacked, or "
            "--tier mechanism"
        )


def client_sizes(config: Config) -> np.ndarray:
    """Units of privacy of each client of a run, int64 ``[clients]``."""
    if config.privacy.unit not in ("text", "column"):
        return client_table(config).sizes
    # Units are told by what the model reads.
    _, found = population.load(config, load_processor(config.model, config.task))
    return found.clients.num_units


def plan_of(config: Config, sizes: np.ndarray) -> PrivacyPlan:
    """The run's plan, made by the code that makes it for the run.

    Raises:
        ConfigError: the plan is refused, or this audit does not cover it.
    """
    check_auditable(config)
    exchanges = registry.get(config.method.name).exchanges()
    plan = planning.make_plan(config.privacy, sizes, config.federation, (), exchanges=exchanges)
    assert plan is not None
    plan = replace(plan, content=tasks.get(config.task.kind).modality)
    if plan.accountant.sampling != "poisson":
        raise ConfigError(
            f"privacy.sampling={plan.accountant.sampling}: the audit tests Poisson batches; "
            "use privacy.sampling=poisson"
        )
    return plan


def audit(
    subject: Subject,
    tier: str = "all",
    effort: Effort | None = None,
    recorded: Sequence[Check] = (),
) -> Verdict:
    """Audit a subject.

    Args:
        subject: a run's plan on a surrogate.
        tier: ``mechanism`` (battery and step-level bound; of the reference engine its sensitivity
            alone), ``canary``, or ``all``.
        effort: how much the battery draws.
        recorded: checks of a run's records, judged with the others.
    """
    checks: list[Check] = list(recorded)
    bounds: list[Bound] = []
    if subject.config.engine.name != "stacked":
        checks.append(one_more(subject))
    elif tier != "canary":
        measured = run_checks(subject, effort)
        checks += measured.checks
        found = measured.empty, measured.drawn, measured.contribution
        bounds.append(step_level(subject.plan, *found))
    if tier != "mechanism":
        bounds += run_canaries(subject)
        if subject.network.task.reads == "vocabulary":
            bounds.append(hidden_answers(subject))
    claim, delta = float(subject.plan.epsilon_planned.max()), subject.plan.accountant.delta
    return Verdict(claim, delta, tuple(judge(checks)), tuple(bounds))
