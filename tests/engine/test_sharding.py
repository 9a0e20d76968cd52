"""Frozen weights in shares of two gloo processes, against one process that has them all."""

from __future__ import annotations

import copy
import faulthandler
import re
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch

from ffalora_cli.config.schema import AdapterConfig, HeadConfig, ModelConfig
from ffalora_cli.data.dataset import prepare
from ffalora_cli.engine import ranks as ranks_module
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.evaluate import predict
from ffalora_cli.engine.ranks import ALONE
from ffalora_cli.engine.sharding import Shares, shard
from ffalora_cli.models.backbone import Backbone, load_backbone
from ffalora_cli.models.families.recompute import layers_of
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.text_classification import TASK
from tests.engine.test_engines import job
from tests.language import LLAMA_TARGETS, save_tiny_llama, task_of, tokenizer, write_rows
from tests.tiny import BERT_TARGETS, TinyExamples, tiny_model
from tests.two_ranks import on_two_ranks

TOKENS = 96  # of a micro-batch: several a step


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A function (seed) -> tiny language model and its rows."""
    folder = tmp_path_factory.mktemp("llama")
    data = write_rows(folder / "data")
    rows = prepare(task_of(), tokenizer(), str(data), str(folder / "cache"), keep_together="text")

    sources = [str(save_tiny_llama(folder / f"{seed}", seed)) for seed in (0, 1)]

    def make(seed: int):
        targets = {"query_value": LLAMA_TARGETS}
        model = ModelConfig("tiny", sources[seed], None, targets, {}, 1.0, 0.1)
        backbone = load_backbone(model, HeadConfig("frozen", 0.1, 0), task_of())
        adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
        return build_network(backbone, adapter, LLAMA_TARGETS), rows.train

    return make


def bert(seed: int, precision: str = "fp32"):
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    backbone = Backbone(tiny_model("bert", seed), "tiny", (), TASK)
    return build_network(backbone, adapter, BERT_TARGETS, precision), TinyExamples(96)


def outcome(network, examples, ranks=ALONE, shares=None, recomputes=False):
    """A round of uneven shares, with noise; then losses of all rows."""
    if recomputes:
        network.recompute()
    few = len(examples.lengths) // 3
    work = job(network, (0, 1, 2), ("lora_a", "lora_b"), rows_each=few, rate=0.8, spread=0.1)
    engine = build_engine("stacked", network, examples, TOKENS, ranks, shares)
    found = engine.train(work)
    values = {n: v[0] for n, v in found.trained.items()}
    scored = predict(network, examples, network.initial | values, TOKENS, ranks=ranks)
    tensors = {n: v.numpy() for n, v in found.trained.items()} | {"losses": scored.losses}
    return tensors, found.max_tokens, found.units


def uneven(pairs, lengths, world):
    """Most of a step is rank 0's."""
    return (np.arange(len(pairs.rows)) % 4 == 3).astype(np.int64)


def on_shares(make, ranks, dtype=torch.float32, spoil=None, **changed):
    """``outcome`` where rank 1 begins with other weights than rank 0, whose shares it gets."""
    ranks_module.EVEN, ranks_module.owners = 0.0, uneven  # in this process, which ends
    network, examples = make(ranks.rank)
    skeleton = copy.deepcopy(network.plain).to("meta")
    held = sum(p.numel() for p in layers_of(network.model)[0].parameters())
    shares = shard(network, skeleton, ranks, "cpu", dtype)
    share = sum(p.to_local().numel() for p in layers_of(network.model)[0].parameters())
    assert abs(share - held / 2) <= 0.02 * held and network.frozen_parameters
    if spoil is not None and ranks.rank == 1:
        spoil(layers_of(network.model)[1])
    return outcome(network, examples, ranks, shares, **changed)


def check_same(found, wanted, tolerance=1e-6):
    for one in found:
        for name, value in wanted[0].items():
            off = np.linalg.norm(one[0][name] - value)
            assert off <= tolerance * np.linalg.norm(value), name
        assert np.array_equal(one[2], wanted[2])
    assert all(np.array_equal(found[0][0][n], found[1][0][n]) for n in wanted[0])


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_two_ranks_with_half_the_weights_each_do_what_one_does(family, recomputes, llama):
    """Rank 1 has a quarter of the micro-batches, and makes the other passes all the same."""
    make = llama if family == "llama" else bert
    wanted = outcome(*make(0))
    check_same(on_two_ranks(lambda ranks: on_shares(make, ranks, recomputes=recomputes)), wanted)


def test_shares_of_bf16_weights():
    wanted, make = outcome(*bert(0, "bf16")), partial(bert, precision="bf16")
    check_same(on_two_ranks(lambda ranks: on_shares(make, ranks, torch.bfloat16)), wanted, 2e-2)


def fails_once(backward, layer):
    """Out of memory in the middle of the second pass through a layer, forward or backward."""
    passes = []

    def no_memory(*_):
        raise torch.OutOfMemoryError("no memory")

    def hook(module, args, output):
        passes.append(1)
        if len(passes) == 2:
            output.register_hook(no_memory) if backward else no_memory()

    (_, inner), *_ = [part for part in layer.named_modules() if part[0].endswith("query")]
    inner.register_forward_hook(hook)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_what_one_rank_has_no_memory_for_all_do_again_in_halves(backward):
    wanted, spoil = outcome(*bert(0)), partial(fails_once, backward)
    found = on_two_ranks(lambda ranks: on_shares(bert, ranks, spoil=spoil))
    check_same(found, wanted)
    assert found[0][1] == found[1][1] < TOKENS


def test_without_the_passes_that_count_for_nothing_no_round_ends(monkeypatch):
    """The mutant: its ranks meet in different sums, which is an error or a time-out."""
    monkeypatch.setattr(ranks_module, "PATIENCE", timedelta(seconds=20))
    monkeypatch.setattr(Shares, "wait", lambda self, nothing: None)

    def mutant(ranks):
        faulthandler.disable()  # torch may end a process whose sum is of another size
        return on_shares(bert, ranks)

    try:
        found = on_two_ranks(mutant)
    except Exception as error:
        assert re.search(r"(?i)gloo|process|timed? ?out|size", str(error))
    else:
        assert None in found
