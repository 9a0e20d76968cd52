"""What a fresh clone rests on: the wheel holds every package and config, the targets exist."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from importlib.resources import files

import pytest

from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_room_is_in_the_wheel():
    folders = {file.parent for file in (ROOT / "ffalora_cli").rglob("*.py")}
    assert len(folders) > 20
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []  # else not found


def test_configs_are_found_as_a_package_and_all_are_shipped():
    shipped = PROJECT["tool"]["setuptools"]["package-data"]["ffalora_cli.configs"]
    configs = ROOT / "configs"
    matched = {path for pattern in shipped for path in configs.glob(pattern)}
    others = {path.name for path in configs.rglob("*") if path.is_file()} - {
        path.name for path in matched
    }
    assert {name for name in others if not name.endswith(".pyc")} == {"__init__.py"}
    installed = files("ffalora_cli.configs")
    assert len(matched) > 10
    for path in matched:
        assert installed.joinpath(*path.relative_to(configs).parts).is_file()


def test_every_file_of_a_package_that_is_no_code_is_shipped():
    shipped = {
        file
        for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    others = {f for f in (ROOT / "ffalora_cli").rglob("*") if f.suffix not in (".py", ".pyc", "")}
    assert others == shipped and {"page.html", "published.csv"} <= {file.name for file in others}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("setup", "pip .* install --constraint constraints.txt --editable"),
        ("demo", "ffalora run experiment=quickstart paths.runs=x"),
        ("test", "python -m pytest paths.runs=x"),
        ("lint", "ruff check .*ruff format --check .*mypy.*lint-imports"),
    ],
)
def test_make_targets(target, command):
    # Flags of an outer make (`make test`) must not reach this one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    result = subprocess.run(
        ["make", "--dry-run", "--assume-new=pyproject.toml", target, "ARGS=paths.runs=x"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(command, result.stdout.replace("\n", " ")), result.stdout


def test_ci_is_runnable_and_ends_with_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text().splitlines()[-1] == "make test"


def test_license_is_apache_2_to_the_letter():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    digest = hashlib.md5((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "3b83ef96387f14655fc854ddc3c6bd57"  # as published by the foundation


def test_files_named_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`((?:records|ffalora_cli|configs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists() or (ROOT / "ffalora_cli" / name).exists(), name
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make (\w+)", text, re.M)) <= targets
