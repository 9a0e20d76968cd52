"""A run gone on with is still the run that was typed: what is suggested after it, and a fork."""

from __future__ import annotations

from ffalora_cli.cli.screen.words import suggestions
from ffalora_cli.compose.jobs import recorded
from tests.made_runs import write_run


def test_what_was_typed_then_and_now(tmp_path):
    typed = ["experiment=quickstart", "seed=3", "federation.rounds=2"]
    folder = write_run(tmp_path, typed, [0.1], finished=False)
    job = recorded(folder, ["federation.rounds=4"])
    assert job.overrides == ("experiment=quickstart", "seed=3", "federation.rounds=4")
    assert (job.config.seed, job.config.federation.rounds) == (3, 4)
    lines = suggestions(job.config, job.overrides, "RUN")
    again = "ffalora run experiment=quickstart federation.rounds=4"
    assert f"          {again} method=lora" in lines and f"          {again} -m seed=0,1,2" in lines


def test_a_manifest_that_says_nonsense_adds_nothing(tmp_path):
    for nonsense in (None, 5, {"a": 1}, [1, "seed=\x1b[2J"]):
        folder = write_run(tmp_path, [], [0.1], finished=False, extra={"overrides": nonsense})
        assert recorded(folder, ["seed=1"]).overrides == ("seed=1",)
