"""``engine.precision=auto``: settled once, when a command line becomes a job."""

from __future__ import annotations

import pytest

from ffalora_cli.compose.jobs import from_file, plan
from ffalora_cli.records.files import to_json


@pytest.fixture
def amx(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize("words", [["experiment=dolly_small"], ["task=cifar10", "model=vit_small"]])
def test_language_models_and_images_take_bf16_where_it_is_fast(words, amx, monkeypatch, tmp_path):
    words = [*words, "privacy=none"]
    (job,) = plan(words)
    assert job.config.engine.precision == "bf16"
    assert "bf16 on this machine (AMX)" in " ".join(job.notes)
    assert job.signature == plan([*words, "engine.precision=bf16"])[0].signature
    (typed,) = plan([*words, "engine.precision=fp32"])
    assert typed.config.engine.precision == "fp32" and "bf16" not in " ".join(typed.notes)
    record = tmp_path / "config.yaml"
    record.write_bytes(to_json(job.resolved))
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert plan(words)[0].signature == typed.signature
    elsewhere = from_file(record, [])  # a run that goes on keeps what it began with
    assert elsewhere.config.engine.precision == "bf16" and elsewhere.signature == job.signature


def test_encoders_stay_in_fp32_and_keep_their_identity(amx):
    (job,) = plan([])
    assert job.config.engine.precision == "fp32" and not job.notes
    assert job.signature == plan(["engine.precision=fp32"])[0].signature
