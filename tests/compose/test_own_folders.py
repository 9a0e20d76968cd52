"""Options and code of a person's own: found where they lie, named in errors, never run unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.verbs.completion import words
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config import plugins
from ffalora_cli.config.errors import ConfigError
from tests.entry_points import install

EXPERIMENT = """\
# @package _global_
# Mine: one round on my own task
defaults:
  - override /task: mine
federation:
  rounds: 3
"""
METHOD = """\
from ffalora_cli.methods.ffa_lora import FFALoRA

class Own(FFALoRA):
    name = "own_method"
    title = "Own"

METHOD = Own()
"""
CODE = "from pathlib import Path\nPath('ran').touch()\n" + METHOD


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with ``configs/`` of a task and an experiment, and ``code/`` beside."""
    monkeypatch.chdir(tmp_path)
    write_options(tmp_path / "configs")
    (tmp_path / "code" / "methods").mkdir(parents=True)
    (tmp_path / "code" / "methods" / "own_method.py").write_text(CODE)
    return tmp_path


def write_options(folder: Path) -> None:
    shipped = catalogue.file("task", "bbc_news").read_text()
    for name, text in {
        "task/mine": shipped.replace("name: bbc_news", "name: mine"),
        "experiment/protocol": EXPERIMENT,
    }.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def refusal(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_options_beside_ones_work_are_options_like_ours(place, capsys) -> None:
    (job,) = plan(["experiment=protocol"])
    assert (job.config.task.name, job.config.federation.rounds) == ("mine", 3)
    assert job.notes[0] == "own options: ./configs (1 experiment, 1 task)"
    assert "mine" in catalogue.options("task")
    assert "task=mine" in words("ffalora run task=m")
    assert main(["ls", "tasks"]) == 0
    assert "(configs/task/mine.yaml)" in " ".join(capsys.readouterr().out.split())
    assert main(["explain", "federation.rounds", "experiment=protocol"]) == 0
    assert "configs/experiment/protocol.yaml, line 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    "typed", [["paths.configs={}"], ["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]]
)
def test_a_typed_folder_may_lie_anywhere(place, tmp_path_factory, capsys, typed) -> None:
    far = tmp_path_factory.mktemp("it's far") / "lab"
    shutil.move(place / "configs", far)
    written = [text.format(f"'{far}'" if "paths" in text else far) for text in typed]
    if "paths" in typed[0]:
        written = [written[0].replace("it's", "it\\'s")]
    assert main(["validate", "experiment=protocol", *written]) == 0
    assert "signature" in capsys.readouterr().out
    assert main(["explain", "task.name", "task=mine", *written]) == 0
    assert f"{far}/task/mine.yaml" in capsys.readouterr().out.replace("\n          ", "")


def test_a_folder_that_is_none_or_holds_nothing_or_one_group(place, capsys) -> None:
    assert "paths.configs=gone is not a folder" in refusal(capsys, "run", "paths.configs=gone")
    assert "give configs, around it" in refusal(capsys, "run", "-cd", "configs/task")
    assert "code/task/NAME.yaml" in refusal(capsys, "run", "-cd", "code")
    assert "needs a folder" in refusal(capsys, "run", "--config-dir")
    assert "is one folder" in refusal(capsys, "sweep", "paths.configs=configs,code", "seed=1,2")
    assert "--config-dir DIR" in refusal(capsys, "run", "hydra.searchpath=[file://configs]")
    assert "looked in ./configs and ffalora's own" in refusal(capsys, "run", "task=minne")
    assert not (place / "runs").exists()


def test_two_options_of_one_name_are_refused_unless_they_are_the_same(place, capsys) -> None:
    copy = place / "configs" / "task" / "sst2.yaml"
    copy.write_bytes(catalogue.file("task", "sst2").read_bytes())
    assert plan(["task=sst2"])[0].config.task.name == "sst2"
    copy.write_text(copy.read_text() + "# mine\n")
    line = refusal(capsys, "validate", "task=sst2")
    assert "configs/task/sst2.yaml is another one than ffalora's own; rename it" in line
    write_options(place / "lab")
    assert main(["validate", "task=mine", "-cd", "lab"]) == 0
    capsys.readouterr()
    with (place / "lab" / "task" / "mine.yaml").open("a") as file:
        file.write("# another\n")
    assert "configs/task/mine.yaml" in refusal(capsys, "validate", "task=mine", "-cd", "lab")


def test_a_folder_beside_the_groups_that_nobody_reads_is_said(place) -> None:
    (place / "configs" / "tasks").mkdir()
    (place / "configs" / "sweeps").mkdir()
    assert catalogue.own_words()[0].endswith("1 task, tasks/ is not read, task/ would be)")


@pytest.mark.parametrize("key", ["plugins", "configs"])
def test_no_file_sets_where_options_or_code_are(place, capsys, key) -> None:
    file = place / "configs" / "experiment" / "protocol.yaml"
    file.write_text(f"{EXPERIMENT}paths:\n  {key}: code\n")
    line = refusal(capsys, "validate", "experiment=protocol")
    assert f"protocol.yaml, line 8: paths.{key} is typed" in line
    assert not (place / "ran").exists()


