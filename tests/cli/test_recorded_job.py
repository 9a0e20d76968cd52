"""A run gone on with is still the run that was typed: what is suggested after it, and a fork."""

from __future__ import annotations

from ffalora_cli.cli.screen.words import suggestions
from ffalora_cli.compose.jobs import plan, recorded
from tests.made_runs import write_run


def test_what_was_typed_then_and_now(tmp_path):
    typed = ["experiment=quickstart", "seed=3", "federation.rounds=2"]
    folder = write_run(tmp_path, typed, [0.1], finished=False)
    job = recorded(folder, ["federation.rounds=4"])
    assert job.overrides == ("experiment=quickstart", "seed=3", "federation.rounds=4")
    assert (job.config.seed, job.config.federation.rounds) == (3, 4)
    lines = suggestions(job.config, job.overrides, "RUN")
    assert lines == [
        "try       ffalora show RUN",
        "          ffalora run ... privacy=none",
        "          ffalora sweep ... method=ffa_lora,lora seed=0,1,2",
    ]


def test_a_suggestion_replaces_what_it_changes():
    typed = ["method=lora", "privacy=text", "privacy.epsilon_target=3", "seed=1"]
    (job,) = plan(typed)
    lines = suggestions(job.config, typed, "runs/any-0123456789ab-2")
    assert [line[10:] for line in lines] == [
        "ffalora show 0123456789ab-2",
        "ffalora run method=lora seed=1 privacy=none",
        "ffalora sweep ... method=lora,ffa_lora seed=0,1,2",  # with what was typed: too long
    ]


def test_a_fork_is_named_by_what_was_changed(tmp_path):
    folder = write_run(tmp_path, ["seed=3"], [0.1], finished=False)
    job = recorded(folder, ["federation.local_lr=0.5"], fork=True)
    assert (job.config.name, job.named) == ("bbc_news-ffa_lora-s3-lr0.5", False)
    assert recorded(folder, ["name=mine"], fork=True).config.name == "mine"
    assert recorded(folder, ["federation.local_lr=0.5"]).config.name == "bbc_news-ffa_lora-s3"


def test_a_manifest_that_says_nonsense_adds_nothing(tmp_path):
    for nonsense in (None, 5, {"a": 1}, [1, "seed=\x1b[2J"]):
        folder = write_run(tmp_path, [], [0.1], finished=False, extra={"overrides": nonsense})
        assert recorded(folder, ["seed=1"]).overrides == ("seed=1",)
