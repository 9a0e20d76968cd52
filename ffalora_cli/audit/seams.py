"""Where mutants cut into the real code: every module attribute they replace is named here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Wrap = Callable[[Any], Any]
"""The original function -> what stands in its place."""


@contextmanager
def replaced(owner: Any, name: str, wrap: Wrap) -> Iterator[None]:
    """Replace an attribute of a module or class inside the ``with``."""
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def noise(wrap: Wrap) -> Iterator[None]:
    """``noise_stack(shapes, clients, sd, secret, round, step, device) -> stack``."""
    from ffalora_cli.engine import stacked

    with replaced(stacked, "noise_stack", wrap):
        yield


@contextmanager
def micro_batch(wrap: Wrap) -> Iterator[None]:
    """``(privacy, slots, losses, grads, *rest)``: clip and add; ``privacy=None`` only adds.

    ``grads`` are ``{name: [examples, ...]}``; a stand-in's tensors are too small to be booked.
    """
    from ffalora_cli.engine import stacked

    with replaced(stacked, "add_clipped", wrap):
        yield


@contextmanager
def unit_end(wrap: Wrap) -> Iterator[None]:
    """``close_units(privacy, sums, total, counts)``: clip units of several rows and add them."""
    from ffalora_cli.engine import stacked

    with replaced(stacked, "close_units", wrap):
        yield


@contextmanager
def unit_parts(wrap: Wrap) -> Iterator[None]:
    """``whole_units(pairs, most) -> parts``: which rows are summed before units are clipped."""
    from ffalora_cli.engine import stacked

    with replaced(stacked, "whole_units", wrap):
        yield


@contextmanager
def unit_rows(wrap: Wrap) -> Iterator[None]:
    """``rows_of_units(key, client, round, step, drawn, rows, units, most) -> (rows, units)``."""
    from ffalora_cli.data import batches

    with replaced(batches, "rows_of_units", wrap):
        yield


@contextmanager
def example_privacy(wrap: Wrap) -> Iterator[None]:
    """``ExampleRelease.privacy(self, ids, state) -> ExamplePrivacy``: what engines are told."""
    from ffalora_cli.federation.release import ExampleRelease

    with replaced(ExampleRelease, "privacy", wrap):
        yield


@contextmanager
def step_end(wrap: Wrap) -> Iterator[None]:
    """``(job, step, pairs, tensors)``: noise and divisor, on ``tensors.total [clients, P]``."""
    from ffalora_cli.engine import stacked

    with replaced(stacked, "_privatise", wrap):
        yield


@contextmanager
def training(wrap: Wrap) -> Iterator[None]:
    """``StackedEngine.train(self, job) -> LocalResult``."""
    from ffalora_cli.engine.stacked import StackedEngine

    with replaced(StackedEngine, "train", wrap):
        yield


@contextmanager
def sampler(wrap: Wrap) -> Iterator[None]:
    """``poisson_batch(key, client, round, step, rows, sample_rate) -> rows``."""
    from ffalora_cli.data import batches

    with replaced(batches, "poisson_batch", wrap):
        yield


@contextmanager
def planning(wrap: Wrap) -> Iterator[None]:
    """``make_plan(privacy, sizes, federation, covered) -> PrivacyPlan``."""
    from ffalora_cli.privacy import plan

    with replaced(plan, "make_plan", wrap):
        yield


@contextmanager
def ledger(wrap: Wrap) -> Iterator[None]:
    """``PrivacyLedger.charge(self, round, clients, steps)``."""
    from ffalora_cli.privacy.ledger import PrivacyLedger

    with replaced(PrivacyLedger, "charge", wrap):
        yield


@contextmanager
def upload(wrap: Wrap) -> Iterator[None]:
    """``Simulation._upload(self, round, ids, result) -> Packed``: what a chunk sends."""
    from ffalora_cli.federation.simulation import Simulation

    with replaced(Simulation, "_upload", wrap):
        yield


@contextmanager
def arrival(wrap: Wrap) -> Iterator[None]:
    """``Simulation._receive(self, round, ids, packed, ...) -> Receipt``: what was unpacked."""
    from ffalora_cli.federation.simulation import Simulation

    with replaced(Simulation, "_receive", wrap):
        yield
