"""Guesses what kind of task a table is: its texts, its labels, its classes; says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ffalora_cli.config.errors import ConfigError, choose, listed
from ffalora_cli.data.columns import Column, is_bio

LABELS = (
    *("label", "labels", "class", "target", "category", "topic", "intent", "sentiment"),
    *("emotion", "y", "gold", "tag", "tags", "ner_tags", "pos_tags", "score", "rating", "stars"),
)
TEXTS = (
    *("text", "sentence", "title", "headline", "subject", "body", "content", "description"),
    *("premise", "hypothesis", "sentence1", "sentence2", "text1", "text2", "text_a", "text_b"),
    *("question", "question1", "question2", "review", "document", "message", "tweet", "comment"),
    *("abstract", "utterance", "query", "passage", "context", "summary", "post"),
)
PROMPTS = ("prompt", "instruction", "question", "query", "input", "problem", "source")
CONTEXTS = ("context", "input", "passage")
ANSWERS = ("completion", "response", "output", "answer", "solution", "target")
_SURELY_WRITTEN = 3  # of ANSWERS: nobody calls a label so
_LONG = 5  # words on average: a column that nobody would take for a name


@dataclass(frozen=True)
class Guess:
    """What a table is taken for: fields of a task, and the reasons.

    Attributes:
        fields: of ``TaskConfig``: kind, columns, prompt; classes are not among them.
        why: lines (label, text) for a person.
        label: the column of ``label_column``; of tags all of them, one after another.
        names: of its classes, where another column has them in words.
        needs: columns that the task reads.
        left: the others.
    """

    fields: Mapping[str, Any]
    why: Sequence[tuple[str, str]]
    label: Column | None = None
    names: Sequence[str] = ()
    needs: Sequence[str] = ()
    left: Sequence[str] = ()


def guess(
    columns: Mapping[str, Column],
    text: Sequence[str] = (),
    label: str | None = None,
    kind: str | None = None,
) -> Guess:
    """The kind of task that columns make, and which of them are what.

    Args:
        columns: by name.
        text: names of text columns, where a person said them; of a prompt and its answer both.
        label: the name of the label's column, where a person said it.
        kind: where a person said it.

    Raises:
        ConfigError: a column that is not there, or none that could be what is needed.
    """
    for name in (*text, *([label] if label else [])):
        if name not in columns:
            raise choose("column", name, columns)
    order = (_chat, _written, _tags, _images, _labelled)
    of_kind = {
        "causal_lm": (_chat, _written),
        "token_classification": (_tags,),
        "image_classification": (_images,),
        "text_classification": (_labelled,),
        "regression": (_labelled,),
    }
    for attempt in order if kind is None else of_kind[kind]:
        found = attempt(columns, text, label, kind)
        if found is not None:
            used = {*text, *_used(found.fields)}
            return replace(
                found,
                needs=[name for name in columns if name in used],
                left=[name for name in columns if name not in used],
            )
    what = "classes or texts" if kind is None else f"task.kind={kind}"
    raise ConfigError(
        f"no columns that make {what}; there are {listed(map(_shown, columns.values()))}; name "
        "them with --text and --label"
    )


def _used(fields: Mapping[str, Any]) -> set[str]:
    keys = ("label_column", "messages_column", "image_column")
    written = f"{fields.get('prompt')}{fields.get('completion')}"
    named = {part.partition("}")[0] for part in written.split("{")[1:]}
    return {*fields["text_columns"], *(str(fields.get(key)) for key in keys)} | named


def _shown(column: Column) -> str:
    return f"{column.name} ({column.sort})"


Text = Sequence[str]
Columns = Mapping[str, Column]


def _chat(columns: Columns, text: Text, label: str | None, kind: str | None) -> Guess | None:
    """A column of messages with roles."""
    chats = [c for c in columns.values() if c.sort == "chat" and c.name in (text or columns)]
    if not chats or (label and kind is None):
        return None
    fields = {"kind": "causal_lm", "text_columns": (), "messages_column": chats[0].name}
    why = f"causal_lm: {chats[0].name} holds chats (role and content), the last turn is learnt"
    return Guess(fields, [("kind", why)])


def _written(columns: Columns, text: Text, label: str | None, kind: str | None) -> Guess | None:
    """A prompt and what is written after it."""
    texts = {name: c for name, c in columns.items() if c.sort == "text"}
    named = any(columns[n].categories for n in LABELS[:8] if n in columns and n != "target")
    if kind is None and (text or label):
        return None
    if text:
        asked, answer = list(text[:-1]), text[-1]
    else:
        answers = ANSWERS if kind or not named else ANSWERS[:_SURELY_WRITTEN]
        answer = next((n for n in answers if n in texts and not texts[n].categories), "")
        asked = [next((n for n in PROMPTS if n in texts and n != answer), "")]
        asked += [n for n in CONTEXTS if n in texts and n not in (answer, *asked)][:1]
    if not answer or not asked or not asked[0]:
        return None
    strata = next((n for n in LABELS if n in columns and columns[n].categories), None)
    strata = label or (strata if strata not in (answer, *asked) else None)
    lines = [f"{{{name}}}" for name in asked]
    prompt = lines[0] if asked == ["prompt"] else "\n".join([*lines, "Answer:"])
    fields = {"kind": "causal_lm", "text_columns": (), "prompt": prompt}
    fields |= {"completion": f" {{{answer}}}", "label_column": strata}
    why = [("kind", f"causal_lm: {answer} is written after {' and '.join(asked)}")]
    return Guess(fields, why, columns[strata] if strata else None)


def _tags(columns: Columns, text: Text, label: str | None, kind: str | None) -> Guess | None:
    """Words, and as many tags."""
    lists = [c for c in columns.values() if c.sort == "list" or (kind and c.sort == "text")]
    tags = [c for c in lists if c.name == label or (not label and c.name.lower() in LABELS)]
    words = [c for c in lists if c.name in (text or columns) and c not in tags]
    for tag in tags:
        for word in words:
            if [_length(c) for c in tag.cells] == [_length(c) for c in word.cells]:
                fields = {"kind": "token_classification", "text_columns": (word.name,)}
                why = f"token_classification: {tag.name} has one tag for each word of {word.name}"
                flat = [t for cell in tag.there for t in _split(cell)]
                found = Column(tag.name, flat, tag.names)
                bio = is_bio(tag.names or found.values)
                metrics = ("span_f1", "token_accuracy") if bio else ("token_accuracy",)
                fields |= {"label_column": tag.name, "metrics": metrics}
                return Guess(fields, [("kind", why)], found)
    return None


def _images(columns: Columns, text: Text, label: str | None, kind: str | None) -> Guess | None:
    """Images and one class each."""
    images = [c for c in columns.values() if c.sort == "image" and c.name in (text or columns)]
    classes = _label(columns, (), label)
    if not images or classes is None:
        return None
    fields = {"kind": "image_classification", "text_columns": (), "image_column": images[0].name}
    why = f"image_classification: {images[0].name} holds images"
    return Guess(fields | {"label_column": classes.name}, [("kind", why)], classes)


def _labelled(columns: Columns, text: Text, label: str | None, kind: str | None) -> Guess | None:
    """A text or a pair of texts, and a class or a number."""
    found = _label(columns, text, label, numbers=kind != "text_classification")
    if found is None:
        return None
    texts = tuple(text) or _texts(columns, found.name)
    if not texts:
        return None
    numbers = kind == "regression" or (kind is None and not found.categories)
    if numbers and found.sort != "number":
        raise ConfigError(
            f"{found.name} has {len(found.values)} different values in {len(found.there)} rows, "
            "and not all are numbers; name the column of classes with --label"
        )
    kind = "regression" if numbers else "text_classification"
    what = "numbers" if numbers else f"{len(found.values)} values, each in several rows"
    as_said = found.name == label or _rank(found.name) < len(LABELS)
    why = [("kind", f"{kind}: {found.name} has {what}")]
    why += [] if as_said else [("label", f"{found.name}: no column is called label, class, ...")]
    why += [("text", ", ".join(texts) + (": a pair, read as one" if len(texts) == 2 else ""))]
    names = () if numbers else _names(columns, found)
    return Guess(
        {"kind": kind, "text_columns": texts, "label_column": found.name}, why, found, names
    )


def _label(columns: Columns, text: Text, label: str | None, numbers: bool = False) -> Column | None:
    """The column of labels: as it was said, else by its name, else the last that repeats values."""
    if label is not None:
        return columns[label]
    named = [columns[n] for n in sorted(columns, key=_rank) if _rank(n) < len(LABELS)]
    fitting = [c for c in named if c.name not in text and (c.categories or (numbers and _many(c)))]
    repeating = [c for c in columns.values() if c.categories and c.name not in text]
    return (fitting or repeating[::-1] or [None])[0]


def _many(column: Column) -> bool:
    return column.sort == "number" and len(column.values) > 2


def _rank(name: str) -> int:
    """Place in ``LABELS``; after all of them for other names."""
    return LABELS.index(name.lower()) if name.lower() in LABELS else len(LABELS)


def _texts(columns: Columns, label: str) -> tuple[str, ...]:
    """One or two columns of texts, in their order: those called so first, then the longest."""
    free = [c for c in columns.values() if c.sort == "text" and c.name != label]
    known = [c for c in free if c.name.lower() in TEXTS]
    long = [c for c in free if c.words >= _LONG and c not in known]
    chosen = [*sorted(known, key=_length_of), *sorted(long, key=_length_of)][:2]
    chosen = chosen or sorted(free, key=_length_of)[:1]
    return tuple(c.name for c in columns.values() if c in chosen)


def _length_of(column: Column) -> float:
    return -column.words


def _names(columns: Columns, label: Column) -> tuple[str, ...]:
    """Names of numbered classes that another column says row by row; () where none does."""
    if label.sort != "number" or not label.whole or label.names:
        return ()
    numbers = sorted(label.values, key=int)
    if numbers != [str(n) for n in range(len(numbers))]:
        return ()
    for other in columns.values():
        if other.sort == "text" and other.categories:
            both = zip(label.cells, other.cells, strict=True)
            pairs = {(int(float(n)), t) for n, t in both if None not in (n, t)}
            if len(pairs) == len(dict(pairs)) == len(numbers):
                return tuple(name for _, name in sorted(pairs))
    return ()


def _length(cell: Any) -> int:
    return len(_split(cell)) if cell is not None else 0


def _split(cell: Any) -> list[Any]:
    return cell.split() if isinstance(cell, str) else list(cell)
