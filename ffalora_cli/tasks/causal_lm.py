"""A text written after another: prompt and completion, or a chat, and the loss of the latter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

from ffalora_cli.config.errors import ConfigError, brief, require
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks import generated_answers
from ffalora_cli.tasks.base import ClassScores, Metric, Place
from ffalora_cli.tasks.targets import Scored, Targets

if TYPE_CHECKING:
    from torch import nn


TURN, SAYS = "\ufdd0", "\ufdd1"
"""Between the messages of a chat, and between who says one and what: no text has these characters,
and normalising leaves them alone, so that chats are compared by what is said in them."""


class CausalLM(ClassScores):
    """Next-token prediction of the answer's tokens, its end among them.

    Prompt and answer are tokenised apart and joined. What does not fit is cut from the prompt's
    left, or the row left out, as ``task.long_rows`` says; one whose answer does not fit is left
    out. One row is one example, however long.
    """

    auto_class = "AutoModelForCausalLM"
    pipeline = "text-generation"
    keys = (
        "prompt",
        "completion",
        "messages_column",
        "template_version",
        "loss_reduction",
        "long_rows",
        "generate",
    )
    texts_a_row = (0, 0)  # the format strings name the columns
    reads = "vocabulary"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "nll": Metric("number", higher_is_better=False),
        "perplexity": Metric("number", higher_is_better=False, hub="perplexity"),
        "token_accuracy": Metric("percent"),
    }
    generated = generated_answers.METRICS
    client_metric = "token_accuracy"

    def outputs(self, config: TaskConfig) -> int:
        """As many as the vocabulary has words: the model's own."""
        return 0

    def columns(self, config: TaskConfig) -> tuple[str, ...]:
        """What the format strings name, or the chat; and what rows are dealt by."""
        if config.messages_column is not None:
            named = [config.messages_column]
        else:
            forms = filter(None, [config.prompt, config.completion])
            named = [name for form in forms for name in _fields(form)]
        return tuple(dict.fromkeys([*named, *filter(None, [config.label_column])]))

    def texts(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place
    ) -> tuple[list[str], ...]:
        """(prompts, completions); a chat's prompt is all but its last message, in one text."""
        prompts, completions = [], []
        for row in range(len(next(iter(table.values())))):
            if config.messages_column is not None:
                prompt, completion = _chat(table[config.messages_column][row], place, row)
            else:
                prompt, completion = _written(config, table, place, row)
            prompts.append(prompt)
            completions.append(completion)
        return prompts, completions

    def targets(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place, split: str
    ) -> Targets:
        """None before there are tokens; strata where a column names them."""
        import numpy as np

        from ffalora_cli.tasks.labels import class_indices

        rows, strata = len(next(iter(table.values()))), None
        if config.label_column is not None:
            strata = class_indices(config, table[config.label_column], place, split)
        return Targets(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64), strata=strata)

    def strata_names(self, config: TaskConfig) -> tuple[str, ...]:
        """The classes, which ``label_column`` is of."""
        return config.classes

    def encode(
        self, config: TaskConfig, texts: Sequence[list[str]], tokenizer: Any, max_length: int
    ) -> Mapping[str, Any]:
        """Tokens; each answer's are read from the token before them."""
        prompts, completions = texts
        beginnings = self.prompts(config, prompts, tokenizer)
        # Not verbose: what is too long for the model is cut, or left out and counted, just below.
        answers = tokenizer(list(completions), add_special_tokens=False, verbose=False)["input_ids"]
        ids, positions, values = [], [], []
        for beginning, tokens in zip(beginnings, answers, strict=True):
            answer = [*tokens, tokenizer.eos_token_id]
            prompt = _cut(beginning, max_length - len(answer), tokenizer.bos_token_id)
            if config.long_rows == "leave_out" and len(prompt) < len(beginning):
                prompt = []
            kept = answer if prompt else []
            ids.append([*prompt, *answer])
            positions.append(range(len(prompt) - 1, len(prompt) - 1 + len(kept)))
            values.append(kept)
        return {"input_ids": ids, "positions": positions, "values": values}

    def prompts(self, config: TaskConfig, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        """Tokens of each prompt, one at least: an answer's first is read from its last."""
        if config.messages_column is not None:
            found = [_by_template(_messages(text), tokenizer) for text in texts]
        else:
            found = tokenizer(list(texts), verbose=False)["input_ids"]
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        nothing = [eos if bos is None else bos]
        return [(ids[:-1] if ids[-1:] == [eos] != nothing else ids) or nothing for ids in found]

    def score(self, config: TaskConfig, name: str, scored: Scored) -> float:
        """Of all answers' tokens alike, whatever the loss makes of a row's."""
        import numpy as np

        if name == "token_accuracy":
            return float(np.mean(scored.answers == scored.targets.values))
        nll = float(scored.losses.mean())
        return nll if name == "nll" else math.exp(min(nll, 700.0))  # beyond is no float

    def head(self, model: nn.Module) -> dict[str, nn.Linear]:
        """None: the vocabulary's layer is as frozen as the rest."""
        return {}

    def check(self, config: TaskConfig) -> None:
        """Prompt and completion, or a chat, of plain columns; classes where rows have a column."""
        chat = config.messages_column is not None
        if {chat} != {config.completion is None, config.prompt is None}:
            raise ConfigError(
                "task.kind=causal_lm reads task.prompt and task.completion, or else "
                "task.messages_column; give one of the two"
            )
        for form in filter(None, [config.prompt, config.completion]):
            _fields(form)
        if not chat and not _fields(config.completion or ""):
            raise ConfigError(
                f"task.completion={brief(config.completion, 60)} names no column, so all rows have "
                "one answer; write columns as {name}"
            )
        require(
            "task.classes",
            list(config.classes),
            bool(config.classes) == (config.label_column is not None),
            "the values of task.label_column, or [] without one",
        )
        if config.generate is not None:
            generated_answers.check(config.generate)
        super().check(config)


def _fields(form: str) -> list[str]:
    """Columns that a format string names.

    Raises:
        ConfigError: it is no format string, or wants more of a column than its text.
    """
    try:
        parts = list(Formatter().parse(form))
    except ValueError as error:
        raise ConfigError(
            f"task.prompt or task.completion {brief(form, 60)}: {error}; write columns as "
            "{name}, and braces of the text as {{ and }}"
        ) from error
    names = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    for name, spec, conversion in names:
        if not name or spec or conversion or set(name) & set(".[]"):
            raise ConfigError(
                f"task.prompt or task.completion {brief(form, 60)}: {{{name}}} is no column; write "
                "columns as {name}"
            )
    return [name for name, _, _ in names]


def _written(
    config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place, row: int
) -> tuple[str, str]:
    """Prompt and completion of a row."""
    cells = {name: _text(values[row], name, place, row) for name, values in table.items()}
    assert config.prompt is not None and config.completion is not None
    for key, form in {"prompt": config.prompt, "completion": config.completion}.items():
        names = _fields(form)
        if names and not any(cells[name].strip() for name in names):
            raise ConfigError(
                f"{place(row)}: {' and '.join(names)} empty, and task.{key} is made of it; fill it "
                "in, or remove such rows"
            )
    lines = [line for line in config.prompt.split("\n") if not _is_idle(line, cells)]
    return "\n".join(lines).format_map(cells), config.completion.format_map(cells)


def _is_idle(line: str, cells: Mapping[str, str]) -> bool:
    """Whether a line of a format string has columns, and all are empty in this row."""
    names = _fields(line)
    return bool(names) and not any(cells[name].strip() for name in names)


def _text(value: Any, name: str, place: Place, row: int) -> str:
    """A cell as a format string has it; null and NaN are nothing, lists and the like refused."""
    if isinstance(value, bytes | list | Mapping):
        raise ConfigError(
            f"{place(row)}: {name} is {type(value).__name__}, not text; give texts or numbers"
        )
    return "" if value is None or value != value else str(value)


def _chat(messages: Any, place: Place, row: int) -> tuple[str, str]:
    """All messages but the last in one text, and what the last one says."""
    fine = isinstance(messages, list) and len(messages) >= 2
    fine = fine and all(
        isinstance(m, Mapping) and set(map(type, _said(m))) == {str} for m in messages
    )
    if not fine or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise ConfigError(
            f"{place(row)}: the chat does not end with something the assistant says; give a list "
            "of {role, content}, both texts, the last of role assistant"
        )
    return TURN.join(map(SAYS.join, map(_said, messages[:-1]))), messages[-1]["content"]


def _messages(text: str) -> list[dict[str, str]]:
    """The messages of ``_chat``'s text."""
    turns = (turn.split(SAYS) for turn in text.split(TURN))
    return [{"role": role, "content": content} for role, content in turns]


def _said(message: Mapping[str, Any]) -> tuple[Any, Any]:
    """Who, and what."""
    return message.get("role"), message.get("content")


def _by_template(messages: list[dict[str, str]], tokenizer: Any) -> list[int]:
    """Tokens of a chat up to where its last answer begins.

    Raises:
        ConfigError: the template wants other roles, or another order of them.
    """
    from jinja2 import TemplateError

    try:
        tokens: list[int] = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"task.messages_column: the tokenizer's chat template refuses {brief(roles, 60)} "
            f"before the answer ({brief(str(error), 80)}), in the chat that begins "
            f"{brief(messages[0]['content'], 40)}; change the rows, or use another model"
        ) from error
    return tokens


def _cut(prompt: list[int], room: int, bos: int | None) -> list[int]:
    """The last ``room`` tokens of a prompt, its first one kept where that begins every text."""
    if len(prompt) <= room:
        return prompt
    begins = prompt[:1] if bos is not None and prompt[0] == bos and room > 1 else []
    return [*begins, *prompt[len(prompt) - room + len(begins) :]] if room > 0 else []


TASK = CausalLM()
