"""What all tests share."""

from __future__ import annotations

import os

import pytest

from ffalora_cli.compose import catalogue
from ffalora_cli.config import plugins
from tests.tiny import save_tiny_bert


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """One folder of calibrations and tokens for this session and every process that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        if "FFALORA_CACHE" not in os.environ:
            patch.setenv("FFALORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """What a slow machine makes wait for says nothing of it in the middle of a test."""
    monkeypatch.setattr("ffalora_cli.cli.screen.waiting.PATIENCE", float("inf"))


@pytest.fixture(autouse=True)
def folders():
    """What one test typed about folders of options and code is not typed in the next."""
    yield
    catalogue.forget()
    plugins.forget()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """A folder with a random two-layer BERT, to be read only."""
    return save_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))
