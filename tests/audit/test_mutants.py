"""Every mutant of the real code is caught by the check named for it; the clean code by none."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from ffalora_cli.audit.mechanism.accounting import accounting_checks
from ffalora_cli.audit.mechanism.battery import QUICK
from ffalora_cli.audit.mechanism.clip import clip_checks, unit_checks
from ffalora_cli.audit.mechanism.draws import draw_empty, draw_keys
from ffalora_cli.audit.mechanism.noise import repeats
from ffalora_cli.audit.mechanism.sampler import draw_batches, sampler_checks, twins
from ffalora_cli.audit.mechanism.uploads import play, upload_checks
from ffalora_cli.audit.mutants import run as mutants
from ffalora_cli.audit.mutants import seams
from ffalora_cli.audit.mutants.run import run_mutant
from ffalora_cli.audit.mutants.seams import Mutant
from tests.audit.subjects import SIZES, battery_of, config, noise_part, subject
from tests.audit.test_seams import declaring

MUTANTS = {mutant.name: mutant for mutant in mutants.MUTANTS}
BY_CHECK = {mutant.caught_by: mutant.name for mutant in reversed(mutants.MUTANTS)}


def sampler_part(subject):
    return sampler_checks(subject, draw_batches(subject, QUICK.inclusions))


def ledger_part(subject):
    return accounting_checks(subject, draw_empty(subject, 1), play(subject))


PARTS = (  # of the battery, the cheap ones first
    lambda subject: [twins(subject)],
    sampler_part,
    noise_part,
    lambda subject: upload_checks(subject, play(subject)),
    unit_checks,
    ledger_part,
    lambda subject: clip_checks(subject)[0],
)


@pytest.fixture(scope="module")
def part_with():
    """The part of the battery that holds a check, by the check's name."""
    audited = subject()
    found = {}
    for part in PARTS:
        for check in part(audited):
            found.setdefault(check.name, part)
    return found


def test_there_are_enough_and_each_has_a_name():
    assert len(MUTANTS) == len(mutants.MUTANTS) >= 16


@pytest.mark.parametrize("name", BY_CHECK.values())
def test_a_mutant_is_caught_by_its_part_of_the_battery(name, part_with, monkeypatch):
    """One mutant a check; all of them, each by the whole battery, are in the slow set."""
    part = part_with[MUTANTS[name].caught_by]
    monkeypatch.setattr(mutants, "run_checks", battery_of(part))
    result = run_mutant(config(), SIZES, b"m" * 32, MUTANTS[name])
    assert result.caught, f"{name}: only {result.failed} failed, not {result.expected}"


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name):
    result = run_mutant(config(), SIZES, b"m" * 32, MUTANTS[name])
    assert result.caught, f"{name}: only {result.failed} failed, not {result.expected}"


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=fedsa_lora", "head.mode=personal", "federation.wire_dtype=bfloat16"),
        *(
            pytest.param(overrides, marks=pytest.mark.slow)
            for overrides in (
                (),
                ("method=lora", "federation.local_optimizer=adamw"),
                ("method=fedex_lora", "federation.local_momentum=0.9"),
                ("method=rolora", "head.mode=frozen"),
                ("method=fedsvd",),
            )
        ),
    ],
    ids=lambda overrides: overrides[0] if overrides else "default",
)
def test_clean_code_is_not_caught(overrides):
    """The false-alarm level of a whole audit is 1e-4; these seeds are fixed."""
    result = run_mutant(config(*overrides), SIZES, b"c" * 32, Mutant("", "", {}))
    assert result.failed == ()


def test_a_run_of_one_client_is_audited(monkeypatch):
    monkeypatch.setattr(mutants, "run_checks", battery_of(noise_part))
    weak = MUTANTS["noise × 0.95"]
    result = run_mutant(config("federation.num_clients=1"), SIZES[:1], b"o" * 32, weak)
    assert result.caught


def test_seams_are_closed_again():
    def standing():
        found = {}
        for module in declaring():
            for seam in module.SEAMS:
                found[module.__name__, seam] = operator.attrgetter(seam)(module)
        return found

    before = standing()
    assert len(before) >= 14
    for mutant in MUTANTS.values():
        with pytest.raises(ValueError, match="stop"), seams.replaced(mutant.changes):
            raise ValueError("stop")
    assert standing() == before


def test_noise_keyed_by_32_bits_is_seen():
    """What torch's CPU generator does with a seed: 200,000 draws hold 4.7 pairs on average."""
    import torch

    def step_noise(real, layout, clients, sd, secret, round, step, *rest):
        from ffalora_cli.keys import derive, torch_seed

        generator, values = torch.Generator(), torch.empty(len(clients), 16)
        for row, client in zip(values, clients, strict=True):
            seed = torch_seed(derive(secret, "noise", int(client), round, step))
            row.normal_(generator=generator.manual_seed(seed))
        return values

    audited = subject()
    with seams.replaced({seams.NOISE: step_noise}):
        narrow = repeats(draw_keys(audited, 200_000), "narrow")
    assert not narrow.passed
    assert narrow.statistic < 20
    assert repeats(draw_keys(audited, 50_000), "wide").passed


def test_sizes_are_those_of_the_plan():
    assert np.array_equal(subject().plan.examples, SIZES)
