"""``ffalora new task FILE``: describes rows of one's own, writes their task, says what to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.units import count
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.config.errors import ConfigError, brief, choose, counted, listed
from ffalora_cli.records.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from ffalora_cli.data.describe import Description, SplitFacts
    from ffalora_cli.data.sources.given import Given

_SHOWN = 12  # classes with their shares
_EXAMPLES = """\
examples:
  ffalora new task reviews.csv
  ffalora new task my_train.csv my_test.csv --name reviews
  ffalora new task reviews.jsonl --text title,body --label stars --kind regression
  ffalora new task FOLDER                 of save_to_disk, of files, or of images by class
  ffalora new task OWNER/NAME --subset CONFIGURATION     of the Hugging Face hub"""
_WHAT = "file (CSV, TSV, JSON lines, Parquet), files, folder, or OWNER/NAME of the hub"


def main(arguments: Sequence[str]) -> int:
    """Describe rows and write their task."""
    from ffalora_cli.compose import new_task
    from ffalora_cli.data.describe import describe
    from ffalora_cli.data.sources.given import find
    from ffalora_cli.tasks.registry import KINDS

    parser = Parser("new", "Write a task of rows of your own.", _EXAMPLES)
    parser.add_argument("what", nargs="?", metavar="task", help="what to write: task")
    parser.add_argument("rows", nargs="*", metavar="ROWS", help=_WHAT)
    parser.add_argument("--name", help="of the task (default: as the file is called)")
    parser.add_argument(
        "--to", default="configs", help="folder of configurations (default: configs)"
    )
    parser.add_argument(
        "--text", help="text columns, as in title,body; of a prompt the answer last"
    )
    parser.add_argument("--label", help="column of classes, numbers or tags")
    parser.add_argument("--kind", help=", ".join(KINDS.own()))
    parser.add_argument("--subset", help="configuration of a data set of the hub")
    parser.add_argument("--model", help="count its tokens, too, as in minilm")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    options = parser.read(arguments)
    if options.what != "task" or not options.rows:
        rows = [word for word in (options.what, *options.rows) if word not in (None, "task")]
        raise ConfigError(f"write: ffalora new task {shlex.join(rows or ['my.csv'])}")
    if options.kind is not None and options.kind not in KINDS.own():
        raise choose("--kind", options.kind, KINDS.own())
    given = find(options.rows)
    name = options.name or given.name
    file = new_task.place(name, options.to, options.force)
    text = options.text.split(",") if options.text else ()
    found = describe(
        replace(given, name=name), text, options.label, options.kind, options.subset, _note
    )
    for line in lines(found, given, options.model):
        print(line)
    folder = found.task.folder and new_task.seen_from(found.task.folder, file)
    content = new_task.written(
        replace(found.task, folder=folder), _title(found, options.rows), _clients(found)
    )
    _save(file, content)
    for line in closing(found, file, options.to):
        print(line)
    return DONE


def _save(file: Path, content: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content.encode())
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be written ({error.strerror}); name another folder with --to"
        ) from None


def _note(text: str) -> None:
    print(*labelled("note", text), sep="\n")


def lines(found: Description, given: Given, model: str | None) -> list[str]:
    """What was read, what it was taken for and why, and what stands in it."""
    task, said = found.task, []
    for split, facts in found.splits.items():
        where = f"{split}: {task.splits[split]}, {counted(facts.rows, 'row')}"
        if split == "train":
            where += f", {counted(len(found.columns), 'column')} ({listed(found.columns)})"
        said += labelled("read", where)
    for label, why in found.why:
        said += labelled(label, why)
    train = found.splits["train"]
    if train.labels:
        said += labelled("classes", _shares(train))
    elif task.classes:
        said += labelled("classes", listed(task.classes))
    said += labelled("words", _lengths(train)) if task.image_column is None else []
    if model is not None:
        said += labelled("tokens", _tokens(found, model))
    for split, facts in found.splits.items():
        if facts.empty:
            said += labelled("empty", f"{split}: {_empty(facts, len(task.text_columns))}")
        if facts.repeated:
            said += labelled("repeated", f"{split}: {_repeated(facts)}")
    if found.left:
        said += labelled("not read", listed(found.left))
    if given.beside is not None:
        both = f"{task.splits['train']} {given.beside}"
        said += labelled("beside", f"{given.beside} is not read; both: ffalora new task {both}")
    for warning in found.warnings:
        said += labelled("warning", warning)
    return said


def _shares(facts: SplitFacts) -> str:
    total = sum(facts.labels.values())
    parts = [f"{name} {100 * n / total:.1f} %" for name, n in facts.labels.items()][:_SHOWN]
    more = f", ... ({len(facts.labels)} in all)" if len(facts.labels) > _SHOWN else ""
    return ", ".join(parts) + more


def _lengths(facts: SplitFacts) -> str:
    import numpy as np

    middle, most = np.quantile(facts.words, [0.5, 0.95])
    longest = int(facts.words.max())
    return f"a row has {middle:.0f} (median), 19 in 20 up to {most:.0f}, the longest {longest:,}"


def _tokens(found: Description, model: str) -> str:
    """The same of the tokens of a model's own tokenizer."""
    import numpy as np

    from ffalora_cli.compose.jobs import plan
    from ffalora_cli.data.encode import encode
    from ffalora_cli.data.load import load_rows
    from ffalora_cli.models.processor import load_processor

    if found.refused or found.task.image_column is not None:
        return "not counted"
    (job,) = plan([f"model={model}"])
    processor = load_processor(job.config.model, found.task)
    lengths = encode(load_rows(found.task, None, "train"), processor, 100_000, found.task).lengths
    middle, most = np.quantile(lengths, [0.5, 0.95])
    return f"of {model}: median {middle:.0f}, 19 in 20 up to {most:.0f}, longest {max(lengths):,}"


