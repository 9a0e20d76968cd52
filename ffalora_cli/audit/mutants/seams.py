"""Replaces functions of the real code by broken ones, where modules declare it.

Every module that has something to replace says so in its ``SEAMS``, and whatever calls that looks
it up there: a mutant reaches all paths, the one a GPU takes too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
from dataclasses import dataclass

Wrap = Callable[[Any], Any]
"""The original function -> what stands in its place."""


@contextmanager
def replaced(module: ModuleType, seam: str, wrap: Wrap) -> Iterator[None]:
    """Replace one of a module's ``SEAMS`` inside the ``with``.

    Args:
        module: that declares it.
        seam: a function of the module, or ``Class.method``.
        wrap: makes the replacement.

    Raises:
        LookupError: the module declares no such seam.
    """
    if seam not in module.SEAMS:
        raise LookupError(f"{module.__name__} has no seam {seam}")
    path, _, name = seam.rpartition(".")
    owner = getattr(module, path) if path else module
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def noise(wrap: Wrap) -> AbstractContextManager[None]:
    """``noise_stack(shapes, clients, sd, secret, round, step, device) -> stack``."""
    from ffalora_cli.privacy.mechanism import example_level

    return replaced(example_level, "noise_stack", wrap)


def micro_batch(wrap: Wrap) -> AbstractContextManager[None]:
    """``(privacy, slots, losses, grads, *rest)``: clip and add; ``privacy=None`` only adds.

    ``grads`` are ``{name: [examples, ...]}``; a surrogate's tensors are too small for ghost norms.
    """
    from ffalora_cli.engine.stacked import clipped_sums

    return replaced(clipped_sums, "add_clipped", wrap)


def unit_end(wrap: Wrap) -> AbstractContextManager[None]:
    """``close_units(privacy, sums, total, counts)``: clip units of several rows and add them."""
    from ffalora_cli.engine.stacked import unit_sums

    return replaced(unit_sums, "close_units", wrap)


def unit_parts(wrap: Wrap) -> AbstractContextManager[None]:
    """``whole_units(pairs, most) -> parts``: which rows are summed before units are clipped."""
    from ffalora_cli.engine.stacked import unit_sums

    return replaced(unit_sums, "whole_units", wrap)


def unit_rows(wrap: Wrap) -> AbstractContextManager[None]:
    """``rows_of_units(key, client, round, step, drawn, rows, units, most) -> (rows, units)``."""
    from ffalora_cli.privacy.mechanism import batches

    return replaced(batches, "rows_of_units", wrap)


def dealt_rows(wrap: Wrap) -> AbstractContextManager[None]:
    """``_collect(owner, num_clients) -> ClientRows``: rows to their clients."""
    from ffalora_cli.data.partition import partition

    return replaced(partition, "_collect", wrap)


def example_privacy(wrap: Wrap) -> AbstractContextManager[None]:
    """``ExampleRelease.privacy(self, ids, state) -> ExamplePrivacy``: what engines are told."""
    from ffalora_cli.federation.server import release

    return replaced(release, "ExampleRelease.privacy", wrap)


def step_end(wrap: Wrap) -> AbstractContextManager[None]:
    """``(job, step, pairs, tensors)``: noise and divisor, on ``tensors.total [clients, P]``."""
    from ffalora_cli.engine.stacked import engine

    return replaced(engine, "_privatise", wrap)


def training(wrap: Wrap) -> AbstractContextManager[None]:
    """``StackedEngine.train(self, job) -> LocalResult``."""
    from ffalora_cli.engine.stacked import engine

    return replaced(engine, "StackedEngine.train", wrap)


def sampler(wrap: Wrap) -> AbstractContextManager[None]:
    """``poisson_batch(key, client, round, step, rows, sample_rate) -> rows``."""
    from ffalora_cli.privacy.mechanism import batches

    return replaced(batches, "poisson_batch", wrap)


def planning(wrap: Wrap) -> AbstractContextManager[None]:
    """``make_plan(privacy, sizes, federation, covered) -> PrivacyPlan``."""
    from ffalora_cli.privacy.planning import plan

    return replaced(plan, "make_plan", wrap)


def ledger(wrap: Wrap) -> AbstractContextManager[None]:
    """``PrivacyLedger.charge(self, round, clients, steps)``."""
    from ffalora_cli.privacy import ledger

    return replaced(ledger, "PrivacyLedger.charge", wrap)


def upload(wrap: Wrap) -> AbstractContextManager[None]:
    """``upload(setting, number, ids, held, result) -> Packed``: what a chunk sends."""
    from ffalora_cli.federation import round

    return replaced(round, "upload", wrap)


def arrival(wrap: Wrap) -> AbstractContextManager[None]:
    """``receive(setting, state, number, ids, packed, ...) -> Receipt``: what was unpacked."""
    from ffalora_cli.federation import round

    return replaced(round, "receive", wrap)


@dataclass(frozen=True)
class Mutant:
    """One broken mechanism.

    Attributes:
        name: what is broken.
        caught_by: name of a check that must fail.
        broken: a context inside which the real code is broken.
    """

    name: str
    caught_by: str
    broken: Callable[[], AbstractContextManager[None]]
