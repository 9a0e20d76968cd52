"""Prompt and completion as tokens and targets; losses and scores of the answer's tokens alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import AdapterConfig, HeadConfig, ModelConfig
from ffalora_cli.data.dataset import prepare
from ffalora_cli.data.groups import normalised, text_keys
from ffalora_cli.engine.evaluate import client_scores, evaluate, predict
from ffalora_cli.engine.gradients import MicroBatch, gradients
from ffalora_cli.models.backbone import load_backbone
from ffalora_cli.models.families import vocabulary
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.causal_lm import TASK
from ffalora_cli.tasks.targets import Scored, Targets
from tests.language import LLAMA_TARGETS, save_tiny_llama, task_of, tokenizer, write_rows

ROW = {"question": ["abc", "z"], "context": ["see d", None], "answer": ["yes", "no"]}
CATEGORY = {"category": ["open", "closed"]}


def place(row: int) -> str:
    return f"rows.csv, line {row + 2}"


def encoded(task, tokens=None, **columns):
    texts = TASK.texts(task, ROW | CATEGORY | columns, place)
    return TASK.encode(task, texts, tokens or tokenizer(), task.max_length)


def said(tokens, ids):
    return "".join(tokens.convert_ids_to_tokens(list(ids)))


def test_prompt_and_answer_are_joined_and_the_end_is_the_last_target():
    tokens, rows = tokenizer(), encoded(task_of())
    assert said(tokens, rows["input_ids"][0]) == "<s>q: abc\nsee d\na: yes</s>"
    assert said(tokens, rows["input_ids"][1]) == "<s>q: z\na: no</s>"  # no line for no context
    for ids, positions, values in zip(*rows.values(), strict=True):
        assert [ids[p + 1] for p in positions] == list(values) == ids[-len(values) :]
    assert said(tokens, rows["values"][0]) == " yes</s>"


def test_what_does_not_fit_is_cut_from_the_left_of_the_prompt_or_left_out():
    tokens = tokenizer()
    cut = encoded(task_of(max_length=12))
    assert [len(ids) for ids in cut["input_ids"]] == [12, 12]
    assert said(tokens, cut["input_ids"][0]) == "<s>e d\na: yes</s>"
    assert cut["positions"][0] == range(6, 11)
    out = encoded(task_of(max_length=16, long_rows="leave_out"))
    assert [len(row) for row in out["positions"]] == [0, 4]
    none = encoded(task_of(max_length=4))  # no room for a prompt of the longer answer
    assert [len(row) for row in none["positions"]] == [0, 0]


def test_a_chat_is_written_by_the_template_and_its_last_message_is_learnt():
    chat = [
        {"role": "user", "content": "abc"},
        {"role": "assistant", "content": "de"},
        {"role": "user", "content": "f"},
        {"role": "assistant", "content": "gh"},
    ]
    task = task_of(prompt=None, completion=None, messages_column="chat", label_column=None)
    texts = TASK.texts(task, {"chat": [chat]}, place)
    rows = TASK.encode(task, texts, tokenizer(), 64)
    unknown = [i for i in rows["input_ids"][0] if i == 2]
    assert len(unknown) == 8  # the brackets of four roles
    assert said(tokenizer(), rows["values"][0]) == "gh</s>"
    with pytest.raises(
        ConfigError, match=r"line 2: the chat does not end with something the assis"
    ):
        TASK.texts(task, {"chat": [chat[:1]]}, place)


def test_chats_are_one_text_where_what_is_said_in_them_is():
    """As other texts: blanks, case and forms of letters do not tell two apart."""
    task = task_of(prompt=None, completion=None, messages_column="chat", label_column=None)
    chats = [
        [{"role": "user", "content": said_}, {"role": "assistant", "content": "so"}]
        for said_ in ('Été  "a"', 'été\n"A"', "été b")
    ]
    texts = TASK.texts(task, {"chat": chats}, place)
    keys = text_keys(texts)
    assert keys[0] == keys[1] != keys[2]
    whole = TASK.encode(task, texts, tokenizer(), 64)["input_ids"]
    alike = [[normalised(text) for text in column] for column in texts]
    short = TASK.encode(task, alike, tokenizer(), 64)["input_ids"]
    assert whole[0] != whole[1] and short[0] == short[1] != short[2]


def test_an_empty_prompt_begins_with_the_first_token_and_an_added_end_is_dropped():
    tokens = tokenizer()
    assert TASK.prompts(task_of(), ["", "a"], tokens) == [[0], [0, tokens.vocab["a"]]]
    alone = tokenizer(bos_token=None)
    alone.backend_tokenizer.post_processor = None
    assert TASK.prompts(task_of(), [""], alone) == [[1]]


@pytest.mark.parametrize(
    "changed, wrong",
    [
        ({"prompt": "q: {question"}, "write columns as {name}"),
        ({"prompt": "q: {question!r}"}, "{question} is no column"),
        ({"prompt": "q: {question.__class__}"}, "is no column"),
        ({"completion": None}, "give one of the two"),
        ({"completion": "yes"}, "task.completion='yes' names no column"),
        ({"messages_column": "chat"}, "give one of the two"),
        ({"text_columns": ("question",)}, "task.text_columns"),
        ({"classes": ()}, "task.classes"),
        ({"metrics": ("accuracy",)}, "task.metrics"),
    ],
)
def test_a_task_that_cannot_be_is_refused(changed, wrong):
    with pytest.raises(ConfigError) as raised:
        TASK.check(task_of(**changed))
    assert wrong in str(raised.value) and "\n" not in str(raised.value)


def test_keys_of_another_kind_are_refused():
    from ffalora_cli.tasks.text_classification import TASK as other

    with pytest.raises(ConfigError, match=r"task\.prompt is of another task\.kind"):
        other.check(task_of(text_columns=("question",), metrics=("accuracy",)))


@pytest.mark.parametrize("column, said_", [("answer", "completion"), ("question", "prompt")])
def test_a_row_without_its_answer_or_any_of_its_prompt_is_named(column, said_):
    with pytest.raises(ConfigError, match=f"line 3: .*task.{said_} is made of it"):
        encoded(task_of(), **{column: ["a", " "]})


def test_a_cell_that_is_no_text_is_named_with_its_row():
    with pytest.raises(ConfigError, match=r"line 3: answer is list, not text"):
        encoded(task_of(), answer=["yes", ["no"]])


def chat_of(**first):
    task = task_of(prompt=None, completion=None, messages_column="chat", label_column=None)
    chat = [{"role": "user", "content": "a"} | first, {"role": "assistant", "content": "b"}]
    return task, TASK.texts(task, {"chat": [chat]}, place)


@pytest.mark.parametrize("first", [{"content": None}, {"content": [{"type": "text"}]}, {"role": 1}])
def test_a_message_that_is_no_text_is_refused_and_never_learnt_as_none(first):
    with pytest.raises(ConfigError, match=r"line 2: the chat .* both texts"):
        chat_of(**first)


def test_a_chat_that_the_template_refuses_is_one_line():
    tokens = tokenizer()
    tokens.chat_template = "{{ raise_exception('System role not supported') }}"
    task, texts = chat_of(role="system")
    with pytest.raises(ConfigError, match=r"refuses 'system' .*System role not supported") as error:
        TASK.encode(task, texts, tokens, 64)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny network with every factor drawn, and rows of the task in both reductions."""
    folder = tmp_path_factory.mktemp("language")
    source, data = save_tiny_llama(folder / "model"), write_rows(folder / "data")
    model = ModelConfig("tiny", str(source), None, {"query_value": LLAMA_TARGETS}, {}, 1.0, 0.1)
    backbone = load_backbone(model, HeadConfig("frozen", 0.1, 0), task_of())
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    network = build_network(backbone, adapter, LLAMA_TARGETS)
    generator = torch.Generator().manual_seed(1)
    values = {
        n: v + 0.1 * torch.randn(v.shape, generator=generator) for n, v in network.initial.items()
    }
    rows = {
        reduction: prepare(
            task_of(loss_reduction=reduction),
            tokenizer(),
            str(data),
            str(folder / "cache"),
            keep_together="text",
        )
        for reduction in ("mean", "sum")
    }
    return network, values, rows


