"""Provenance: versions without imports, git state is that of our own checkout."""

import json
import os
import subprocess
import sys

import numpy
import torch

from ffalora_cli.records.files import to_json
from ffalora_cli.records.manifest import (
    build_manifest,
    environment,
    git_state,
)


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
