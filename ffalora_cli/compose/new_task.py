"""Writes a task as its YAML file, with the keys of its kind alone and a comment at each."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from ffalora_cli.compose.yaml_files import dumped
from ffalora_cli.config.errors import ConfigError, brief, one_line
from ffalora_cli.config.rules import NAME
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.base import OF_KINDS

ORDER = (
    *("name", "version", "kind", "image_column", "image_size", "text_columns", "prompt"),
    *("completion", "messages_column", "template_version", "loss_reduction", "label_column"),
    *("classes", "target_range", "metrics", "splits", "eval_split", "tune_split", "eval_on"),
    *("extra_eval_splits", "holdout_fraction", "holdout_seed", "max_length", "long_rows"),
    *("generate", "client_column", "unit_column", "folder", "package", "hub_path", "hub_name"),
    "license",
)
_COMMENTS = {
    "version": "raise it when rows, classes or cuts change: part of a run's identity",
    "kind": "a file in ffalora_cli/tasks, or a package's",
    "image_column": "files' bytes, paths, or both as the library `datasets` writes them",
    "image_size": "height and width in pixels; null = the model's own",
    "messages_column": "a chat instead, through the tokenizer's template",
    "template_version": "raise it when prompt or completion changes: part of a run's identity",
    "loss_reduction": "over a row's tokens | sum: a row's gradient is then as many times longer",
    "metrics": "the first is the headline",
    "eval_split": "scored as the rounds go; holdout: a part of train that no client is given",
    "tune_split": "for choosing hyper-parameters; tuning never sees eval_split",
    "eval_on": "eval | tune | test: which of them this run looks at",
    "extra_eval_splits": "scored beside eval_split",
    "holdout_fraction": "of train (of each class); equal texts stay on one side",
    "holdout_seed": "part of the task, not of the run's seed; the tuning cut adds 1",
    "long_rows": "cut (longer prompts, from the left) | leave_out (such rows)",
    "generate": "answers that the model writes itself, and their scores (gsm8k has an example)",
    "client_column": "whose rows they are, for partition=natural: {clients}",
    "unit_column": "whose rows privacy.unit=column protects together (a person)",
    "package": "no installed package ships the rows",
    "hub_name": "its configuration",
}
_TEXTS = {
    "text_classification": "one, or a pair that is read as one sequence",
    "regression": "one, or a pair that is read as one sequence",
    "token_classification": "lists of words, or texts with blanks between words",
    "causal_lm": "none: prompt and completion name the columns, or messages_column",
    "image_classification": "none: the model reads images",
}
_CLASSES = {
    "text_classification": "in label order: the first is number 0",
    "image_classification": "in label order: the first is number 0",
    "token_classification": "tags in label order",
    "causal_lm": "values of label_column, which rows are dealt by; [] without",
    "regression": "numbers have none",
}


def place(name: str, configs: str, force: bool) -> Path:
    """The file of a task of this name, in a folder of configurations.

    Raises:
        ConfigError: it is there, or a name that no task can have.
    """
    from ffalora_cli.compose import catalogue

    file = Path(configs).expanduser() / "task" / f"{name}.yaml"
    if not NAME.fullmatch(name) or name.strip(".") != name:
        raise ConfigError(f"--name {brief(name)[1:-1]}: use up to 80 letters, digits, - and _")
    if name == "null":  # task=null is no task
        raise ConfigError("a task cannot be called null; add --name NAME")
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already; add --force to write it anew, or --name NAME")
    if not file.exists() and name in catalogue.options("task"):
        raise ConfigError(f"there is a task {name} already (ffalora ls tasks); add --name NAME")
    return file


def seen_from(folder: str, file: Path) -> str:
    """A folder as a task's file says it: from there inside one project, else from the root.

    The project is the folder around that of the configurations.
    """
    own, project = Path(os.path.abspath(folder)), Path(os.path.abspath(file)).parents[2]
    inside = own == project or project in own.parents
    return os.path.relpath(own, file.parent) if inside else str(own)


def written(task: TaskConfig, title: str, clients: str) -> str:
    """The text of a task's YAML file.

    Args:
        task: with ``folder`` as ``seen_from`` says it.
        title: its first line: what ``ffalora ls tasks`` says of it.
        clients: columns that could name clients, in words.
    """
    kind = registry.get(task.kind)
    others = OF_KINDS - set(kind.keys)
    if kind.modality == "image":
        others |= {"max_length"}
    assert set(ORDER) == {item.name for item in fields(task)}
    lines = [f"# {one_line(title)}"]
    for key in ORDER:
        if key not in others:
            comment = _comment(key, task).replace("{clients}", clients)
            lines += _line(key, getattr(task, key), comment)
    return "\n".join(lines) + "\n"


def _comment(key: str, task: TaskConfig) -> str:
    if key == "text_columns":
        return _TEXTS[task.kind]
    if key == "classes":
        numbers = task.classes == tuple(map(str, range(len(task.classes))))
        return _CLASSES[task.kind] + ("; names may stand for the numbers" if numbers else "")
    if key == "label_column" and task.label_column is None:
        return "column of strata for label skew (partition=dirichlet); none"
    if key == "target_range":
        return "rows outside are refused, as [lowest, highest]; [] = any number"
    if key == "splits":
        where = "below folder" if task.folder else "of the hub"
        return f"our name -> file {where}" if task.folder else f"our name -> split {where}"
    if key == "max_length":
        more = "; rows that are longer are truncated" if task.kind != "causal_lm" else ""
        return f"tokens{more}"
    if key == "folder":
        return "of the files in splits; a relative one is seen from this file"
    if key == "hub_path":
        return "Hugging Face data set" if task.hub_path else "no copy on the hub"
    return _COMMENTS.get(key, "")


def _line(key: str, value: Any, comment: str) -> list[str]:
    """``key: value  # comment``; what is long has its comment above."""
    if isinstance(value, str) and "\n" in value:
        text = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    else:
        plain = list(value) if isinstance(value, tuple) else value
        flow = None if isinstance(plain, list | dict) else False  # None: inside brackets
        text = dumped({key: plain}, default_flow_style=flow, width=98).rstrip()
    if not comment:
        return text.splitlines()
    if "\n" in text or len(text) + len(comment) > 116:
        return [f"# {comment[0].upper()}{comment[1:]}", *text.splitlines()]
    return [f"{text}  # {comment}"]
