"""What a person who knows Hydra types is done, or answered in one line with what does it here."""

from __future__ import annotations

import pytest
import yaml

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run --seed=3", "seed=3"),
        ("run --method lora seed=1", "method=lora"),
        ("run --lr 0.1", "federation.local_lr=0.1"),
        ("sweep --num-clients 5 seed=0,1", "federation.num_clients=5"),
        ("compare --method=lora", "method=lora"),
        ("run -cn mine", "experiment=NAME"),
        ("run --config-path=mine", "paths.configs=DIR"),
        ("plan --cfg job", "ffalora run ... --cfg job"),
        ("run --cfg hydra", "--cfg job"),
        ("run --cfg job -m seed=0,1", "leave -m out"),
        ("run --cfg job --package privcy", "'privacy'"),
        ("run --resolve", "--cfg job"),
        ("run --info plugins", "ffalora doctor"),
        ("run --shell-completion install=bash", "ffalora completion bash"),
        ("run hydra.job.name=mine", "name=NAME"),
        ("run hydra.run.dir=mine", "paths.runs=DIR"),
        ("run ~tracking", "tracking=none"),
        ("run ~adapter.layers", "adapter.layers=null"),
        ("run ~sed", "'seed'"),
        ("run privacy.epsilon_target=inf", "privacy=none"),
        ("run privacy.epsilon_target=none", "privacy=none"),
        ("run privacy.noise_multiplier=0", "privacy=none"),
        ("run privacy=none privacy.epsilon_target=3", "privacy=text"),
    ],
)
def test_one_line_names_what_to_type(typed, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(typed.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "--again" not in line
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_printed_as_the_run_will_record_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "seed=4", "--cfg", "job", "--resolve"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed) == plan(["seed=4"])[0].resolved
    assert main(["run", "-c", "job", "-p", "partition", "seed=4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# @package partition\n")
    assert yaml.safe_load(printed)["seed"] == "${seed}"
    assert list(tmp_path.iterdir()) == []


def test_the_chosen_options_are_listed(tmp_path, capsys):
    (tmp_path / "task").mkdir()
    assert main(["run", "--info", "searchpath", "-cd", str(tmp_path)]) == 0
    assert str(tmp_path) in capsys.readouterr().out.splitlines()
    assert main(["run", "--info", "experiment=quickstart", "method=lora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {words[0]: words[1] for words in map(str.split, lines[: lines.index("")])}
    assert rows["method"] == "lora" and rows["experiment"] == "quickstart"
    assert rows["debug"] == "null" and len(rows) == 10


@pytest.mark.parametrize("typed", ["method=lora,ffa_lora", "method='lora','ffa_lora'"])
def test_options_may_have_quotes(typed):
    jobs = plan([typed], sweep=True)
    assert [job.config.method.name for job in jobs] == ["lora", "ffa_lora"]
    assert jobs[0].overrides == ("method=lora",)  # what another process reads
    assert plan(['method="lora"'])[0].overrides == ("method=lora",)
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        plan(["method='loar'"])


def test_added_and_forced_keys_are_keys():
    assert {plan([f"{sign}seed=3"])[0].config.seed for sign in ("", "+", "++")} == {3}
