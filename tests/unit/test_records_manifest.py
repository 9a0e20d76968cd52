"""Provenance: fingerprints change when a bit changes, git state is that of our own checkout."""

import json
import os
import subprocess
import sys
import time

import numpy
import pytest
import torch

from ffalora_cli.records.files import to_json
from ffalora_cli.records.manifest import (
    build_manifest,
    environment,
    fingerprint_file,
    fingerprint_tensors,
    git_state,
)


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


def test_file_fingerprint_is_fast_and_sees_one_bit(tmp_path):
    content = bytearray(os.urandom(1 << 20) * 90)  # the size of MiniLM
    path = tmp_path / "weights"
    path.write_bytes(content)
    start = time.process_time()
    first = fingerprint_file(path)
    assert time.process_time() - start < 1.0  # 0.11 s of CPU measured
    content[47_000_000] ^= 1
    path.write_bytes(content)
    assert fingerprint_file(path) != first


def test_environment_knows_versions_without_importing(tmp_path):
    code = (
        "import sys; from ffalora_cli.records.manifest import environment; environment();"
        "print([m for m in ('torch', 'transformers', 'wandb', 'opacus') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
    facts = environment()
    assert facts["versions"]["torch"] == str(torch.__version__)
    assert facts["versions"]["numpy"] == numpy.__version__
    assert {"opacus", "dp-accounting", "transformers"} <= facts["versions"].keys()


def test_manifest_is_json_and_names_no_one():
    manifest = build_manifest(
        id="demo-abc",
        signature="abc",
        command=["ffalora", "run"],
        device="cpu",
        threads=2,
        seeds={"run": 1},
        data_fingerprints={"train": "blake2b:00"},
        model_fingerprint="blake2b:11",
        extra={"max_tokens": 4096},
    )
    text = to_json(manifest)
    assert json.loads(text)["created"].endswith("+00:00")
    assert os.uname().nodename.encode() not in text
    assert manifest["max_tokens"] == 4096 and manifest["schema_version"] == 1


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_git_state_of_a_checkout(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert git_state(package) is None  # no repository
    git(tmp_path, "init")
    (tmp_path / "other").write_text("1")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-m", "x")
    assert git_state(package) is None  # a virtual environment inside someone's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "y")
    clean = git_state(package)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "untracked").write_text("1")
    assert git_state(package)["dirty"] is False
    (tmp_path / "other").write_text("2")
    assert git_state(package) == {"commit": clean["commit"], "dirty": True}
