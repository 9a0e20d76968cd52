"""Loads an export as a stranger would, in a process of its own: outputs for some inputs.

``python reload.py QUESTION INPUTS ANSWER`` imports transformers and peft and nothing of ours.
QUESTION is JSON: ``folder``, ``base`` (None: a merged model), ``revision``, and of the task
``auto_class``, ``width`` and ``padding`` (None: as the model has it), ``settings`` (of the model's
configuration) and ``arguments`` (of every call). INPUTS is safetensors: of micro-batch ``i`` the
model's inputs, each ``i/NAME``, and where outputs of single tokens are asked, ``i`` their places,
int64 [rows].
ANSWER is safetensors: ``i``, float32 [rows, width].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def load(question: dict[str, Any]) -> Any:
    """The model in the folder, on its base where it is an adapter."""
    import transformers

    folder, base = question["folder"], question["base"]
    auto_class = getattr(transformers, question["auto_class"])
    if base is None:
        model = auto_class.from_pretrained(folder)
        for name, value in question["settings"].items():
            found = getattr(model.config, name)
            if json.loads(json.dumps(found)) != value:  # numbers as keys are text in JSON
                raise ValueError(f"its {name} is {found}")
        return model.float().eval()
    from peft import PeftModel

    asked = {"num_labels": question["width"], "pad_token_id": question["padding"]}
    model = auto_class.from_pretrained(
        base,
        revision=question["revision"] or "main",
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        **{name: value for name, value in asked.items() if value is not None},
    )
    return PeftModel.from_pretrained(model.float(), folder).eval()


def main(question_file: str, inputs_file: str, answer_file: str) -> None:
    """Read, compute, write."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    question = json.loads(Path(question_file).read_text(encoding="utf-8"))
    model = load(question)
    batches: dict[str, dict[str, Any]] = {}
    places: dict[str, Any] = {}
    for key, tensor in load_file(inputs_file).items():
        number, _, name = key.partition("/")
        if name:
            batches.setdefault(number, {})[name] = tensor
        else:
            places[number] = tensor
    answers = {}
    with torch.no_grad():
        for number, inputs in batches.items():
            logits = model(**inputs, **question["arguments"]).logits.float()
            if number in places:
                logits = logits[torch.arange(len(logits)), places[number]]
            answers[number] = logits.contiguous()
    save_file(answers, answer_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