def test_head_and_embeddings_are_frozen_backbone(trained):
    network, _, _ = trained
    assert network.head_names == () and network.padding == ""
    assert {name.rpartition(".")[2] for name in network.initial} == {"lora_a", "lora_b"}
    assert network.frozen_parameters == sum(p.numel() for p in network.plain.parameters())


def test_the_vocabulary_s_layer_takes_no_adapter(tmp_path):
    model = ModelConfig("tiny", str(save_tiny_llama(tmp_path)), None, {}, {}, 1.0, 0.1)
    backbone = load_backbone(model, HeadConfig("frozen", 0.1, 0), task_of())
    adapter = AdapterConfig(4, 8.0, "all", "kaiming", 0, 0.0)
    with pytest.raises(ConfigError, match="lm_head' names no linear layer"):
        build_network(backbone, adapter, ("lm_head",))


def of_rows(network, values, examples, rows):
    """Losses and gradients of all factors, one copy an example."""
    order = rows[np.argsort(-examples.lengths[rows], kind="stable")]
    stack = {name: value[None] for name, value in values.items()}
    batch = MicroBatch.of(network, examples, np.zeros(len(order), np.int64), order)
    return order, *gradients(network, batch, stack, {}, {})


def test_a_sum_s_gradient_is_as_many_times_its_mean_s_as_the_answer_has_tokens(trained):
    network, values, data = trained
    rows = np.arange(8)
    order, losses, mean = of_rows(network, values, data["mean"].train, rows)
    _, total, summed = of_rows(network, values, data["sum"].train, rows)
    ends = data["sum"].train.targets.offsets
    counts = torch.from_numpy(np.diff(ends)[order]).float()
    assert len(set(counts.tolist())) > 2
    assert torch.allclose(total, counts * losses, rtol=1e-5)
    for name, each in mean.items():
        assert torch.allclose(summed[name], counts[:, None, None] * each, rtol=1e-4, atol=1e-6)


