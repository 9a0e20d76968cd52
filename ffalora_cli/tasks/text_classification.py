"""One class for a text or a pair of texts, by the output of its first token."""

from __future__ import annotations

from ffalora_cli.tasks.classification import Classification


class TextClassification(Classification):
    """Sequence classification as transformers has it."""

    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"


TASK = TextClassification()
