"""Packages that offer what they should not: one readable line, and ours stay what they are."""

from __future__ import annotations

import dataclasses

import pytest

from ffalora_cli.cli.screen import table
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.methods import registry as methods
from ffalora_cli.tasks import registry as tasks
from tests.entry_points import install

METHODS = """
from ffalora_cli.methods.base import Method

class Toy(Method):
    name = "toy"

FFA_LORA = TOY = Toy()
CLASS = Toy
"""
TASKS = """
from ffalora_cli.tasks.base import Metric
from ffalora_cli.tasks.text_classification import TextClassification

class Errors(TextClassification):
    metrics = {"accuracy": Metric("number", higher_is_better=False)}

ANOTHER = Errors()
"""


def test_a_name_is_ours_or_one_package_s(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "ffalora.methods", METHODS, ("ffa_lora", "toy", "class"))
    assert methods.get("ffa_lora").title and methods.get("toy").name == "toy"
    with pytest.raises(ConfigError, match=r"method.name=class.*it is no instance of Method"):
        methods.get("class")
    about = tmp_path / "others-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[ffalora.methods]\ntoy = others:TOY\n")
    with pytest.raises(ConfigError, match=r"method.name=toy.*others:TOY, toys:TOY; uninstall"):
        methods.get("toy")


def test_a_package_s_metric_does_not_change_ours(tmp_path, monkeypatch):
    """Its kind comes first in the alphabet."""
    install(tmp_path, monkeypatch, "ffalora.tasks", TASKS, ("another",))
    assert tasks.higher_is_better("eval/accuracy") and tasks.is_percent("eval/accuracy")
    with pytest.raises(
        ConfigError, match=r"task.kind=another: its metric accuracy means something"
    ):
        plan(["task.kind=another"])


def test_a_run_of_a_package_that_is_gone_is_shown():
    """Its clients' average has no column: nobody can say which it is."""
    (job,) = plan(["federation.eval_clients=true"])
    assert table._of_clients(job.config) is not None
    gone = dataclasses.replace(job.config.method, name="gone")
    assert table._of_clients(dataclasses.replace(job.config, method=gone)) is None
