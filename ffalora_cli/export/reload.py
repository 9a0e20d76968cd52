"""Loads an export as a stranger would, in a process of its own: outputs for some texts.

``python reload.py QUESTION ANSWER`` imports transformers and peft and nothing of ours. QUESTION is
JSON: ``folder``, ``base`` (None: a merged model), ``revision``, ``texts`` (a list for each text
column), ``max_length``, and of the task ``auto_class``, ``width`` and ``settings`` (of the model's
configuration). ANSWER is safetensors: ``logits`` float32 [rows, width].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BATCH = 16  # rows


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
        return model.eval()
    from peft import PeftModel

    model = auto_class.from_pretrained(
        base,
        revision=question["revision"] or "main",
        num_labels=question["width"],
        ignore_mismatched_sizes=True,
        use_safetensors=True,
    )
    return PeftModel.from_pretrained(model.float(), folder).eval()


def main(question_file: str, answer_file: str) -> None:
    """Tokenise, score, write."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    question = json.loads(Path(question_file).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(question["folder"])
    model, parts = load(question), []
    for start in range(0, len(question["texts"][0]), BATCH):
        columns = [column[start : start + BATCH] for column in question["texts"]]
        inputs = tokenizer(
            *columns,
            truncation=True,
            max_length=question["max_length"],
            padding=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            parts.append(model(**inputs).logits.float())
    save_file({"logits": torch.cat(parts)}, answer_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
