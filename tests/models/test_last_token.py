"""Decoders that classify read each text's last token, whatever their padding is called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from ffalora_cli.compose.jobs import plan
from ffalora_cli.models.network import load_network
from tests.models.test_padding_free import DECODERS
from tests.tiny import TinyExamples

FAMILIES = ("llama", "gpt2", "qwen3", "gpt_neox", "opt", "gemma2")


def network_of(folder, family, **settings):
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[family](**DECODERS[family] | settings)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    job = plan(["model=auto", f"model.source={folder}", "task=trec", "privacy=none"])[0].config
    return load_network(job.model, job.adapter, job.head, job.task)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", [None, 7])  # 7 stands in the texts, too
def test_outputs_are_those_of_a_row_by_itself(family, padding, tmp_path):
    network = network_of(tmp_path, family, pad_token_id=padding)
    assert network.packs, network.padding
    examples = TinyExamples(7)
    examples.tokens[2][0] = examples.tokens[3][1] = 7
    rows = np.argsort(-examples.lengths, kind="stable")
    targets = examples.targets.batch(rows)
    alone = [network.plain(input_ids=torch.from_numpy(examples.tokens[r])[None]) for r in rows]
    wanted = torch.cat([output.logits for output in alone])
    packed = network.outputs(network.inputs(examples, rows), network.initial, targets)
    network.padding = "on demand"
    padded = network.outputs(network.inputs(examples, rows), network.initial, targets)
    torch.testing.assert_close(packed, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(padded, wanted, atol=1e-6, rtol=1e-5)
