"""Every shipped YAML composes, builds and passes the rules, and says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import ffalora_cli.configs
import pytest
import yaml

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.grids import axes
from ffalora_cli.compose.jobs import plan
from ffalora_cli.compose.overrides import expand
from tests.grids import one_job

ROOT = Path(ffalora_cli.configs.__file__).parent
FILES = sorted(ROOT.rglob("*.yaml"))
EXPERIMENTS = [name for name in catalogue.options("experiment") if not axes(name)]
MODELS = catalogue.options("model")
OTHER = {
    "text_classification": "minilm",
    "token_classification": "minilm",
    "regression": "minilm",
    "causal_lm": "smollm2",
    "image_classification": "vit_small",
}
"""A model for each kind of experiment, other than what most of them are for."""


def source(model: str) -> list[str]:
    """``auto`` asks for a source; the others bring their own."""
    open_ = model in ("auto", "auto_decoder")
    return [f"model={model}", *(["model.source=some/model"] if open_ else [])]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_as_it_is_and_with_another_model(experiment) -> None:
    (job,) = plan(one_job(experiment))
    (job,) = plan([*one_job(experiment), f"model={OTHER[job.config.task.kind]}"])
    config = job.config
    one = config.model.local_lr[config.federation.local_optimizer].one_factor
    assert config.federation.local_lr == one  # follows the model, not the experiment
    assert config.head.scale == config.model.head_scale
    if config.adapter.layers is None and config.privacy.unit != "client":  # its clip is of both
        recommended = config.model.max_grad_norm[config.adapter.targets]
        assert config.privacy.max_grad_norm in (None, recommended)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_with_each_kind_of_experiment(model) -> None:
    for experiment in ("quickstart", "glue_sst2", "glue_mnli_dp"):
        (job,) = plan([f"experiment={experiment}", *source(model)])
        assert job.config.model.name == model


@pytest.mark.parametrize("group", ["task", "method", "partition", "federation", "engine", "debug"])
def test_every_option_of_a_group(group) -> None:
    fitting = {"severe": "task=sst2", "mild": "task=mnli", "natural": "task.client_column=who"}
    for option in catalogue.options(group):
        extra = [fitting[option]] if option in fitting else []
        extra += ["partition=iid"] if group == "task" else []  # some have no strata
        (job,) = plan([f"{group}={option}", *extra])
        assert len(job.signature) == 12


def test_privacy_and_tracking_options() -> None:
    for option in catalogue.options("privacy"):
        config = plan([f"privacy={option}", "federation.weights=uniform"])[0].config
        assert config.privacy.unit == {"paper": "row", "example": "text"}.get(option, option)
    for option in ("wandb", "none"):
        assert plan([f"tracking={option}"])[0].config.tracking.name == option


def test_the_paper_protocol_is_what_the_paper_says() -> None:
    config = plan(["experiment=glue_sst2_dp"])[0].config
    federation, privacy = config.federation, config.privacy
    assert (config.model.name, config.partition.label_mix) == ("roberta_large", "severe")
    assert (federation.num_clients, federation.cohort_sampling) == (3, "full")
    assert (federation.rounds, federation.local_steps, federation.local_batch_size) == (
        1000,
        10,
        200,
    )
    assert (federation.local_optimizer, federation.local_momentum) == ("sgd", 0.0)
    assert federation.weights == "uniform"
    assert (config.adapter.rank, config.adapter.alpha, config.head.mode) == (8, 8.0, "frozen")
    assert (privacy.unit, privacy.epsilon_target, privacy.delta) == ("row", 6.0, 1e-5)
    assert (privacy.accountant, privacy.max_grad_norm) == ("rdp", 2.0)
    assert federation.local_lr == 0.5
    lora = plan(["experiment=glue_sst2_dp", "method=lora"])[0].config
    assert lora.federation.local_lr == 0.05


def test_experiments_after_the_paper_deal_and_count_rows_and_all_others_texts() -> None:
    for file in (ROOT / "experiment").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        (privacy,) = (
            d["override /privacy"] for d in content["defaults"] if "override /privacy" in d
        )
        kept = content.get("partition", {}).get("keep_together", "text")
        after_the_paper = "arXiv" in text
        assert kept == ("row" if after_the_paper else "text"), file.name
        assert privacy in ("none", "client", "paper" if after_the_paper else "text"), file.name
    config = plan(["experiment=glue_sst2_dp"])[0].config
    assert (config.partition.keep_together, config.privacy.unit) == ("row", "row")


def test_private_and_plain_runs_share_their_splits() -> None:
    for option in catalogue.options("privacy"):
        config = plan([f"privacy={option}", "federation.weights=uniform"])[0].config
        assert config.partition == plan([])[0].config.partition


def test_the_command_of_the_readme_is_an_override_like_any_other(tmp_path) -> None:
    typed = "experiment=glue_sst2_dp model=minilm federation.rounds=20 "
    typed += f"federation.local_batch_size=32 paths.data={tmp_path}"
    config = plan(typed.split())[0].config
    assert (config.federation.rounds, config.federation.local_batch_size) == (20, 32)
    assert config.privacy.max_grad_norm == config.model.max_grad_norm["query_value"] == 0.5
    short = plan(["experiment=glue_sst2_dp", "federation=short"])[0].config
    assert (short.federation.rounds, short.federation.local_batch_size) == (100, 200)
    without = plan(["experiment=glue_sst2_dp", "privacy=none"])[0].config
    assert without.privacy.epsilon_target is None


def test_quickstart_is_the_embedded_default_only_smaller() -> None:
    quick, default = plan(["experiment=quickstart"])[0].config, plan([])[0].config
    for group in ("model", "method", "partition", "privacy", "engine", "tracking", "adapter"):
        assert getattr(quick, group) == getattr(default, group)
    assert quick.task.name == default.task.name
    small, large = (
        c.federation.rounds * c.federation.local_steps * c.federation.local_batch_size
        for c in (quick, default)
    )
    assert small < large


def test_experiments_leave_to_the_model_what_belongs_to_it() -> None:
    for file in (ROOT / "experiment").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        keys = set(re.findall(r"^\s*([a-z_]+):", text, flags=re.MULTILINE))
        # A model's clip is of one gradient, and for all its layers.
        if "override /privacy: client" in text or "layers" in keys:
            keys.discard("max_grad_norm")
        assert not {"local_lr", "max_grad_norm", "head_scale", "scale"} & keys, file.name


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_every_file_begins_with_its_description(file) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert first.startswith("# ")
    assert len(first) <= 100
    assert not any(line.rstrip() != line for line in lines)


def test_debug_shrinks_any_experiment() -> None:
    config = plan(["experiment=glue_mnli_dp", "debug=smoke"])[0].config
    assert (config.federation.rounds, config.federation.local_steps) == (2, 2)
    assert plan(["experiment=glue_mnli_dp", "debug=tiny"])[0].config.adapter.rank == 2


def test_sweeps_expand_in_the_order_typed() -> None:
    typed = [
        "seed=range(2)",
        "method=glob(fed*,exclude=fedsvd)",
        "head.mode=choice(frozen,trained)",
    ]
    assert [[one.text for one in job] for job in expand(typed, sweep=True)] == [
        [f"seed={seed}", f"method={method}", f"head.mode={mode}"]
        for seed in (0, 1)
        for method in ("fedex_lora", "fedsa_lora")
        for mode in ("frozen", "trained")
    ]


def test_the_last_of_two_overrides_for_one_key_counts() -> None:
    assert plan(["seed=1", "task=sst2", "seed=2", "task=rte"])[0].config.seed == 2
    assert plan(["task=sst2", "task=rte"])[0].config.task.name == "rte"


def test_allowed_environment_is_read_and_the_resolver_restored(monkeypatch, tmp_path) -> None:
    from omegaconf import OmegaConf

    monkeypatch.setenv("FFALORA_DATA", str(tmp_path))
    monkeypatch.setenv("SOMETHING", "else")
    assert plan(["paths.data=${oc.env:FFALORA_DATA}"])[0].config.paths.data == str(tmp_path)
    assert OmegaConf.create({"a": "${oc.env:SOMETHING}"}).a == "else"


def test_a_settings_text_is_read_again_as_the_same_value() -> None:
    """Records and processes of a sweep have the text; runs here have the value."""
    for value in ("str(1)", "'a, b'", '"it\'s"', "a\\,b", "[1,'x y',{a: 2}]", "${seed}", "1e-5"):
        (job,) = expand([f"name={value}"], sweep=False)
        (again,) = expand([job[0].text], sweep=False)
        assert (job[0].value, job[0].text) == (again[0].value, again[0].text)
    for job in expand(["seed=range(2)", "name='a, b',str(2)"], sweep=True):
        (again,) = expand([one.text for one in job], sweep=False)
        assert [one.value for one in job] == [one.value for one in again]
