"""Reads a causal language model and its tokenizer out of a GGUF file, as llama.cpp writes them."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

_PLAIN = {"F32", "F16", "BF16"}  # the rest are blocks of integers with a scale


def convert(file: Path, folder: Path, source: str) -> str:
    """Write the dequantised model and its tokenizer.

    Args:
        file: GGUF, of an architecture that transformers reads.
        folder: empty.
        source: as typed, for messages.

    Returns:
        What the weights are.

    Raises:
        ConfigError: transformers cannot read it; says why.
    """
    import torch
    import transformers
    from gguf import GGUFReader
    from safetensors.torch import save_file

    from ffalora_cli.models.reading import quiet_transformers, readable_errors

    options = {"gguf_file": file.name, "trust_remote_code": False}
    dense = {}
    if found := getattr(transformers, "GgufConfig", None):  # before it came, always dense
        dense["quantization_config"] = found(dequantize=True)
    with readable_errors(source), quiet_transformers():
        types = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), **options)
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that has no switch
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(file.parent), dtype=torch.float32, **options, **dense
            )
    tokenizer.save_pretrained(str(folder))
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    tensors = {n: t.contiguous() for n, t in model.state_dict().items() if n not in tied}
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    settings = {**model.config.to_dict(), "dtype": "float32"}
    for name in ("quantization_config", "_name_or_path", "transformers_version"):
        settings.pop(name, None)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    packed = [name for name, _ in types.most_common() if name not in _PLAIN]
    if not packed:
        return f"read from {' and '.join(sorted(types))} in a GGUF file"
    return f"dequantised from {' and '.join(packed)}: not the numbers of the hub's model"
