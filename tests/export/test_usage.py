"""What a model card says of each kind, and its code, which is run as it stands."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch

from ffalora_cli.cli.main import main
from ffalora_cli.export import export as room
from ffalora_cli.export import reload
from ffalora_cli.records.reading import read_run
from tests.language import save_tiny_llama, write_rows

TALK = [
    "task=sst2",
    "task.name=talk",
    "task.kind=causal_lm",
    "+task.prompt='q: {question} a:'",
    "+task.completion=' {answer}'",
    "task.text_columns=[]",
    "task.label_column=category",
    "task.classes=[open,closed]",
    "task.metrics=[nll,perplexity]",
    "task.splits={train: train}",
    "task.eval_split=holdout",
    "model=auto",
    "model.targets.query_value=[self_attn.q_proj,self_attn.v_proj]",
]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A finished run of a language model, and where its base is."""
    folder = tmp_path_factory.mktemp("talk")
    base, data = save_tiny_llama(folder / "llama"), write_rows(folder / "data")
    words = [*TALK, f"model.source={base}", f"paths.data={data}", f"paths.runs={folder / 'runs'}"]
    words += ["debug=tiny", "privacy=none", "federation.rounds=3", "federation.local_lr=5"]
    assert main(["run", "--quiet", *words]) == 0
    (run,) = (folder / "runs").iterdir()
    return run, base


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Reload here: a fresh process costs seconds."""

    class Process:
        @staticmethod
        def run(command, **_):
            reload.main(*command[-3:])
            return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(room, "subprocess", Process)


def run_code(card: str, folder: Path, base: Path) -> tuple[dict, str]:
    """Names and output of the card's code, with folders where it has their names."""
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("THIS_FOLDER", str(folder)).replace(f'"{base.name}"', f'"{base}"')
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, names)
    return names, said.getvalue()


@pytest.mark.parametrize("merge", [[], ["--merge"]], ids=["adapter", "merged"])
def test_a_language_model_writes_by_the_code_of_its_card(talk, merge, tmp_path, capsys):
    run, base = talk
    to = tmp_path / "out"
    assert main(["export", str(run), "--to", str(to), *merge]) == 0
    assert "outputs for" in capsys.readouterr().out
    card = (to / "README.md").read_text()
    names, said = run_code(card, to, base)
    assert "generated_text" in said
    assert (to / "generation_config.json").is_file() and (to / "chat_template.jinja").is_file()
    assert names["tokenizer"].chat_template
    recorded = read_run(run).rounds[-1].metrics
    for part in (
        "text generation) on",
        "| prompt | `q: {question} a:` |",
        "| template version | `1` |",
        "| tokens | at most 32 of a row |",
        f"| perplexity | {recorded['eval/perplexity']:.4f} |",
        "| classes | open, closed |",
    ):
        assert part in card, part
    assert "head" not in card.split("## Training")[1].split("##")[0]
    with torch.no_grad():
        ids = names["tokenizer"]("q: abc a:", return_tensors="pt")
        assert names["model"](**ids).logits.shape[-1] == 48
