"""What a network says of its own size."""

from __future__ import annotations

import pytest

from tests.tiny import FAMILIES, tiny_network


def frozen_by_hand(network) -> int:
    """Every distinct tensor that a module outside the head holds, walked module by module."""
    heads = {name.removeprefix("head.") for name in network.head_names}
    seen: dict[int, int] = {}
    for path, module in network.plain.named_modules(remove_duplicate=False):
        for leaf, parameter in module._parameters.items():
            if parameter is not None and f"{path}.{leaf}" not in heads:
                seen[parameter.data_ptr()] = parameter.numel()
    return sum(seen.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_parameters_are_those_outside_the_head(family) -> None:
    network = tiny_network(family)
    whole = sum(parameter.numel() for parameter in network.plain.parameters())
    head = sum(spec.size for spec in network.specs if spec.kind == "head")
    assert network.frozen_parameters == frozen_by_hand(network) == whole - head


def test_a_weight_that_two_modules_share_counts_once_and_stays_frozen() -> None:
    network = tiny_network("roberta")
    before = network.frozen_parameters
    layer = network.plain.roberta.encoder.layer
    first, second = (layer[i].attention.output.dense for i in (0, 1))
    second.weight = first.weight  # two layers of the backbone
    assert network.frozen_parameters == before - first.weight.numel() == frozen_by_hand(network)
    network.plain.classifier.dense.weight = first.weight  # and one of the head
    assert network.frozen_parameters == before - first.weight.numel() == frozen_by_hand(network)
