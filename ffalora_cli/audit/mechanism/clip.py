"""Checks that no example or unit moves the sum by more than the clip; the divisor is fixed.

Crafted gradients go through the run's own clip, sum and divisor with the noise set to zero, one
question a local step, all clients at once. A contribution is the difference between two steps, one
of them with one example, unit or row of a unit more: the definition of sensitivity. Some units are
larger than a micro-batch, so that one cut at its border would show.
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
from ffalora_cli.audit.outcome import Check, within
from ffalora_cli.engine.job import StepBatches, stack_step
from ffalora_cli.types import TensorSpec

SLACK = 1e-6  # relative, for each example in the sum: fp32 rounding
NEAR = 200  # gradients with norms around the clip, where rounding shows
DECADES = tuple(10.0**power for power in range(-3, 7))
ELEMENTS = 2**24  # of the gradients that are looked at together
BOUND = "one example moves at most the clip"
UNIT_BOUND = "one unit moves at most the clip"
ROW_BOUND = "one row of a unit moves at most the clip"
SIZES = (1, 2, 5, 40)  # rows of a crafted unit
NORMS = (0.03, 0.4, 1.0, 1e6)  # of a row's gradient, in units of the clip
OTHERS = 3  # rows of a unit of two and of a unit of one, which stay


@dataclass(frozen=True)
class Case:
    """Gradients of a batch without and with something more, in units of the clip."""

    what: str
    others: Tensor  # [rows, P]
    extra: Tensor  # [rows, P]
    units: np.ndarray | None = None  # of others, then of the extra; None: each row is its own


def clip_checks(subject: Subject) -> tuple[list[Check], float]:
    """The battery on clip and divisor.

    Returns:
        Checks, and the largest contribution found, in units of the clip (just below one when the
        clip is what it says).
    """
    specs = subject.simulation().trainable(1)
    norms, bad = regular_cases(specs), broken_cases(specs)
    moved = contributions(subject, norms)
    allowed = [1.0 + SLACK * (1 + len(case.others)) for case in norms]
    checks = [_bounded(BOUND, norms, moved, allowed), _ignored(subject, bad)]
    return [*checks, divisor(subject, specs), one_more(subject)], float(moved.max())


def unit_checks(subject: Subject) -> list[Check]:
    """Whole units added or removed, and single rows of one; none where every row is its own."""
    if subject.clients.units is None:
        return []
    crafted = crafted_units(subject.simulation().trainable(1))
    made = [rows for rows in crafted if len(rows[1]) <= len(subject.examples.lengths) - OTHERS]
    units = [unit_case(what, rows, 0) for what, rows in made]
    several = [unit_case(what, rows, len(rows) - 1) for what, rows in made if len(rows) > 1]
    asked = {UNIT_BOUND: units} | ({ROW_BOUND: several} if subject.plan.bounds_one_row else {})
    allowed = 1.0 + SLACK * (max(SIZES) + OTHERS)
    return [
        _bounded(name, cases, contributions(subject, cases), [allowed] * len(cases))
        for name, cases in asked.items()
    ]


def regular_cases(specs: Sequence[TensorSpec]) -> list[Case]:
    """Finite gradients from a thousandth to a million clips, in every tensor and in all."""
    generator = torch.Generator().manual_seed(0)
    alone = {spec.name: direction(specs, generator, only=spec.name) for spec in specs}
    everywhere = direction(specs, generator)
    nobody, seven = everywhere.expand(0, -1), (10.0 * everywhere).expand(7, -1)
    made = [(f"{n:g} clips in {name}", n * u) for name, u in alone.items() for n in DECADES]
    made += [(f"{n:g} clips in all tensors", n * everywhere) for n in DECADES]
    near = 10.0 ** torch.empty(NEAR, dtype=torch.float64).uniform_(-0.3, 0.5, generator=generator)
    made += [(f"{n:.4f} clips", n * direction(specs, generator)) for n in near.tolist()]
    return [
        *(Case(what, nobody, extra[None]) for what, extra in made),
        Case("1e6 clips against seven others", seven, -1e6 * everywhere[None]),
        Case("the eighth of eight equal examples", seven, 10.0 * everywhere[None]),
        Case("no gradient at all", seven, torch.zeros_like(everywhere[None])),
    ]


def broken_cases(specs: Sequence[TensorSpec]) -> list[Case]:
    """Gradients that are not finite, or whose norm is not."""
    everywhere = direction(specs, torch.Generator().manual_seed(1))[None]
    others = (10.0 * everywhere).expand(3, -1)
    cases = [Case("overflow of the norm", others, 1e30 * everywhere)]
    for value in (float("nan"), float("inf"), -float("inf")):
        single = everywhere.clone()
        single[0, -1] = value
        cases.append(Case(f"one {value}", others, single))
        cases.append(Case(f"all {value}", others, torch.full_like(everywhere, value)))
    return cases


def crafted_units(specs: Sequence[TensorSpec]) -> list[tuple[str, Tensor]]:
    """Rows ``[rows, P]`` that all say the same, that cancel, that go in all directions."""
    generator = torch.Generator().manual_seed(3)
    same = direction(specs, generator)
    units = []
    for size in SIZES:
        signs = torch.ones(size, 1)
        signs[1::2] = -1.0
        apart = torch.stack([direction(specs, generator) for _ in range(size)])
        for norm in NORMS:
            what = f"{size} rows of {norm:g} clips"
            units.append((f"{what}, alike", norm * same.expand(size, -1)))
            units.append((f"{what}, cancelling", norm * signs * same))
            units.append((f"{what}, unlike", norm * apart))
    return units


def unit_case(what: str, rows: Tensor, kept: int) -> Case:
    """All rows of a unit but ``kept`` beside a unit of two rows and a unit of one."""
    others = torch.cat([0.7 * rows[:1].expand(OTHERS, -1), rows[:kept]])
    return Case(what, others, rows[kept:], np.array([0, 0, 1, *[2] * len(rows)]))


def contributions(subject: Subject, cases: Sequence[Case]) -> np.ndarray:
    """Norm of what the extra adds, in units of the clip, ``[cases, clients]``."""
    clients, room = subject.plan.num_clients, len(subject.examples.lengths)
    most = ELEMENTS // (2 * clients * cases[0].extra.shape[1])  # cases played together
    parts: list[list[Case]] = [[]]
    for case in cases:
        needed = sum(len(c.others) + len(c.extra) for c in (*parts[-1], case))
        if parts[-1] and (needed > room or len(parts[-1]) >= most):
            parts.append([])
        parts[-1].append(case)
    moved = []
    for part in parts:
        steps: list[StepBatches] = []
        first = 0
        for case in part:
            for end in (len(case.others), len(case.others) + len(case.extra)):
                units = [] if case.units is None else [case.units[:end]] * clients
                steps.append(stack_step([np.arange(first, first + end)] * clients, units))
            first += end
        table = torch.cat([rows for case in part for rows in (case.others, case.extra)])
        sums = released(subject, table, steps)
        moved.append((sums[1::2] - sums[0::2]).norm(dim=-1).numpy())
    return np.concatenate(moved)


def divisor(subject: Subject, specs: Sequence[TensorSpec]) -> Check:
    """Equal huge examples, n of them, release n clips over the expected batch, for any n."""
    huge = 1e4 * direction(specs, torch.Generator().manual_seed(2))
    counts = (1, 2, 5, 11)
    steps = [stack_step([np.zeros(n, np.int64)] * subject.plan.num_clients) for n in counts]
    ratio = released(subject, huge[None], steps).norm(dim=-1).numpy() / np.array(counts)[:, None]
    worst = ratio.flat[int(np.abs(ratio - 1.0).argmax())]
    text = f"n equal examples release {worst:.5g} × n clips / expected batch, n = 1 to 11"
    return within("divisor is the expected batch", abs(worst - 1.0), 1e-3, text)


def released(subject: Subject, table: Tensor, steps: Sequence[StepBatches]) -> Tensor:
    """What steps on crafted gradients release, without noise; parameters stay as they were.

    Args:
        subject: audited.
        table: gradients of the rows, in units of the clip ``[rows, P]``.
        steps: rows of the table.

    Returns:
        Released gradients times expected batch, in units of the clip, ``[steps, clients, P]``.
    """
    clip = subject.plan.max_grad_norm
    gradients = table * clip
    quiet = endless(subject.plan, noise_multiplier=np.zeros(subject.plan.num_clients))
    simulation = subject.simulation(quiet, local_steps=len(steps), local_lr=1e-30)
    watched = Watched(
        simulation, craft=lambda slots, rows: gradients[torch.from_numpy(rows)], batches=steps
    )
    watched.play(1)
    return watched.seen[0].sums() / clip


def _bounded(
    name: str, cases: Sequence[Case], moved: np.ndarray, allowed: Sequence[float]
) -> Check:
    """Excess over the clip, each case with the rounding its sum may have."""
    worst = int((moved.max(1) - np.array(allowed)).argmax())
    found = float(moved[worst].max())
    text = f"{found:.7f} clips at most ({cases[worst].what}; {len(cases)} cases)"
    return within(name, found, allowed[worst], text)


def _ignored(subject: Subject, cases: Sequence[Case]) -> Check:
    moved = contributions(subject, cases).max(1)
    worst = int(np.nan_to_num(moved, nan=np.inf).argmax())
    text = f"move the sum by {moved[worst]:.1e} clips at most ({len(cases)} cases)"
    return within("non-finite examples count as zero", moved[worst], 4 * SLACK, text)


def direction(specs: Sequence[TensorSpec], generator: torch.Generator, only: str = "") -> Tensor:
    """A random unit vector ``[P]`` in all tensors, fp32, or in one of them alone.

    Every tensor of several has the same share, so that clipping each by itself would show.
    """
    parts = []
    for spec in specs:
        part = torch.randn(spec.size, generator=generator, dtype=torch.float64)
        parts.append(part / part.norm() if only in ("", spec.name) else torch.zeros_like(part))
    vector = torch.cat(parts)
    return (vector / vector.norm()).float()
