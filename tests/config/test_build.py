"""``build`` takes exactly what the schema says and gives it back unchanged."""

from __future__ import annotations

import copy

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.build import (
    build,
    is_known,
    leaf_keys,
    nearest_key,
    of_earlier,
    to_plain,
)
from ffalora_cli.config.errors import ConfigError


@pytest.fixture(scope="module")
def default() -> dict:
    return plan([])[0].resolved


def changed(plain: dict, key: str, value: object) -> dict:
    """A copy with one dotted key set."""
    copied = copy.deepcopy(plain)
    node = copied
    *sections, last = key.split(".")
    for section in sections:
        node[section] = node = node[section] or {}  # of a section that may be null
    node[last] = value
    return copied


def test_plain_values_survive_a_round_trip(default) -> None:
    config = build(default)
    assert to_plain(config) == default
    assert build(to_plain(config)) == config


def test_lists_become_tuples_and_whole_numbers_floats_only_where_declared(default) -> None:
    config = build(changed(default, "adapter.alpha", 16))
    assert isinstance(config.adapter.alpha, float)
    assert type(config.adapter.rank) is int
    assert isinstance(config.task.classes, tuple)


@pytest.mark.parametrize("key", leaf_keys())
def test_every_leaf_refuses_a_value_of_a_foreign_type(default, key) -> None:
    if key.endswith(".*"):
        key = key.removesuffix(".*")
        if key == "method.options":
            pytest.skip("options are a method's own and of any type")
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        build(changed(default, key, object()))


@pytest.mark.parametrize(
    "key", ["seed", "adapter.rank", "federation.server_optimizer.lr", "privacy.unit"]
)
def test_a_missing_key_is_named(default, key) -> None:
    plain = copy.deepcopy(default)
    node = plain
    *sections, last = key.split(".")
    for section in sections:
        node = node[section]
    del node[last]
    with pytest.raises(ConfigError, match=key):
        build(plain)


def test_booleans_are_not_numbers(default) -> None:
    for key in ("seed", "adapter.alpha"):
        with pytest.raises(ConfigError, match=key):
            build(changed(default, key, True))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("federation.round", "federation.rounds"),
        ("rounds", "federation.rounds"),
        ("adapter.rnk", "adapter.rank"),
        ("privacy.epsilon", "privacy.epsilon_target"),
        ("local_lr", "federation.local_lr"),
        ("sede", "seed"),
        ("paths.dat", "paths.data"),
    ],
)
def test_nearest_key(typed, meant) -> None:
    assert nearest_key(typed) == meant


def test_open_mappings_take_any_name_below_them() -> None:
    assert is_known("method.options.anything")
    assert is_known("model.targets.mine")
    assert not is_known("adapter.anything")


def test_a_recorded_clip_of_all_patterns_is_read_as_one_of_each() -> None:
    plain = to_plain(plan([])[0].config)
    earlier = {**plain, "model": {**plain["model"], "max_grad_norm": 0.5}}
    assert set(build(of_earlier(earlier)).model.max_grad_norm.items()) == {
        (pattern, 0.5) for pattern in plain["model"]["targets"]
    }
