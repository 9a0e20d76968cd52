"""What a mutant replaces is what runs: on every path of the engine, the one a GPU takes too."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

import ffalora_cli
from ffalora_cli.audit.mutants import seams
from ffalora_cli.audit.mutants.seams import Seam
from ffalora_cli.engine.job import LocalOptimizer
from ffalora_cli.engine.stacked import engine as stacked
from tests.engine.test_engines import gap, job
from tests.tiny import TinyExamples, tiny_network

ROOT = Path(ffalora_cli.__file__).parent
PATHS = {"packed": ("bert", False), "padded": ("deberta", False), "fixed": ("bert", True)}


def declaring():
    """Every module with ``SEAMS``."""
    for file in sorted(ROOT.rglob("*.py")):
        if "\nSEAMS = " in file.read_text(encoding="utf-8"):
            name = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
            yield importlib.import_module(name)


def test_nobody_keeps_a_seam_under_a_name_of_his_own():
    """``from module import function`` at the top of a file would pass a mutant by."""
    functions = {(m.__name__, seam) for m in declaring() for seam in m.SEAMS if "." not in seam}
    assert functions
    for file in ROOT.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                taken = {(node.module, alias.name) for alias in node.names}
                assert not taken & functions, f"{file}: {taken & functions}"


def test_what_is_declared_is_what_is_cut():
    """A seam that was renamed, forgotten or is not looked up any more shows here."""
    cut = [seam for seam in vars(seams).values() if isinstance(seam, Seam)]
    replaced = [attrgetter(seam.name)(seam.module) for seam in cut]
    declared = [attrgetter(seam)(module) for module in declaring() for seam in module.SEAMS]
    assert set(replaced) == set(declared) and len(replaced) == len(declared)
    with seams.replaced(dict.fromkeys(cut, str)):
        broken = [attrgetter(seam.name)(seam.module) for seam in cut]
    assert not set(broken) & set(replaced)


def test_only_what_is_declared_can_be_replaced():
    undeclared = {Seam(stacked, "FEW"): str}
    with pytest.raises(LookupError, match="no seam FEW"), seams.replaced(undeclared):
        pass


@pytest.fixture(params=PATHS, scope="module")
def path(request):
    """Trains two clipped steps without noise, learning rate 1, on one path."""
    family, fixed = PATHS[request.param]
    network, examples = tiny_network(family), TinyExamples(36)
    work = job(network, head=True, steps=2, optimizer=LocalOptimizer("sgd", 1.0))
    quiet = dataclasses.replace(work.privacy, noise_sd=np.zeros(3))
    work = dataclasses.replace(work, privacy=quiet)
    engine = stacked.StackedEngine(network, examples, 64, fixed=fixed, ghost_norms=False)
    return lambda: (work, engine.train(work).trained)


def unmoved(work, trained):
    return all(torch.equal(trained[n], work.start[n]) for n in work.trainable)


def test_clip_and_sum(path):
    """Gradients of zero leave everybody where he was; unclipped ones go further."""

    def zero(real, privacy, slots, losses, grads, *rest):
        real(privacy, slots, losses, {n: 0 * g for n, g in grads.items()}, *rest)

    def unclipped(real, privacy, *rest):
        real(None, *rest)

    work, clipped = path()
    assert gap(clipped, work.start) > 1e-3
    with seams.replaced({seams.MICRO_BATCH: zero}):
        assert unmoved(*path())
    with seams.replaced({seams.MICRO_BATCH: unclipped}):
        assert gap(path()[1], clipped) > 1e-2
    assert gap(path()[1], clipped) == 0.0


def test_noise(path):
    """A constant instead of the noise shows once a step, divided by the expected batch."""

    def ones(real, *arguments):
        return torch.ones_like(real(*arguments))

    work, _ = path()
    with seams.replaced({seams.NOISE: ones, seams.MICRO_BATCH: lambda *arguments: None}):
        moved = {n: (v - work.start[n])[0] for n, v in path()[1].items()}
    expected = -2.0 / float(work.privacy.expected_batch[0])
    for value in moved.values():
        torch.testing.assert_close(value, torch.full_like(value, expected), atol=1e-5, rtol=1e-5)


def test_end_of_a_step_and_training(path):
    with seams.replaced({seams.STEP_END: lambda *arguments: arguments[-1].total.zero_()}):
        assert unmoved(*path())

    def nothing(real, *arguments):
        return dataclasses.replace(real(*arguments), trained={})

    with seams.replaced({seams.TRAINING: nothing}):
        assert path()[1] == {}