def test_chunks_change_nothing(trained, monkeypatch):
    network, values, data = trained
    whole = of_rows(network, values, data["mean"].train, np.arange(8))
    scored = predict(network, data["mean"].train, values, 64)
    for chunk in (1, 3):
        monkeypatch.setattr(vocabulary, "CHUNK", chunk)
        parts = of_rows(network, values, data["mean"].train, np.arange(8))
        assert torch.allclose(parts[1], whole[1], rtol=1e-5)
        for name, each in whole[2].items():
            assert torch.allclose(parts[2][name], each, rtol=1e-4, atol=1e-7)
        again = predict(network, data["mean"].train, values, 64)
        assert np.allclose(again.losses, scored.losses, rtol=1e-5)
        assert np.array_equal(again.answers, scored.answers)


def test_losses_are_of_the_answers_tokens_and_nothing_else(trained):
    network, _, data = trained
    examples = data["mean"].train
    scored = predict(network, examples, network.initial, 64)
    for row in (0, 5):
        ids = torch.from_numpy(examples.ids[slice(*examples.offsets[row : row + 2])]).long()
        logits = network.plain(ids[None]).logits[0]
        first, last = examples.targets.offsets[row : row + 2]
        count = last - first
        each = functional.cross_entropy(logits[-1 - count : -1], ids[-count:], reduction="none")
        assert np.allclose(scored.losses[first:last], each.numpy(), atol=1e-5)
        assert scored.by_row()[row] == pytest.approx(float(each.mean()), abs=1e-5)


def test_scores_are_of_all_tokens_alike(trained):
    network, values, data = trained
    examples = data["mean"].train
    found = evaluate(network, examples, values, task_of(), prefix="")
    scored = predict(network, examples, values, 64)
    assert found["nll"] == pytest.approx(scored.losses.mean())
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))
    assert found["loss"] == pytest.approx(scored.by_row().mean()) != found["nll"]
    assert found["token_accuracy"] == np.mean(scored.answers == examples.targets.values)
    endless = Scored(Targets(np.zeros(1, np.int64)), np.zeros(1), np.full(1, 1e6))
    assert math.isfinite(TASK.score(task_of(), "perplexity", endless))


def test_a_client_is_scored_on_the_strata_that_there_are(trained):
    """A category without evaluation rows says nothing; it must not be an answer's zero or NaN."""
    network, values, data = trained
    examples = data["mean"].train
    some = examples.take(np.flatnonzero(examples.targets.strata == 0))
    counts = np.array([[3, 5], [0, 4]])
    plain, own = client_scores(network, some, [values], counts, task_of())
    assert np.isfinite(own).all() and np.array_equal(plain, own)


def test_rows_are_dealt_by_category_and_long_ones_are_counted(tmp_path):
    data = write_rows(tmp_path)
    task = task_of(max_length=18, long_rows="leave_out")
    found = prepare(task, tokenizer(), str(data), str(tmp_path / "cache"), keep_together="text")
    assert 0 < found.facts["train"]["rows_too_long"] < 48
    held = next(iter(found.evals.values()))
    assert len(found.train) + len(held) + found.facts["train"]["rows_too_long"] == 48
    assert set(found.facts["train"]["labels"]) == {"open", "closed"}
    again = prepare(task, tokenizer(), str(data), str(tmp_path / "cache"), keep_together="text")
    assert again.facts["train"]["cache"] == "read" and again.train.content == found.train.content
    lines = (data / "talk" / "train.jsonl").read_text().splitlines()
    assert len(json.loads(lines[0])) == 4
    with pytest.raises(ConfigError, match=r"no row's answer fits task\.max_length=5"):
        none = task_of(max_length=5)
        prepare(none, tokenizer(), str(data), str(tmp_path / "cache"), keep_together="text")
