"""A run that has diverged is stopped with a cause; one that is only slow or noisy never is."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import RunFailed
from ffalora_cli.experiment.rounds import _watch
from ffalora_cli.federation.diagnosis import Watch, advice
from ffalora_cli.federation.server.robust import combination_warnings
from ffalora_cli.tasks.causal_lm import TASK
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.types import RoundRecord

CHANCE = {"accuracy": 0.23, "mcc": 0.0}  # of BBC News


def watched(losses, scores, *overrides, dropped=0.0, rejected=(), chance=CHANCE):
    """Notes of a run with these evaluations, the first of them before training."""
    watch = Watch(plan(list(overrides))[0].config, chance)
    notes = []
    for round, (loss, score) in enumerate(zip(losses, scores, strict=True)):
        metrics = {"eval/loss": loss, "eval/accuracy": score}
        if round:
            metrics |= {"train/examples": 96.0, "train/nonfinite_examples": dropped}
        notes += watch.see(RoundRecord(round, metrics, (), rejected if round else ()))
    return notes, watch.closing()


# Measured: BBC News, packaged MiniLM, 3 clients, no privacy, FFA-LoRA with 10^5 times the
# recommended rate. A frozen head on tanh features keeps the loss below 3.
DIVERGED = [1.627, 2.76, 2.637, 2.513, 2.46, 2.655, 2.543]
HONEST = {  # measured likewise: as recommended; private; private with ten times the rate; LoRA
    "plain": [1.627, 1.583, 1.561, 1.502, 1.434, 1.354, 1.284, 1.16, 1.035],
    "private": [1.627, 1.607, 1.604, 1.615, 1.585, 1.505, 1.484, 1.473, 1.477],
    "noisy": [1.627, 1.62, 1.614, 1.7, 1.676, 1.703, 1.694, 1.685, 1.667],
    "one bad start": [1.627, 3.524, 1.652, 1.607, 1.613, 1.601, 1.6, 1.601, 1.625],
}


def test_a_measured_divergence_is_stopped_with_values_and_a_suggestion():
    with pytest.raises(RunFailed) as caught:
        watched(DIVERGED, [0.176] * 7, "privacy=none", "federation.local_lr=800000")
    text = str(caught.value)
    assert "\n" not in text and "round 5: diverged" in text
    assert "federation.local_lr=800000, adapter.alpha=8" in text
    assert "try federation.local_lr=8" in text


@pytest.mark.parametrize("name", HONEST)
def test_measured_runs_at_chance_go_on(name):
    assert not watched(HONEST[name], [0.176] * 9)[0]


def test_a_high_loss_with_some_accuracy_is_overfitting_not_divergence():
    assert not watched([1.6, *[30.0] * 20], [0.2, *[0.5] * 20])[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_stays_not_finite_stops_at_the_second_evaluation(value):
    watched([1.6, value, 1.6, value, 1.6], [0.2] * 5)
    with pytest.raises(RunFailed, match="round 3: diverged: the evaluation loss is not finite"):
        watched([1.6, 1.6, value, value], [0.2] * 4)


def test_gradients_that_are_not_finite_are_counted_and_most_of_them_stop_the_run():
    _, closing = watched([1.6] * 4, [0.4] * 4, dropped=2.0)
    assert "6 examples had gradients that are not finite" in closing[0]
    with pytest.raises(RunFailed, match="round 3: diverged: half of all gradients"):
        watched([1.6] * 5, [0.4] * 5, dropped=48.0)


def test_who_was_rejected_is_named_once_and_counted():
    rejected = ({"client": 3, "reason": "nonfinite"}, {"client": 5, "reason": "norm"})
    notes, closing = watched([1.6] * 4, [0.4] * 4, rejected=rejected)
    assert len(notes) == 2
    assert "round 1: the upload of client 3 is left out: it holds NaN or infinity" in notes[0]
    assert "6 uploads of 2 clients were rejected" in closing[0]


def test_a_language_model_is_judged_by_its_loss_as_no_constant_answer_scores_anything():
    words = ("experiment=dolly_small", "federation.local_lr=0.4")
    none = {"chance": TASK.chance(None)}
    with pytest.raises(RunFailed, match=r"round 5: .*loss 5.4 \(before training 3.4\) for 5 eval"):
        watched([3.4, *[5.4] * 5], [0.4] * 6, *words, **none)
    assert watched([3.4, *[5.0] * 8, 3.3], [0.4] * 10, *words, **none)[1] == []
    (note,) = watched([3.4, *[3.5] * 6], [0.4] * 7, *words, **none)[1]
    assert "the loss never fell; used federation.local_lr=0.4" in note


def test_a_run_that_never_leaves_chance_ends_with_advice():
    assert watched(HONEST["private"], [0.176] * 8 + [0.4])[1] == []
    (note,) = watched(HONEST["noisy"], [0.176] * 9, "federation.local_lr=80")[1]
    assert "accuracy never left chance" in note and "federation.local_lr=8" in note
    assert watched([1.6] * 4, [0.2] * 4)[1] == []  # too short to say


@pytest.mark.parametrize(
    ("typed", "cause"),
    [
        ("federation.local_lr=100", "learning rate; try federation.local_lr=8"),
        ("adapter.alpha=64", "adapter scale; try adapter.alpha=8"),
        ("privacy.max_grad_norm=10", "clip; try privacy.max_grad_norm=0.5"),
        ("seed=1", "learning rate; try federation.local_lr=0.8"),
    ],
)
def test_the_likely_cause_is_what_differs_from_the_recommended(typed, cause):
    assert cause in advice(plan([typed])[0].config)


def test_few_skewed_clients_are_warned_about():
    def warnings(*typed):
        config = plan(list(typed))[0].config
        return combination_warnings(config, config.federation.num_clients)

    assert warnings() == ()
    skewed, weights = warnings("federation.combination=median")
    assert "3 clients of skewed data honest updates differ as much as an attack" in skewed
    assert "federation.weights=size has no effect" in weights
    assert warnings("federation=small", "federation.combination=norm_bound") == ()


def test_what_was_said_before_a_resume_is_counted_and_not_said_again():
    rejected = ({"client": 1, "reason": "norm"},)
    rows = SimpleNamespace(targets=Targets(np.repeat([0, 1], [7, 3])))
    parts = SimpleNamespace(config=plan([])[0].config, data=SimpleNamespace(train=rows))
    earlier = [RoundRecord(0, {}), RoundRecord(1, {}, (), rejected)]
    fresh, resumed = (_watch(SimpleNamespace(parts=parts, records=r)) for r in ([], earlier))
    assert len(fresh.see(RoundRecord(2, {}, (), rejected))) == 1
    assert resumed.see(RoundRecord(2, {}, (), rejected)) == []
    assert resumed.closing()[0].startswith("2 uploads of 1 clients were rejected")


def test_the_share_clipped_is_said_where_units_have_several_rows():
    """A clip recommended for one row says little about the sum over a person's rows."""

    def closing(unit):
        overrides = [f"privacy.unit={unit}", "task.unit_column=author"]
        watch = Watch(plan(overrides)[0].config, CHANCE)
        for round, share in enumerate([0.5, 0.9], start=1):
            watch.see(RoundRecord(round, {"train/clipped_share": share, "train/examples": 9.0}))
        return watch.closing()

    (note,) = closing("column")
    assert "70% of the units were clipped at privacy.max_grad_norm=" in note
    assert closing("text") == []


def test_units_that_were_dropped_are_compared_with_units():
    """Two of three units dropped in every round, though each had ten rows."""
    watch = Watch(plan([])[0].config, CHANCE)
    metrics = {"train/examples": 30.0, "train/units": 3.0, "train/nonfinite_examples": 2.0}
    with pytest.raises(RunFailed, match="half of all gradients"):
        for round in (1, 2, 3):
            watch.see(RoundRecord(round, metrics))
