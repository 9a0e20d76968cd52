"""A grid in an experiment's YAML expands as if it were typed, and what is typed wins."""

from __future__ import annotations

import pytest

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.grids import axes
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError

GRIDS = [name for name in catalogue.options("experiment") if axes(name)]


def test_the_quickstart_grid_is_what_its_file_says():
    jobs = plan(["experiment=quickstart_grid"], sweep=True)
    made = [(job.config.method.name, job.config.seed) for job in jobs]
    assert made == [("lora", 0), ("lora", 1), ("ffa_lora", 0), ("ffa_lora", 1)]
    (alone,) = plan(["experiment=quickstart", "method=lora", "seed=1"])
    assert jobs[1].signature == alone.signature  # the section about the sweep is no part of it
    assert "hydra" not in jobs[1].resolved


def test_what_is_typed_wins_over_the_axis_of_the_same_key():
    typed = ["experiment=quickstart_grid", "seed=7", "adapter.rank=2,4"]
    made = [
        (job.config.method.name, job.config.seed, job.config.adapter.rank)
        for job in plan(typed, sweep=True)
    ]
    assert made == [(m, 7, r) for m in ("lora", "ffa_lora") for r in (2, 4)]


def test_one_job_of_a_grid_is_a_run_once_every_axis_has_a_value():
    (job,) = plan(["experiment=quickstart_grid", "method=lora", "seed=1"])
    assert job.config.seed == 1
    with pytest.raises(ConfigError, match="is a sweep over seed; run it with: ffalora sweep"):
        plan(["experiment=quickstart_grid", "method=lora"])


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_that_is_shipped_expands(name, tmp_path):
    assert len(plan([f"experiment={name}", f"paths.data={tmp_path}"], True)) > 1
