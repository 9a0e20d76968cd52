from __future__ import annotations

import json
from dataclasses import fields, replace
from importlib.resources import files

import numpy as np
import pytest
from omegaconf import OmegaConf

from ffalora_cli.config.schema import PrivacyConfig
from ffalora_cli.privacy.claim.statement import sentence, statement
from ffalora_cli.privacy.planning.make import make_plan
from tests.privacy.cases import federation, privacy

SST2 = [24_526, 20_373, 22_450]


def test_sentence_carries_the_whole_claim():
    plan = make_plan(privacy(), SST2, federation(), ["a"])
    assert sentence(plan, np.full(3, 10_000)) == (
        "epsilon 6.00 (any text of one client; unit text, add/remove one, delta 1e-5, "
        "Poisson sampling, RDP accountant)"
    )
    assert sentence(plan).startswith("planned epsilon 6.00 (")
    early = sentence(plan, np.full(3, 1_000))
    assert early.startswith("epsilon 2.0") and "planned" not in early


def test_texts_alike_only_once_truncated_are_not_promised_across_clients():
    """Who holds a unit is told by texts (``data.units.unit_keys``), a client's units by tokens."""
    said = statement(make_plan(privacy(unit="text"), SST2, federation(), ["a"]))["protects"]
    assert "of one client" in said and "equal texts" in said
    assert "not texts on other clients that are alike only once they are truncated" in said


def test_where_rows_are_images_the_claim_is_of_images():
    plan = make_plan(privacy(unit="text"), SST2, federation(), ["a"])
    said = statement(replace(plan, content="image"))
    assert "(any image of one client; unit text, " in said["sentence"]
    assert "one image to the model" in said["protects"]
    assert not [w for w in (said["protects"], said["outside"][-1]) if "text" in w or "phrase" in w]


def test_sentence_never_rounds_down():
    for noise in (1.0, 1.03, 1.1, 1.2, 1.4):  # rounding to nearest would be below for some
        given = privacy(epsilon_target=None, noise_multiplier=noise)
        plan = make_plan(given, [22_450], federation(), ["a"])
        shown = float(sentence(plan).split()[2])
        assert plan.epsilon_planned[0] <= shown < plan.epsilon_planned[0] + 0.01


def test_sentence_of_the_client_unit():
    unit = privacy(unit="client", delta=1e-3)
    some = federation(num_clients=100, cohort_size=10, cohort_sampling="poisson")
    assert "unit client, add/remove one, delta 0.001, Poisson sampling of the cohort" in sentence(
        make_plan(unit, [9] * 100, some, ["a"])
    )
    everyone = make_plan(unit, [9] * 100, federation(num_clients=100), ["a"])
    assert "every client in every round" in sentence(everyone)


KEYS = [
    "schema", "sentence", "unit", "protects", "relation", "sampling", "sampling_note",
    "accountant", "library", "delta", "one_over_n", "delta_below_one_over_n",
    "max_grad_norm", "mechanism", "calibration",
    "epsilon_target", "participation", "epsilon_max",
    "num_clients", "several_clients", "clients", "largest",
    "tuning",
    "covered", "noise", "warnings", "outside",
]  # fmt: skip


def test_statement_is_json_with_stable_keys():
    plan = make_plan(privacy(), SST2, federation(), ["x.lora_b", "head.weight"])
    said = statement(plan, np.array([10_000, 500, 0]))
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert list(said) == KEYS
    assert said["covered"] == ["x.lora_b", "head.weight"]
    assert said["library"].startswith("opacus ")
    assert [row["client"] for row in said["clients"]] == [0, 1, 2]
    assert said["clients"][2]["epsilon_spent"] == 0.0
    assert said["epsilon_max"]["spent"] == said["clients"][0]["epsilon_spent"]
    assert said["epsilon_max"]["planned"] == max(r["epsilon_planned"] for r in said["clients"])
    largest = said["largest"]
    assert (largest["client"], largest["steps"]) == (0, 10_000)
    assert largest["epsilon"]["rdp"] == said["epsilon_max"]["spent"]
    assert 5.4 < largest["epsilon"]["pld"] < 5.6  # 5.516 in the reference for the RDP noise
    assert any("held out for evaluation" in line for line in said["outside"])
    assert any("taken as public" in line for line in said["outside"])
    assert "nominal" in said["noise"]["note"]


def test_before_training_nothing_is_spent():
    said = statement(make_plan(privacy(), SST2, federation(), ["a"]))
    assert list(said) == KEYS and said["epsilon_max"]["spent"] is None
    assert "epsilon_spent" not in said["clients"][0]


def test_many_clients_are_summarised():
    sizes = list(range(5_000, 5_040))
    given = privacy(epsilon_target=None, noise_multiplier=1.0)
    plan = make_plan(given, sizes, federation(num_clients=40, rounds=5), ["a"])
    said = statement(plan, np.arange(40))
    assert set(said["clients"]["epsilon_spent"]) == {
        "least", "quarter", "median", "three_quarters", "most",
    }  # fmt: skip
    assert said["clients"]["examples"]["least"] == 5_000
    assert said["clients"]["epsilon_spent"]["most"] == said["epsilon_max"]["spent"]
    assert len(json.dumps(said)) < 5_000


@pytest.mark.parametrize("name", ["none", "text", "client", "paper"])
def test_shipped_yaml_sets_every_key(name):
    path = files("ffalora_cli.configs") / "privacy" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and text.splitlines()[0].endswith(".")
    values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    assert list(values) == [field.name for field in fields(PrivacyConfig)]
    for line in text.splitlines():
        key = line.split(":")[0]
        assert "#" in line or key == "accountant"  # every key is explained where it stands
    if name == "none":
        assert values["unit"] == "none" and values["epsilon_target"] is None
        return
    assert (
        values["max_grad_norm"] == "${model.max_grad_norm.${adapter.targets}}"
        and values["delta"] == 1e-5
    )
    config = PrivacyConfig(**(values | {"max_grad_norm": 1.0, "accountant": "rdp"}))
    plan = make_plan(config, [30_000] * 3, federation(rounds=5), ["a"])
    assert plan.epsilon_planned.max() <= 6.0
