"""Checks that no example moves the sum by more than the clip, and that the divisor is fixed.

Crafted per-example gradients go through the run's own clip, sum and divisor with the noise set to
zero, one question a local step, all clients at once. A contribution is the difference between two
steps, one of them with one example more: the definition of sensitivity under add/remove one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.audit.mechanism.draws import endless
from ffalora_cli.audit.mechanism.observe import Watched
from ffalora_cli.audit.mechanism.one_more import one_more
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.outcome import Check
from ffalora_cli.engine.job import StepBatches, stack_step
from ffalora_cli.types import TensorSpec

SLACK = 1e-6  # relative, for each example in the sum: fp32 rounding
NEAR = 200  # gradients with norms around the clip, where rounding shows
DECADES = tuple(10.0**power for power in range(-3, 7))
ELEMENTS = 2**24  # of the gradients that are looked at together
BOUND = "one example moves at most the clip"


@dataclass(frozen=True)
class Case:
    """Gradients of a batch without and with one more example, in units of the clip."""

    what: str
    others: tuple[Tensor, ...]  # [P] each
    extra: Tensor  # [P]


def clip_checks(subject: Subject) -> tuple[list[Check], float]:
    """The battery on clip and divisor.

    Returns:
        Checks, and the largest contribution found, in units of the clip (just below one when the
        clip is what it says).
    """
    specs = subject.simulation().trainable(1)
    norms, bad = regular_cases(specs), broken_cases(specs)
    moved = contributions(subject, norms)
    checks = [_bounded(norms, moved), _ignored(subject, bad), divisor(subject, specs)]
    return [*checks, one_more(subject)], float(moved.max())


def regular_cases(specs: Sequence[TensorSpec]) -> list[Case]:
    """Finite gradients from a thousandth to a million clips, in every tensor and in all."""
    generator = torch.Generator().manual_seed(0)
    one = {spec.name: direction(specs, [spec.name], generator) for spec in specs}
    everywhere = direction(specs, [spec.name for spec in specs], generator)
    cases = [Case(f"{n:g} clips in {name}", (), n * u) for name, u in one.items() for n in DECADES]
    cases += [Case(f"{n:g} clips in all tensors", (), n * everywhere) for n in DECADES]
    near = 10.0 ** torch.empty(NEAR, dtype=torch.float64).uniform_(-0.3, 0.5, generator=generator)
    for norm in near.tolist():
        spread = direction(specs, [spec.name for spec in specs], generator)
        cases.append(Case(f"{norm:.4f} clips", (), norm * spread))
    others = (10.0 * everywhere,) * 7
    cases.append(Case("1e6 clips against seven others", others, -1e6 * everywhere))
    cases.append(Case("the eighth of eight equal examples", others, 10.0 * everywhere))
    cases.append(Case("no gradient at all", others, torch.zeros_like(everywhere)))
    return cases


def broken_cases(specs: Sequence[TensorSpec]) -> list[Case]:
    """Gradients that are not finite, or whose norm is not."""
    generator = torch.Generator().manual_seed(1)
    everywhere = direction(specs, [spec.name for spec in specs], generator)
    others = (10.0 * everywhere,) * 3
    cases = [Case("overflow of the norm", others, 1e30 * everywhere)]
    for value in (float("nan"), float("inf"), -float("inf")):
        single = everywhere.clone()
        single[-1] = value
        cases.append(Case(f"one {value}", others, single))
        cases.append(Case(f"all {value}", others, torch.full_like(everywhere, value)))
    return cases


def contributions(subject: Subject, cases: Sequence[Case]) -> np.ndarray:
    """Norm of what the extra example adds, in units of the clip, float64 ``[cases, clients]``."""
    per_step = subject.plan.num_clients * cases[0].extra.numel()
    most = max(1, min(ELEMENTS // (2 * per_step), len(subject.examples.lengths) // 8))
    moved = []
    for part in (cases[at : at + most] for at in range(0, len(cases), most)):
        batches: list[list[int]] = []
        table: list[Tensor] = []
        for case in part:
            without = list(range(len(table), len(table) + len(case.others)))
            table += [*case.others, case.extra]
            batches += [without, [*without, len(table) - 1]]
        sums = crafted_sums(subject, torch.stack(table), batches)
        moved.append((sums[1::2] - sums[0::2]).norm(dim=-1).numpy())
    return np.concatenate(moved)


def crafted_sums(subject: Subject, table: Tensor, batches: Sequence[Sequence[int]]) -> Tensor:
    """What steps release, without noise, for batches of crafted gradients.

    Args:
        subject: audited.
        table: gradients in units of the clip ``[rows, P]``.
        batches: rows of the table, one batch a step; every client gets the same.

    Returns:
        Released gradients times expected batch, in units of the clip, ``[steps, clients, P]``.
    """
    clip, clients = subject.plan.max_grad_norm, subject.plan.num_clients
    gradients = table * clip
    steps = [stack_step([np.array(batch, dtype=np.int64)] * clients) for batch in batches]
    return released(subject, steps, lambda slots, rows: gradients[torch.from_numpy(rows)])


def divisor(subject: Subject, specs: Sequence[TensorSpec]) -> Check:
    """Equal huge examples, n of them, release n clips over the expected batch, for any n."""
    generator = torch.Generator().manual_seed(2)
    huge = 1e4 * direction(specs, [spec.name for spec in specs], generator)
    counts = (1, 2, 5, 11)
    sums = crafted_sums(subject, huge[None], [[0] * count for count in counts])
    ratio = sums.norm(dim=-1).numpy() / np.array(counts)[:, None]
    worst = ratio.flat[int(np.abs(ratio - 1.0).argmax())]
    return Check(
        name="divisor is the expected batch",
        statistic=float(abs(worst - 1.0)),
        limit=1e-3,
        p_value=None,
        passed=bool(abs(worst - 1.0) <= 1e-3),
        text=f"n equal examples release {worst:.5g} × n clips / expected batch, n = 1 to 11",
    )


def released(subject: Subject, steps: Sequence[StepBatches], craft: object) -> Tensor:
    """Sums in units of the clip ``[steps, clients, P]``; parameters stay as they were."""
    quiet = endless(subject.plan, noise_multiplier=np.zeros(subject.plan.num_clients))
    simulation = subject.simulation(quiet, local_steps=len(steps), local_lr=1e-30)
    watched = Watched(simulation, craft=craft, batches=steps)  # type: ignore[arg-type]
    watched.play(1)
    return watched.seen[0].sums() / subject.plan.max_grad_norm


def _bounded(cases: Sequence[Case], moved: np.ndarray) -> Check:
    """Excess over the clip, each case with the rounding its sum may have."""
    allowed = np.array([1.0 + SLACK * (1 + len(case.others)) for case in cases])
    worst = int((moved.max(1) - allowed).argmax())
    found = float(moved[worst].max())
    return Check(
        name=BOUND,
        statistic=found,
        limit=float(allowed[worst]),
        p_value=None,
        passed=bool(found <= allowed[worst]),  # a NaN fails
        text=f"{found:.7f} clips at most ({cases[worst].what}; {len(cases)} cases)",
    )


def _ignored(subject: Subject, cases: Sequence[Case]) -> Check:
    moved = contributions(subject, cases).max(1)
    worst = int(np.nan_to_num(moved, nan=np.inf).argmax())
    return Check(
        name="non-finite examples count as zero",
        statistic=float(moved[worst]),
        limit=4 * SLACK,
        p_value=None,
        passed=bool(moved[worst] <= 4 * SLACK),
        text=f"move the sum by {moved[worst]:.1e} clips at most ({len(cases)} cases)",
    )


def direction(
    specs: Sequence[TensorSpec], names: Sequence[str], generator: torch.Generator
) -> Tensor:
    """A random unit vector ``[P]`` in these tensors, fp32; zero elsewhere.

    Every tensor of several has the same share, so that clipping each by itself would show.
    """
    parts = []
    for spec in specs:
        part = torch.randn(spec.size, generator=generator, dtype=torch.float64)
        parts.append(part / part.norm() if spec.name in names else torch.zeros_like(part))
    vector = torch.cat(parts)
    return (vector / vector.norm()).float()
