"""Scores against hand-computed values and plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.tasks.metrics import SCORES, confusion
from ffalora_cli.tasks.text_classification import TASK
from tests.tiny import task_of

# 10 rows: TP 3, TN 4, FP 1, FN 2.
LABELS = [1, 1, 1, 0, 0, 0, 0, 0, 1, 1]
SAID = [1, 1, 1, 0, 0, 0, 0, 1, 0, 0]


def test_confusion_has_true_classes_as_rows():
    assert confusion(LABELS, SAID, 2).tolist() == [[4, 1], [2, 3]]


def test_hand_computed_binary_scores():
    counts = confusion(LABELS, SAID, 2)
    assert SCORES["accuracy"](counts) == 0.7
    assert SCORES["f1"](counts) == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert SCORES["mcc"](counts) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_f1_is_of_class_one():
    counts = confusion(LABELS, SAID, 2)
    swapped = counts[::-1, ::-1]
    assert SCORES["f1"](swapped) == pytest.approx(8 / 11)
    assert SCORES["f1"](counts) != SCORES["f1"](swapped)


@pytest.mark.parametrize(
    ("labels", "said", "accuracy", "f1", "mcc"),
    [
        ([], [], 0.0, 0.0, 0.0),
        ([0, 0], [0, 0], 1.0, 0.0, 0.0),  # class 1 neither there nor said
        ([1, 1], [1, 1], 1.0, 1.0, 0.0),  # one class only: no correlation to speak of
        ([0, 1], [1, 1], 0.5, 2 / 3, 0.0),
        ([0, 1], [1, 0], 0.0, 0.0, -1.0),
        ([0, 1], [0, 1], 1.0, 1.0, 1.0),
    ],
)
def test_degenerate_cases(labels, said, accuracy, f1, mcc):
    counts = confusion(labels, said, 2)
    got = [SCORES[name](counts) for name in ("accuracy", "f1", "mcc")]
    assert got == pytest.approx([accuracy, f1, mcc])


rows = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)),
            min_size=1,
            max_size=60,
        ),
    )
)


@given(rows)
def test_against_loops(drawn):
    classes, pairs = drawn
    labels, said = np.array(pairs).T
    counts = confusion(labels, said, classes)
    for i in range(classes):
        for j in range(classes):
            assert counts[i, j] == sum(pair == (i, j) for pair in pairs)
    assert SCORES["accuracy"](counts) == sum(a == b for a, b in pairs) / len(pairs)
    # The correlation of the one-hot indicators, summed over classes, is what MCC means.
    x, y = np.eye(classes)[labels], np.eye(classes)[said]
    x, y = x - x.mean(0), y - y.mean(0)
    spread = (x * x).sum() * (y * y).sum()
    expected = (x * y).sum() / math.sqrt(spread) if spread > 1e-12 else 0.0
    assert SCORES["mcc"](counts) == pytest.approx(expected, abs=1e-9)


def test_matrices_of_parts_add_up():
    whole = confusion(LABELS, SAID, 2)
    parts = confusion(LABELS[:4], SAID[:4], 2) + confusion(LABELS[4:], SAID[4:], 2)
    assert (whole == parts).all()


def test_mcc_of_large_counts_does_not_overflow():
    counts = np.array([[2 * 10**9, 10**9], [10**9, 2 * 10**9]])
    assert SCORES["mcc"](counts) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0, 1], [0]), ([0, 2], [0, 1]), ([0, -1], [0, 1]), ([0, 1], [0.0, 1.0]), ([[0]], [[0]])],
)
def test_confusion_refuses_what_would_be_miscounted(labels, said):
    with pytest.raises(ValueError):
        confusion(labels, said, 2)


def test_errors_name_the_key_and_the_nearest():
    with pytest.raises(ConfigError, match=r"task\.metrics='acuracy'.*'accuracy'"):
        TASK.check(replace(task_of(2), metrics=("acuracy",)))
    with pytest.raises(ConfigError, match="f1 needs 2 classes, not 3"):
        SCORES["f1"](np.eye(3, dtype=np.int64))
    assert set(SCORES) == set(TASK.metrics) == {"accuracy", "f1", "mcc"}


def test_client_scores_are_reweighted_to_the_clients_labels() -> None:
    """Against a loop over rows: plain accuracy, and accuracy under each client's label mix."""
    from ffalora_cli.engine.evaluate import client_scores, predict
    from tests.tiny import TinyExamples, tiny_network

    network, examples = tiny_network("bert"), TinyExamples(60)
    counts = np.array([[8, 1, 1], [0, 5, 5]])
    models = [network.initial, {n: v + 0.3 for n, v in network.initial.items()}]
    plain, own = client_scores(network, examples, models, counts, task_of(3))
    for client, model in enumerate(models):
        predicted = predict(network, examples, model, 64).answers
        right = predicted == examples.targets.values
        assert plain[client] == right.mean()
        expected = sum(
            counts[client, c] / counts[client].sum() * right[examples.targets.values == c].mean()
            for c in range(3)
        )
        assert abs(own[client] - expected) < 1e-12
    one, _ = client_scores(network, examples, models[:1], counts, task_of(3))
    assert one.tolist() == [plain[0], plain[0]]
