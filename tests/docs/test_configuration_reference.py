"""docs/configuration.md is what its generator writes today, and has every key of the schema."""

from __future__ import annotations

import re

from ffalora_cli.compose import catalogue
from ffalora_cli.config.build import leaf_keys
from scripts.make_configuration_reference import FILE, reference


def test_the_page_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == reference(), (
        "run: python -m scripts.make_configuration_reference"
    )


def test_every_key_and_option_has_its_line():
    text = FILE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)`", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(key.removesuffix(".*") for key in leaf_keys())
    for group in catalogue.groups():
        for option in catalogue.options(group):
            assert f"`{group}={option}`" in text


def test_few_keys_have_no_words():
    rows = [r for r in FILE.read_text(encoding="utf-8").splitlines() if r.startswith("| `")]
    silent = {r.split("`")[1] for r in rows if r.endswith("|  |")}
    assert silent <= {"task.label_column", "task.license", "model.name", "engine.name"} | {
        "tracking.name"
    }
