"""Ray: what it waits for, dies of and hides; the slow ones on a real cluster of two nodes."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.stopping import StopFlag
from ffalora_cli.sweep.jobs import Ended
from ffalora_cli.sweep.launchers import ray
from ffalora_cli.sweep.launchers.base import open_launcher
from ffalora_cli.sweep.play import play_jobs
from tests.sweep.cases import Seen, gpus_of_jobs, most_at_once, quick, sweep_of
from tests.tiny import save_tiny_bert

NOWHERE = "hydra.launcher.address=.*: no Ray cluster there .*; start one with: ray start --head"


@pytest.fixture
def silent():
    """An address where something listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_that_never_answers_is_waited_for_no_longer_than_said(
    tmp_path, monkeypatch, silent
):
    monkeypatch.setitem(ray._PATIENCE, False, 2.0)
    record, jobs = sweep_of(tmp_path / "new" / "runs", "seed=0,1")
    launch = open_launcher("ray", {"address": silent})
    with pytest.raises(ConfigError, match=NOWHERE):
        play_jobs(jobs, record, launch, Seen(), StopFlag())
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_ray_connects_starts_nothing(tmp_path, monkeypatch, silent):
    monkeypatch.setitem(ray._PATIENCE, False, float("inf"))
    _, jobs = sweep_of(tmp_path, "seed=0,1")
    launch, asked = open_launcher("ray", {"address": silent}), iter([None] * 10)
    launch(jobs, pytest.fail, lambda: next(asked, signal.SIGINT), pytest.fail)
    assert list(asked) == []


@pytest.mark.parametrize("nodes", ["", 'print(\'{"nodes": [{"CPU": 1}]}\', flush=True)'])
def test_a_driver_that_dies_is_one_line(tmp_path, monkeypatch, nodes):
    """A stand-in for a driver that Ray's C++ ends, before or after the cluster was there."""
    script = f"import sys; {nodes}; print('dump', file=sys.stderr); sys.stdin.readline()"
    monkeypatch.setattr(ray, "PYTHON", (sys.executable, "-c", script if nodes else "pass"))
    record, jobs = sweep_of(tmp_path, "seed=0,1")
    seen, launch = Seen(), open_launcher("ray", {"address": "here:1"})
    if not nodes:
        with pytest.raises(ConfigError, match="Ray ended without a word"):
            play_jobs(jobs, record, launch, seen, StopFlag())
        return
    statuses = play_jobs(jobs, record, launch, seen, StopFlag())
    log = record.path / "ray.log"
    assert log.read_text() == "dump\n"
    assert seen.notes == [f"what Ray prints is in {log}"]
    gone = Ended(1, 0.0, f"the connection to Ray is lost; what it said is in {log}")
    assert {status.ended for status in statuses.values()} == {gone}


@pytest.mark.parametrize(
    ("nodes", "typed", "device", "gpus", "note"),
    [
        ([{"CPU": 2, "GPU": 2}], {}, "auto", 1.0, None),
        ([{"CPU": 2, "GPU": 2}], {}, "cpu", 0.0, None),
        ([{"CPU": 2}], {}, "auto", 0.0, None),
        ([{"CPU": 2, "GPU": 2}], {"num_gpus": 0.5}, "auto", 0.5, None),
        ([{"CPU": 2, "GPU": 2}], {"num_gpus": 0.0}, "cuda", 0.0, "see none of Ray's 2 GPU"),
        ([{"CPU": 2}, {"CPU": 1, "GPU": 1}], {"num_cpus": 2.0}, "auto", 1.0, "2 and 0, 1 and 1"),
    ],
)
def test_what_ray_sets_aside_for_a_job(tmp_path, nodes, typed, device, gpus, note):
    _, jobs = sweep_of(tmp_path, "seed=0,1", f"engine.device={device}")
    settings, notes = ray.Settings(**typed), []
    there = SimpleNamespace(nodes=nodes, address="there:1")
    found = ray._resources(jobs, settings, there, notes.append)
    assert found == {"num_cpus": settings.num_cpus, "num_gpus": gpus}
    assert [note in line for line in notes] == [True] * (note is not None)
    mine = SimpleNamespace(nodes=[{"CPU": 1}], address="local")
    with pytest.raises(ConfigError, match=r"num_cpus=64, num_gpus=0: no node .*; ask for less"):
        ray._resources(jobs, ray.Settings(num_cpus=64.0), mine, print)


def rounds(job):
    """The lines that its run has written."""
    file = job.path / "rounds.jsonl"
    return file.read_bytes() if file.exists() else b""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A cluster of two nodes: two CPUs, with two GPUs that it claims to have, and one CPU."""
    from ray.cluster_utils import Cluster

    with (
        gpus_of_jobs(tmp_path_factory.mktemp("told")) as told,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_worker_niceness", "0")  # 15 by itself: a busy machine starves the jobs
        bare = {"include_dashboard": False, "include_log_monitor": False}
        head = {"num_cpus": 2, "num_gpus": 2, **bare}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        second = cluster.add_node(num_cpus=1, num_gpus=0, **bare)
        try:
            yield SimpleNamespace(cluster=cluster, second=second, told=told)
        finally:
            cluster.shutdown()


def play_on(two, record, jobs, **typed):
    """What became of the jobs on the cluster, and what was said."""
    seen, launch = Seen(), open_launcher("ray", {"address": two.cluster.address, **typed})
    statuses = play_jobs(jobs, record, launch, seen, StopFlag())
    assert {status.state for status in statuses.values()} == {"done"}, statuses
    seen.notes.remove(f"what Ray prints is in {record.path / 'ray.log'}")
    return seen.notes


@pytest.mark.slow
def test_jobs_on_a_cluster_get_its_gpus_and_what_ray_prints_stays_away(two, tmp_path, capfd):
    record, jobs = sweep_of(tmp_path / "quick", "seed=0,1,2,3")
    assert play_on(two, record, quick(jobs)) == []
    assert most_at_once(two.told) == {"0": 1, "1": 1}
    two.told.unlink()
    (hidden,) = play_on(two, record, quick(jobs), num_gpus="0")
    assert "see none of Ray's 2 GPU(s)" in hidden
    assert set(most_at_once(two.told)) == {""}
    assert capfd.readouterr().err == ""  # what Ray prints is elsewhere


@pytest.mark.slow
def test_a_job_goes_on_from_its_folder_when_its_node_dies(two, tmp_path):
    model = save_tiny_bert(tmp_path / "model")
    tiny = ["model=auto", "debug=tiny", "task.max_length=8", "task.holdout_fraction=0.03"]
    tiny += [f"model.source={model}", "privacy.accountant=rdp", "federation.rounds=30"]
    record, jobs = sweep_of(tmp_path / "runs", *tiny, "seed=0,1,2")
    before = {}

    def kill() -> None:
        """The second node, once it has a job (three CPUs, three jobs) and all of them rounds."""
        while not all(rounds(job).count(b"\n") > 3 for job in jobs):
            time.sleep(0.05)
        before.update({job.number: rounds(job) for job in jobs})
        two.cluster.remove_node(two.second, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    _, lost = play_on(two, record, jobs, num_gpus="0")
    killer.join()
    assert re.fullmatch(r"job [123] goes on elsewhere: Ray lost it \(.*\)", lost)
    for job in jobs:
        numbers = [json.loads(line)["round"] for line in rounds(job).splitlines()]
        assert numbers == list(range(31))
        assert rounds(job).startswith(before[job.number])  # nothing was repeated