@pytest.mark.parametrize("key", ["plugins", "configs"])
@pytest.mark.parametrize("verb", ["sweep", "tune", "validate", "run"])
def test_no_grid_of_a_file_types_where_options_or_code_are(place, capsys, verb, key) -> None:
    file = place / "configs" / "experiment" / "protocol.yaml"
    grid = f"hydra:\n  sweeper:\n    params:\n      +paths.{key}: code\n      seed: 1,2\n"
    file.write_text(EXPERIMENT + grid)
    multirun = ["-m"] if verb in ("validate", "run") else []
    line = refusal(capsys, verb, "experiment=protocol", *multirun)
    assert f"paths.{key} is typed, not set by a file" in line
    assert not (place / "ran").exists()


@pytest.mark.parametrize("command", ["validate", "resume"])
def test_a_run_folder_of_somebody_else_runs_no_code(place, capsys, command) -> None:
    """Neither its configuration nor the overrides in its manifest are followed."""
    typed = ["debug=tiny", "privacy=none", "method.name=own_method", "paths.plugins=code"]
    assert main(["run", *typed, "name=mine", "--quiet"]) == 0
    (run,) = (place / "runs").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["overrides"] = [*typed, "paths.configs=configs"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    (place / "ran").unlink()
    plugins.forget()
    capsys.readouterr()
    what = run / "config.yaml" if command == "validate" else run
    assert "plugins: code" in (run / "config.yaml").read_text()
    assert "paths.plugins=DIR" in refusal(capsys, command, str(what))
    assert not (place / "ran").exists()


def test_code_runs_where_it_is_typed_and_nowhere_else(place, capsys) -> None:
    typed = ["debug=tiny", "privacy=none", "method.name=own_method"]
    assert "paths.plugins=DIR" in refusal(capsys, "run", *typed)
    assert not (place / "ran").exists()
    assert "method.name=own_method" in words("ffalora run paths.plugins=code method.name=")
    assert not (place / "ran").exists()
    assert main(["run", *typed, "paths.plugins=code", "name=mine", "--quiet"]) == 0
    assert (place / "ran").exists()

    (run,) = (place / "runs").iterdir()
    (place / "ran").unlink()
    plugins.forget()
    for command in (["show", str(run)], ["compare", str(run)], ["ls", "runs"]):
        assert main(command) == 0, command
    assert main(["report", str(run), "-o", "report.html"]) == 0
    capsys.readouterr()
    assert "paths.plugins=DIR" in refusal(capsys, "validate", str(run / "config.yaml"))
    assert "paths.plugins=DIR" in refusal(capsys, "resume", str(run))
    assert not (place / "ran").exists()
    assert main(["resume", str(run), "paths.plugins=code"]) == 0


def test_other_code_is_another_input(place, capsys) -> None:
    typed = ["run", "debug=tiny", "privacy=none", "method.name=own_method", "paths.plugins=code"]
    assert main([*typed, "--quiet"]) == 0
    (run,) = (place / "runs").iterdir()
    code = json.loads((run / "manifest.json").read_text())["inputs"]["code"]
    assert len(code) == 64
    capsys.readouterr()
    assert main([*typed, "--quiet"]) == 0  # done before
    (place / "code" / "methods" / "_shared.py").write_text("RATE = 2\n")
    capsys.readouterr()
    assert "the code of its plugins changed since" in refusal(capsys, *typed)


def test_code_of_a_package_is_an_input_too(place, monkeypatch) -> None:
    from ffalora_cli.experiment.inputs import code_of

    (config,) = (job.config for job in plan(["debug=tiny"]))
    assert code_of(config) is None
    source = METHOD.replace("METHOD =", "OWN_METHOD =")
    install(place, monkeypatch, "ffalora.methods", source, ["own_method"])
    (config,) = (job.config for job in plan(["debug=tiny", "method.name=own_method"]))
    before = code_of(config)
    (place / "toys.py").write_text(source + "# changed\n")
    assert before is not None and code_of(config) != before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("lora", METHOD, "ffalora_cli.methods.lora has this name already; rename the file"),
        ("broken", "1 / 0\n", "broken.py cannot be loaded (ZeroDivisionError"),
        ("empty", "", "it should hold METHOD = a Method()"),
        ("other", "METHOD = 3\n", "it is no instance of Method"),
    ],
)
def test_code_that_cannot_be_used_is_named(place, name, text, said) -> None:
    (place / "code" / "methods" / f"{name}.py").write_text(text)
    with pytest.raises(ConfigError) as error:
        plan([f"method.name={name}", "paths.plugins=code"])
    assert said in str(error.value)


def test_a_folder_of_code_that_is_none(place, capsys) -> None:
    assert "is not a folder" in refusal(capsys, "run", "paths.plugins=gone")
    assert "has none of methods/NAME.py" in refusal(capsys, "run", "paths.plugins=configs")
