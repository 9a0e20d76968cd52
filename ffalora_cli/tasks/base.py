"""What a kind of task decides: the model's class and head, targets, losses, scores.

A task is declared constants and pure functions. It knows no client, round or adapter. Declarations
are readable without torch and numpy, which are imported where arrays are made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ffalora_cli.config.errors import ConfigError, choose, require
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks.targets import Scored, Targets

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Place = Callable[[int], str]
"""Where a row is, for people."""


@dataclass(frozen=True)
class Metric:
    """A score of a whole split.

    Attributes:
        unit: ``percent`` for shares, which people read times a hundred; else ``number``.
        higher_is_better: its direction.
        chance: what the best constant answer scores on these targets; None where nobody can say.
        hub: its name among the Hugging Face hub's metrics.
    """

    unit: Literal["percent", "number"]
    higher_is_better: bool = True
    chance: Callable[[Targets], float] | None = None
    hub: str = ""


OF_KINDS = frozenset(
    {
        "prompt",
        "completion",
        "messages_column",
        "template_version",
        "loss_reduction",
        "long_rows",
        "generate",
        "image_column",
        "image_size",
        "target_range",
    }
)
"""Fields of ``TaskConfig`` that only some kinds read; ``Task.keys`` says which."""

LOSS = Metric("number", higher_is_better=False)
"""The mean of the rows' losses, which every evaluation records as ``loss``."""


