"""Loads an export as a stranger would, in a process of its own: class scores of some texts.

``python reload.py QUESTION ANSWER`` imports transformers and peft and nothing of ours. QUESTION is
JSON: ``folder``, ``base`` (None: a merged model), ``revision``, ``texts`` (a list for each text
column), ``max_length``, ``classes``. ANSWER is safetensors: ``logits`` float32 [rows, classes].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BATCH = 16  # rows


def load(question: dict[str, Any]) -> Any:
    """The model in the folder, on its base where it is an adapter."""
    from transformers import AutoModelForSequenceClassification

    folder, base, classes = question["folder"], question["base"], question["classes"]
    if base is None:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        if model.config.id2label != dict(enumerate(classes)):
            raise ValueError(f"its classes are {model.config.id2label}")
        return model.eval()
    from peft import PeftModel

    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        revision=question["revision"] or "main",
        num_labels=len(classes),
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
