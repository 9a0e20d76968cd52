"""Fingerprints of weights change when, and only when, their content does."""

import pytest
import torch

from ffalora_cli.models.fingerprint import fingerprint_tensors


def tensors():
    return {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3, dtype=torch.int64)}


def test_tensor_fingerprint_depends_on_content_only():
    base = fingerprint_tensors(tensors())
    assert base.startswith("blake2b:") and len(base) == 8 + 32
    reordered = dict(reversed(tensors().items()))
    strided = {**tensors(), "b": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    assert fingerprint_tensors(reordered) == fingerprint_tensors(strided) == base


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "b": t["b"] + torch.eye(2, 3) * 1e-6},
        lambda t: {**t, "b": t["b"].reshape(3, 2)},
        lambda t: {**t, "b": t["b"].view(torch.int32)},
        lambda t: {"c": t["b"], "a": t["a"]},
        lambda t: {"a": t["a"]},
    ],
)
def test_tensor_fingerprint_sees_values_shapes_dtypes_and_names(change):
    assert fingerprint_tensors(change(tensors())) != fingerprint_tensors(tensors())


def test_half_precision_and_empty_tensors_have_fingerprints():
    first = fingerprint_tensors({"x": torch.zeros(3, dtype=torch.bfloat16), "y": torch.zeros(0)})
    assert first != fingerprint_tensors({"x": torch.ones(3, dtype=torch.bfloat16)})
