"""The run secret: two configs never share it, and a secure one is nowhere but in its file."""

from __future__ import annotations

import base64
import os
import stat

import numpy as np
import pytest
import torch

from ffalora_cli import experiment
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.keys import derive
from ffalora_cli.privacy.mechanism import secret as secret_module
from ffalora_cli.privacy.mechanism.example_level import step_noise
from ffalora_cli.privacy.mechanism.secret import SECRET, erase_secret, run_secret
from tests.tiny import save_tiny_bert

SHAPES = {"q.lora_b": (64, 8)}


def draw(secret):
    return step_noise(SHAPES, [0], np.ones(1), secret, 1, 0).view(64, 8)


def test_two_configs_never_share_noise():
    secrets = {
        run_secret("reproducible", seed, signature, inputs)
        for seed in (0, 1, 11)
        for signature in ("a", "b", "1a", "")
        for inputs in ("inputs", "1a", None)
    }
    assert len(secrets) == 36
    assert run_secret("reproducible", 0, "a", "inputs") in secrets
    first, second = (draw(secret) for secret in sorted(secrets)[:2])
    assert not torch.isclose(first, second).all(-1).any()


def test_without_privacy_the_secret_is_what_it_always_was():
    """It keys dropout there, whose bits do not change."""
    assert run_secret("reproducible", 3, "a", None) == derive(3, "run secret", "a")


def test_secure_secret_is_kept_private_and_reread(tmp_path):
    path = tmp_path / "secret"
    old = os.umask(0)
    try:
        secret = run_secret("secure", 0, "signature", "inputs", path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run_secret("secure", 0, "signature", "inputs", path) == secret
    assert run_secret("secure", 0, "signature", "inputs", tmp_path / "other") != secret
    assert run_secret("secure", 0, "signature", "inputs") != run_secret(
        "secure", 0, "signature", "inputs"
    )


def test_a_damaged_secret_is_refused(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="damaged"):
        run_secret("secure", 0, "signature", "inputs", path)


def test_unknown_noise_mode_is_named():
    with pytest.raises(ConfigError, match=r"privacy\.noise='secured'.*'secure'"):
        run_secret("secured", 0, "signature", "inputs")


def test_a_secret_others_can_read_is_refused(tmp_path):
    path = tmp_path / SECRET
    run_secret("secure", 0, "signature", "inputs", path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        run_secret("secure", 0, "signature", "inputs", path)


def test_a_resumed_run_never_makes_new_noise(tmp_path):
    path = tmp_path / SECRET
    with pytest.raises(ConfigError, match="second release"):
        run_secret("secure", 0, "signature", "inputs", path, resumed=True)
    assert not path.exists()
    secret = run_secret("secure", 0, "signature", "inputs", path)
    assert run_secret("secure", 0, "signature", "inputs", path, resumed=True) == secret


def test_erasing_overwrites_before_it_removes(tmp_path):
    path, link = tmp_path / SECRET, tmp_path / "another name of the same blocks"
    run_secret("secure", 0, "signature", "inputs", path)
    os.link(path, link)
    erase_secret(path)
    assert not path.exists() and link.read_bytes() == bytes(32)
    erase_secret(path)  # nothing there: nothing to do


def test_a_begun_secure_run_without_its_secret_is_refused(tmp_path):
    model, root = save_tiny_bert(tmp_path / "model"), tmp_path / "runs"
    with pytest.raises(KeyboardInterrupt):
        secure_run(root, model, Watcher(stop_at=1))
    (path,) = root.rglob(SECRET)
    path.unlink()
    before = {p: p.read_bytes() for p in root.rglob("*.jsonl")}
    with pytest.raises(ConfigError, match="secret is gone"):
        secure_run(root, model, Watcher())
    assert {p: p.read_bytes() for p in root.rglob("*.jsonl")} == before
    assert not list(root.rglob(SECRET))


class Watcher:
    """Looks at the secret's file while the run is on, and may stop the run."""

    def __init__(self, stop_at=None):
        self.seen, self.said, self.stop_at = [], [], stop_at

    def note(self, text):
        self.said.append(text)

    def started(self, facts):
        self.said.append(repr(facts))

    def working(self, on, done, total): ...

    def round_done(self, record):
        self.said.append(repr(record))
        (path,) = self.root.rglob(SECRET)
        self.seen.append((stat.S_IMODE(path.stat().st_mode), path.read_bytes()))
        if record.round == self.stop_at:
            raise KeyboardInterrupt

    def finished(self, summary):
        self.said.append(repr(summary))


def secure_run(root, model, watcher):
    (job,) = plan(
        [
            "model=auto",
            f"model.source={model}",
            "debug=tiny",
            "federation.rounds=2",
            "privacy.accountant=rdp",
            "privacy.noise=secure",
            "tracking=wandb",
            "tracking.mode=offline",
            f"paths.runs={root}",
        ]
    )
    watcher.root = root
    return experiment.run(job, watcher)


def test_a_secure_run_leaves_its_secret_nowhere(tmp_path, monkeypatch, capfd):
    """On the real path: file 0600 while it runs; then gone, and in no artifact (W&B too)."""
    known = bytes(range(100, 132))
    monkeypatch.setattr(secret_module.os, "urandom", lambda n: known[:n])
    model = save_tiny_bert(tmp_path / "model")
    root = tmp_path / "runs"
    stopped = Watcher(stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        secure_run(root, model, stopped)
    assert stopped.seen == [(0o600, known)] * 2  # still there: the run is not finished
    watcher = Watcher()
    secure_run(root, model, watcher)
    assert watcher.seen == [(0o600, known)]  # it went on with round 2, and the same noise
    assert not list(root.rglob(SECRET))  # of the aborted run, too
    texts = [p.read_bytes() for p in root.rglob("*") if p.is_file()]
    texts += ["".join(watcher.said).encode(), *(t.encode() for t in capfd.readouterr())]
    forms = [
        known,
        known.hex().encode(),
        base64.b64encode(known).rstrip(b"="),
        repr(known).encode(),
    ]
    assert len(texts) > 8 and not any(form in text for form in forms for text in texts)