class Task(ABC):
    """One kind of task.

    Attributes:
        auto_class: class of transformers that loads the model.
        pipeline: what the Hugging Face hub calls such tasks.
        modality: what the model reads, and so which processor prepares it.
        keys: fields of ``TaskConfig`` that this kind reads and others do not.
        texts_a_row: how many columns ``text_columns`` names, at least and at most.
        reads_lists: whether a cell of ``text_columns`` may be a list (``texts`` checks it).
        reads: what outputs a loss is made of: one of each example (what its pooled head gives), one
            of each target's token, or of each target's token the scores of the vocabulary, which
            are too many to be kept.
        metrics: what ``task.metrics`` may name.
        generated: what is scored of answers that a model writes, where it can.
        client_metric: what a client's model is scored by.
    """

    auto_class: ClassVar[str]
    pipeline: ClassVar[str]
    modality: ClassVar[Literal["text", "image"]] = "text"
    keys: ClassVar[tuple[str, ...]] = ()
    texts_a_row: ClassVar[tuple[int, int]] = (1, 2)
    reads_lists: ClassVar[bool] = False
    reads: ClassVar[Literal["example", "target", "vocabulary"]] = "example"
    metrics: ClassVar[Mapping[str, Metric]]
    generated: ClassVar[Mapping[str, Metric]] = {}
    client_metric: ClassVar[str]

    @property
    def headed(self) -> bool:
        """Whether a head is learnt or drawn; a language model's vocabulary is its base."""
        return self.reads != "vocabulary"

    @property
    def large_base(self) -> bool:
        """Whether ``engine.precision=auto`` is bf16 where a machine is fast at it."""
        return self.reads == "vocabulary" or self.modality == "image"

    @abstractmethod
    def outputs(self, config: TaskConfig) -> int:
        """Width of the model's last layer, ``num_labels`` of transformers; 0: its own."""

    @abstractmethod
    def targets(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place, split: str
    ) -> Targets:
        """Targets of a split's rows.

        Args:
            config: of the task.
            table: values of every column of ``columns``; none of ``label_column`` is missing.
            place: where a row is, for people.
            split: its name, for people.

        Returns:
            Where ``encode`` makes the targets: their strata at most.

        Raises:
            ConfigError: a value that cannot be one.
        """

    @abstractmethod
    def elementwise(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Loss of every target ``[targets]``, of its own outputs ``[targets, width]``."""

    @abstractmethod
    def answers(self, outputs: Tensor) -> Tensor:
        """What is scored of every target's outputs ``[targets, width]``: ``[targets]``."""

    @abstractmethod
    def score(self, config: TaskConfig, name: str, scored: Scored) -> float:
        """One of ``metrics``, of a split."""

    def strata_names(self, config: TaskConfig) -> tuple[str, ...]:
        """Names of what label skew and stratified hold-outs cut by; empty where nothing is."""
        return ()

    def strata(self, targets: Targets) -> np.ndarray | None:
        """Stratum of each row, int64 [rows]; None where nothing is."""
        return targets.strata

    def uninformed_loss(self, config: TaskConfig) -> float:
        """Loss of a model that says nothing, where it is known before training."""
        return 0.0

    def settings(self, config: TaskConfig) -> dict[str, Any]:
        """What a finished model's ``config.json`` says of the task."""
        return {"problem_type": None}

    def chance(self, targets: Targets) -> dict[str, float]:
        """What the best constant answer scores, of every metric that can say it."""
        known = {name: m.chance for name, m in self.metrics.items() if m.chance is not None}
        return {name: chance(targets) for name, chance in known.items()}

    def columns(self, config: TaskConfig) -> tuple[str, ...]:
        """Columns of a split that inputs and targets are made of."""
        return (*config.text_columns, *filter(None, [config.label_column]))

    def texts(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place
    ) -> tuple[list[str], ...]:
        """Texts that ``encode`` reads and rows are told apart by, each ``[rows]``.

        Args:
            config: of the task.
            table: values of every column of ``columns``; what is missing in a text column is "".
            place: where a row is, for people.

        Raises:
            ConfigError: a row without what is needed.
        """
        return tuple(list(table[name]) for name in config.text_columns)

    def encode(
        self, config: TaskConfig, texts: Sequence[list[str]], tokenizer: Any, max_length: int
    ) -> Mapping[str, Any]:
        """Tokens of some rows, special ones added, pairs as pairs.

        Args:
            config: of the task.
            texts: as ``texts`` gives them, each ``[rows]``.
            tokenizer: of the model.
            max_length: in tokens; longer rows are truncated.

        Returns:
            ``input_ids`` and, where the model takes them, ``token_type_ids``, a list a row. Where
            targets are tokens' ``positions``, the token whose output each target of a row reads,
            of as many targets as the length leaves (a row with none is left out); ``values``
            beside them where the table has none.
        """
        tokens: Mapping[str, Any] = tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
        )
        return tokens

    def head(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Layers that ``head.mode`` freezes or trains, by path: the linear ones outside the base
        model (``classifier``, ``classifier.out_proj``, …).
        """
        from torch import nn

        prefix = f"{model.base_model_prefix}."
        return {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(prefix)
        }

    def check(self, config: TaskConfig) -> None:
        """Refuse a configuration that this kind cannot be.

        Raises:
            ConfigError: the first rule that does not hold.
        """
        for item in fields(config):
            given = item.default is not MISSING and getattr(config, item.name) != item.default
            if item.name in OF_KINDS and item.name not in self.keys and given:
                raise ConfigError(f"task.{item.name} is of another task.kind; remove it")
        least, most = self.texts_a_row
        count = f"{least}" if least == most else f"{least} or {most}"
        columns = list(config.text_columns)
        require("task.text_columns", columns, least <= len(columns) <= most, count)
        for metric in config.metrics:
            if metric not in self.metrics:
                raise choose("task.metrics", metric, list(self.metrics))
        first = next(iter(self.metrics))
        require("task.metrics", list(config.metrics), len(config.metrics) >= 1, f"at least {first}")


class ClassScores(Task):
    """Outputs are scores of classes (of words, for who writes): the best one is the answer."""

    def elementwise(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, values, reduction="none")

    def answers(self, outputs: Tensor) -> Tensor:
        """The class with the largest output."""
        return outputs.argmax(-1)


def check_strata(task: Task, config: TaskConfig, partition: str) -> None:
    """Refuse label skew where a task has no strata.

    Raises:
        ConfigError: names the partitions that need none.
    """
    if partition in ("dirichlet", "label_mix", "shards") and not task.strata_names(config):
        named = (
            "" if config.label_column else ", or name them in task.label_column and task.classes"
        )
        raise ConfigError(
            f"partition.name={partition} deals rows by label, and task.kind={config.kind} has no "
            f"labels to deal by; use partition=iid or quantity{named}"
        )