def _empty(facts: SplitFacts, texts: int) -> str:
    said = ", ".join(f"{name} in {counted(n, 'row')}" for name, n in facts.empty.items())
    return f"{said}; of a pair one may be" if texts == 2 else said


def _repeated(facts: SplitFacts) -> str:
    text = f"{counted(facts.repeated, 'row')} of a text that stood above"
    if facts.contradicting:
        first, other = facts.contradicting[0]
        other = other.rpartition(", ")[2]
        text += (
            f"; {counted(len(facts.contradicting), 'text')} with several labels ({first}, {other})"
        )
    return text


def _title(found: Description, rows: Sequence[str]) -> str:
    task = found.task
    texts = " and ".join(task.text_columns) or task.image_column
    what = f"{task.label_column} of {texts}"
    if task.kind == "causal_lm":
        what = "a text written after another"
    elif task.kind != "regression":
        what += f", {len(task.classes)} classes"
    size = count(found.splits["train"].rows)
    source = listed(row.rstrip("/").rpartition("/")[2] if task.folder else row for row in rows)
    return f"{what} ({source}, {size} training rows)"


def _clients(found: Description) -> str:
    """Columns of which every value stands in several rows, and that the task does not read."""
    could = []
    for name in found.left:
        column = found.columns[name]
        if column.sort in ("text", "number") and 2 <= len(column.values) <= len(column.there) / 3:
            could.append(f"{brief(name)[1:-1]} ({len(column.values)} values)")
    return f"could be {listed(could)}" if could else "no column"


def closing(found: Description, file: Path, configs: str) -> list[str]:
    """Where it is, what has to be mended, and the next commands."""
    task, said = found.task, []
    for refused in found.refused:
        said += labelled("mend", f"a run refuses this: {refused}")
    said += labelled("written", f"{file} (look at it; every key has its comment)")
    elsewhere = [] if configs == "configs" else [f"--config-dir={configs}"]
    words = [*_OF_KIND[task.kind], f"task={task.name}", *elsewhere]
    dealt = [word for word in words if not word.startswith("experiment=")]
    commands = (("partition", dealt), ("plan", words), ("run", words))
    lines = [f"ffalora {verb} {shlex.join(typed)}" for verb, typed in commands]
    heads = ["then" if found.refused else "next", "", ""]
    return said + [f"{head:<10}{line}" for head, line in zip(heads, lines, strict=True)]


_OF_KIND = {
    "text_classification": ("experiment=quickstart",),
    "regression": ("partition=iid",),
    "causal_lm": ("model=smollm2", "partition=iid"),
    "image_classification": ("model=vit_small",),
    "token_classification": ("partition=iid",),
}
"""What a run takes beside its task: a short protocol, a model that reads it, or no label skew."""
