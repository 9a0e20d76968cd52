"""Replaces functions of the real code by broken ones, where modules declare it.

Every module that has something to replace says so in its ``SEAMS``, and whatever calls that looks
it up there: a mutant reaches all paths, the one a GPU takes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ffalora_cli.data.partition import partition
from ffalora_cli.engine.stacked import clipped_sums, engine, unit_sums
from ffalora_cli.federation import round
from ffalora_cli.federation.server import release
from ffalora_cli.privacy import ledger
from ffalora_cli.privacy.mechanism import batches, example_level
from ffalora_cli.privacy.planning import make

Change = Callable[..., Any]
"""(the real function, its arguments) -> what is returned in its place."""


@dataclass(frozen=True)
class Seam:
    """One of a module's ``SEAMS``: a function, or ``Class.method``."""

    module: ModuleType
    name: str


# (layout, clients, sd, secret, round, step, *rest) -> [clients, P]
NOISE = Seam(example_level, "step_noise")
# (privacy, slots, losses, grads, *rest): clip and add; ``privacy=None`` only adds. ``grads`` are
# {name: [examples, ...]}; a surrogate's tensors are too small for ghost
# norms.
MICRO_BATCH = Seam(clipped_sums, "add_clipped")
# (privacy, sums, total, counts): clip units of several rows and add them
UNIT_END = Seam(unit_sums, "close_units")
# (pairs, most) -> parts: which rows are summed before units are clipped
UNIT_PARTS = Seam(unit_sums, "whole_units")
# (key, client, round, step, drawn, rows, units, most) -> (rows, units)
UNIT_ROWS = Seam(batches, "rows_of_units")
# (key, client, round, step, rows, sample_rate) -> rows
SAMPLER = Seam(batches, "poisson_batch")
# (owner, num_clients) -> ClientRows: rows to their clients
DEALT_ROWS = Seam(partition, "_collect")
# (self, ids, state) -> ExamplePrivacy: what engines are told
EXAMPLE_PRIVACY = Seam(release, "ExampleRelease.privacy")
# (job, step, pairs, tensors): noise and divisor, on ``tensors.total [clients, P]``
STEP_END = Seam(engine, "_privatise")
TRAINING = Seam(engine, "StackedEngine.train")  # (self, job) -> LocalResult
PLANNING = Seam(make, "make_plan")  # (privacy, sizes, federation, covered) -> PrivacyPlan
LEDGER = Seam(ledger, "PrivacyLedger.charge")  # (self, round, clients, steps)
UPLOAD = Seam(round, "upload")  # (setting, number, ids, held, result) -> Packed: a chunk sends it
# (setting, state, number, ids, packed, ...) -> Receipt: what was unpacked
ARRIVAL = Seam(round, "receive")


@contextmanager
def replaced(changes: Mapping[Seam, Change]) -> Iterator[None]:
    """Put changes in the place of functions inside the ``with``.

    Raises:
        LookupError: a module declares no such seam.
    """
    with ExitStack() as originals:
        for seam, change in changes.items():
            if seam.name not in seam.module.SEAMS:
                raise LookupError(f"{seam.module.__name__} has no seam {seam.name}")
            path, _, name = seam.name.rpartition(".")
            owner = getattr(seam.module, path) if path else seam.module
            original = getattr(owner, name)
            originals.callback(setattr, owner, name, original)
            setattr(owner, name, _instead(original, change))
        yield


def _instead(original: Any, change: Change) -> Callable[..., Any]:
    return lambda *arguments, **named: change(original, *arguments, **named)


@dataclass(frozen=True)
class Mutant:
    """One broken mechanism.

    Attributes:
        name: what is broken.
        caught_by: name of a check that must fail.
        changes: that break the real code, by their seams.
    """

    name: str
    caught_by: str
    changes: Mapping[Seam, Change]
