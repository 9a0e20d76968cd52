"""One class for each word of a text, by the output of its first token; spans of BIO tags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ffalora_cli.config.errors import ConfigError, brief, require
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks.base import ClassScores, Metric, Place
from ffalora_cli.tasks.targets import Scored, Targets

if TYPE_CHECKING:
    import numpy as np

    pass


def _commonest(targets: Targets) -> float:
    """Share of the most frequent class, what a constant answer is right in."""
    import numpy as np

    return float(np.bincount(targets.values).max() / len(targets.values))


class TokenClassification(ClassScores):
    """Columns of words and of their tags. One row is one example: its loss is its words' mean."""

    auto_class = "AutoModelForTokenClassification"
    pipeline = "token-classification"
    keys = ("loss_reduction",)
    texts_a_row = (1, 1)
    reads_lists = True
    reads = "target"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "span_f1": Metric("percent", chance=lambda targets: 0.0, hub="seqeval"),
        "token_accuracy": Metric("percent", chance=_commonest, hub="accuracy"),
    }
    client_metric = "token_accuracy"

    def outputs(self, config: TaskConfig) -> int:
        """One a class."""
        return len(config.classes)

    def texts(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place
    ) -> tuple[list[str], ...]:
        """Each row's words, joined by blanks: what tells them apart again."""
        (name,) = config.text_columns
        return ([" ".join(_words(cell, name, place(row))) for row, cell in enumerate(table[name])],)

    def targets(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place, split: str
    ) -> Targets:
        """A class index a word."""
        import numpy as np

        from ffalora_cli.tasks.labels import class_indices

        (name,), label = config.text_columns, config.label_column or ""
        tags = [cell.split() if isinstance(cell, str) else cell for cell in table[label]]
        counts = np.array([len(_words(cell, name, "")) for cell in table[name]])
        for row, of_row in enumerate(tags):
            if not isinstance(of_row, list) or len(of_row) != counts[row]:
                said = f"{len(of_row)}" if isinstance(of_row, list) else brief(of_row)
                raise ConfigError(
                    f"{place(row)}: {label} is {said} for {counts[row]} words; give one tag a word"
                )
        owner = np.repeat(np.arange(len(tags)), counts)
        flat = [tag for of_row in tags for tag in of_row]
        values = class_indices(config, flat, lambda tag: place(int(owner[tag])), split)
        return Targets(values, np.r_[0, np.cumsum(counts)])

    def encode(
        self, config: TaskConfig, texts: Sequence[list[str]], tokenizer: Any, max_length: int
    ) -> Mapping[str, Any]:
        """Tokens, and of each word that the length leaves its first one."""
        tokens = dict(
            tokenizer(
                list(texts[0]),
                truncation=True,
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
                return_offsets_mapping=True,
            )
        )
        spans = tokens.pop("offset_mapping")
        return tokens | {"positions": list(map(_first_tokens, texts[0], spans))}

    def score(self, config: TaskConfig, name: str, scored: Scored) -> float:
        """Share of words, or F1 of spans."""
        true, said = scored.targets.values, scored.answers
        if name == "token_accuracy":
            return float((true == said).mean())
        assert scored.targets.offsets is not None
        return span_f1(config.classes, scored.targets.offsets, true, said)

    def uninformed_loss(self, config: TaskConfig) -> float:
        """Of equal chances for all classes, nats."""
        return math.log(len(config.classes))

    def settings(self, config: TaskConfig) -> dict[str, Any]:
        """The classes, both ways."""
        from ffalora_cli.tasks.labels import both_ways

        return {**both_ways(config.classes), "problem_type": None}

    def check(self, config: TaskConfig) -> None:
        """Two classes or more, each once; BIO tags where spans are scored."""
        classes = config.classes
        require(
            "task.classes",
            list(classes),
            len(set(classes)) == len(classes) >= 2,
            "two classes or more, each with its own name",
        )
        require("task.label_column", config.label_column, config.label_column is not None, "a name")
        bad = next((name for name in classes if name != "O" and name[:2] not in ("B-", "I-")), None)
        if bad is not None and "span_f1" in config.metrics:
            raise ConfigError(
                f"task.classes: {brief(bad)} is no BIO tag (O, B-TYPE, I-TYPE), and span_f1 is of "
                "those; use task.metrics=[token_accuracy]"
            )
        super().check(config)


def _words(cell: Any, name: str, where: str) -> list[str]:
    """Words of a cell, a list of them or a text with blanks between.

    Raises:
        ConfigError: there are none, or one is empty or holds a blank.
    """
    words = cell.split() if isinstance(cell, str) else cell
    fine = isinstance(words, list) and all(isinstance(w, str) and w.split() == [w] for w in words)
    if not fine or not words:
        raise ConfigError(
            f"{where}: {name} is {brief(cell)}; give a list of words, none empty or with blanks"
        )
    return words


def _first_tokens(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Position of each word's first token, of as many words as there are tokens for.

    A word of which the tokenizer makes nothing has that of the next one.

    Args:
        text: words, a blank between two.
        spans: beginning and end of each token in the text; empty for special ones.
    """
    starts = [0, *(place + 1 for place, letter in enumerate(text) if letter == " ")]
    found: list[int] = []
    for position, (begin, end) in enumerate(spans):
        while begin < end and len(found) < len(starts) and starts[len(found)] < end:
            found.append(position)
    return found


def span_f1(
    classes: Sequence[str], offsets: np.ndarray, true: np.ndarray, said: np.ndarray
) -> float:
    """F1 of whole spans, as ``conlleval`` of CoNLL-2000 counts them; 0 where there are none.

    Args:
        classes: BIO tags.
        offsets: int64 [rows + 1], where each row's words begin.
        true: int64 [words], classes.
        said: int64 [words].
    """
    wanted, found = spans(classes, offsets, true), spans(classes, offsets, said)
    right = len(wanted & found)
    return 2 * right / (len(wanted) + len(found)) if right else 0.0


def spans(
    classes: Sequence[str], offsets: np.ndarray, tags: np.ndarray
) -> set[tuple[int, int, str]]:
    """(first word, word after the last, type) of every span.

    ``B-X`` begins one, and so does ``I-X`` after ``O``, after another type, or first in its row.
    """
    found, firsts = set(), set(offsets.tolist())
    begin, kind = 0, ""  # of the span under way; no type: none
    for word, tag in enumerate([*(classes[tag] for tag in tags.tolist()), "O"]):
        name = tag[2:]
        goes_on = tag[:2] == "I-" and name == kind and word not in firsts
        if kind and not goes_on:
            found.add((begin, word, kind))
        if not goes_on:
            begin, kind = word, name
    return found


TASK = TokenClassification()
