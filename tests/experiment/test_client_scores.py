"""What a round records of its clients on the common evaluation split, in real runs."""

from __future__ import annotations

import pytest

from ffalora_cli import experiment
from ffalora_cli.compose.jobs import plan
from ffalora_cli.records.reading import read_run
from tests.tiny import save_tiny_bert


class Silent:
    """An observer that shows nothing."""

    def note(self, text): ...
    def started(self, facts): ...
    def finished(self, summary): ...
    def working(self, on, done, total): ...

    def round_done(self, record): ...


@pytest.mark.parametrize("personal", [False, True])
def test_clients_without_tensors_of_their_own_repeat_no_global_accuracy(tmp_path, personal) -> None:
    typed = ["model=auto", f"model.source={save_tiny_bert(tmp_path / 'model')}", "debug=tiny",
             f"paths.runs={tmp_path / 'runs'}", "privacy=none",
             "federation.eval_clients=true"]  # fmt: skip
    (job,) = plan([*typed, *(["head.mode=personal"] if personal else [])])
    experiment.run(job, Silent())
    (folder,) = (tmp_path / "runs").iterdir()
    last = read_run(folder).rounds[-1]
    of_clients = {name for name in last.metrics if "client" in name or "personalized" in name}
    kept = {name for name in of_clients if name.startswith("eval/")}
    own = {"eval/client_accuracy_own_labels"}
    if personal:
        prefix = "eval/personalized_accuracy"
        own = {prefix, f"{prefix}_min", f"{prefix}_own_labels"}
    assert kept == own
    assert all(("accuracy" in line) is personal for line in last.clients)
    assert all(0 <= line["accuracy_own_labels"] <= 1 for line in last.clients)
