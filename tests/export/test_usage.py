"""What a model card says of each kind, and its code, which is run as it stands."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.export import export as room
from ffalora_cli.export import reload
from ffalora_cli.export.usage import from_hub, usage
from ffalora_cli.models.backbone import load_tokenizer
from ffalora_cli.records.reading import read_run
from tests.export.test_export import config
from tests.language import save_tiny_llama, write_rows
from tests.tiny import save_tiny_bert, tiny_image_network

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
        assert names["model"](**ids).logits.shape[-1] == len(names["tokenizer"])


def test_a_folder_without_a_dot_is_no_repository_of_the_hub():
    model = replace(config().model, source="llama", revision=None)
    assert not from_hub(replace(config(), model=model))
    assert from_hub(replace(config(), model=replace(model, revision="0" * 40)))


def save_tiny_vit(folder: Path) -> Path:
    """A random ViT of 32 pixels, and its processor."""
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tiny_image_network("vit").plain.save_pretrained(folder)
    return folder


def write_pictures(folder: Path, rows: int = 40) -> Path:
    """``folder/digits/train/CLASS/*.png``: noise, darker in one class."""
    generator = np.random.default_rng(0)
    for i in range(rows):
        file = folder / "digits" / "train" / "01"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128 + 100 * (i % 2), (40, 36, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


@pytest.mark.parametrize(
    ("side", "merge"), [(None, []), (None, ["--merge"]), (48, []), (48, ["--merge"])]
)
def test_an_image_is_classified_by_the_code_of_its_card(side, merge, tmp_path):
    base, data = save_tiny_vit(tmp_path / "vit"), write_pictures(tmp_path / "data")
    words = [
        "task=digits",
        'task.classes=["0","1"]',
        "task.splits={train: train}",
        "model=vit_small",
    ]
    words += [f"model.source={base}", f"paths.data={data}", f"paths.runs={tmp_path / 'runs'}"]
    words += ["debug=tiny", "privacy=none", "federation.local_lr=1"]
    words += [] if side is None else [f"task.image_size={side}"]
    assert main(["run", "--quiet", *words]) == 0
    (run,), to = (tmp_path / "runs").iterdir(), tmp_path / "out"
    assert main(["export", str(run), "--to", str(to), *merge]) == 0
    card = (to / "README.md").read_text()
    picture = next(data.rglob("*.png"))
    names, said = run_code(card.replace('"IMAGE"', f'"{picture}"'), to, base)
    assert names["image_processor"].size["height"] == (side or 32)
    assert "token" not in card.split("## Data and clients")[1].split("##")[0]
    if side is None:
        assert "'label': '0'" in said and "score" in said
    else:
        assert names["logits"].shape == (1, 2) and names["inputs"]["pixel_values"].shape[-1] == side


@pytest.mark.parametrize(
    ("kind", "words", "shape", "said"),
    [
        (
            "regression",
            ["task.classes=[]", "task.metrics=[pearson]"],
            (1, 1),
            "(text classification)",
        ),
        (
            "token_classification",
            ["task.classes=[O,B-X]", "task.metrics=[token_accuracy]"],
            (1, 3, 2),  # [CLS] text [SEP]
            "(token classification, 2 classes)",
        ),
        ("text_classification", ["task.classes=[no,yes]"], (1, 2), "(text classification, 2"),
    ],
)
def test_numbers_tags_and_classes_by_the_code_of_their_cards(kind, words, shape, said, tmp_path):
    label = {"regression": "{}.5", "token_classification": '["O","B-X"]'}.get(kind, "{}")
    rows = [f'{{"text": "film {i}", "label": {label.format(i % 2)}}}' for i in range(40)]
    file = tmp_path / "data" / "mine" / "train.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(rows))
    base = Path(save_tiny_bert(tmp_path / "bert"))
    typed = ["task=sst2", "task.name=mine", f"task.kind={kind}", "task.text_columns=[text]", *words]
    typed += ["task.splits={train: train}", "task.eval_split=holdout", "partition=iid"]
    typed += ["debug=tiny", "privacy=none", "model=auto", f"model.source={base}"]
    typed += [f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}"]
    assert main(["run", "--quiet", *typed]) == 0
    (run,), to = (tmp_path / "runs").iterdir(), tmp_path / "out"
    assert main(["export", str(run), "--to", str(to)]) == 0
    card = (to / "README.md").read_text()
    names, answer = run_code(card, to, base)
    assert names["logits"].shape == shape
    assert said in card
    classes = [word for word in words[0][len("task.classes=[") : -1].split(",") if word]
    assert (to / "labels.json").is_file() == bool(classes) == ("`labels.json` says" in card)
    if classes:
        labels = json.loads((to / "labels.json").read_text())
        assert labels["id2label"] == {str(i): name for i, name in enumerate(classes)}
        assert labels["label2id"] == {name: i for i, name in enumerate(classes)}
        assert names["model"].config.id2label == dict(enumerate(classes))
        assert any(name in answer for name in classes)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package:some_words/sub/words.gguf", 'files("some_words") / "sub"'),
        ("package:some_words/words.gguf", 'gguf_file="words.gguf"'),
        ("package:some_words/model", 'files("some_words") / "model"'),
        ("~/words.gguf", 'base = "FOLDER"'),
        ("package:some_images/eyes.onnx", "what ffalora makes of eyes.onnx"),
        ("someone/words", 'revision="abc"'),
    ],
)
def test_the_code_finds_the_base_wherever_it_is(source, said):
    found = config()
    model = replace(found.model, source=source, revision="abc")
    assert said in usage(replace(found, model=model), merged=False, sized=False)


@pytest.mark.parametrize("merge", [False, True])
def test_a_decoder_that_classifies_is_told_its_padding(merge, tmp_path):
    """Neither the base nor its tokenizer had any; the folder pads with what the head passes by."""
    words = load_tokenizer(plan([])[0].config.model)
    words.bos_token, words.eos_token, words.pad_token = "[CLS]", "[SEP]", None
    base = save_tiny_llama(tmp_path / "llama", words=words)
    source = ["model=auto", f"model.source={base}", f"paths.runs={tmp_path / 'runs'}"]
    assert main(["run", "--quiet", "debug=tiny", "privacy=none", *source]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    to = tmp_path / "exported"
    assert main(["export", str(run), "--to", str(to), *["--merge"] * merge]) == 0
    names, _ = run_code((to / "README.md").read_text(), to, base)
    model, tokenizer = names["model"], names["tokenizer"]
    assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.bos_token_id
    texts = ["a long one about a match that was lost", "short"]
    with torch.no_grad():
        padded = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    torch.testing.assert_close(padded, torch.cat(alone), atol=1e-6, rtol=1e-5)
