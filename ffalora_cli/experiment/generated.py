"""Answers that the global model writes to some evaluation rows now and then, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import GenerateConfig, TaskConfig
from ffalora_cli.metric_keys import evaluated, interval
from ffalora_cli.tasks.generated_answers import COMPARISONS, SHARES, UNFINISHED, wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ffalora_cli.data.encode import Encoded
    from ffalora_cli.engine.generate import Ending, Told, Write
    from ffalora_cli.engine.ranks import Ranks
    from ffalora_cli.models.network import Network
    from ffalora_cli.stopping import Poll
    from ffalora_cli.types import Ints, Tensors


@dataclass(frozen=True)
class Asked:
    """Rows that are answered, the same ones in every run of a task.

    Attributes:
        config: how often, and how they are scored.
        prompts: tokens of each.
        references: text of each one's own answer.
        ending: of a written answer.
    """

    config: GenerateConfig
    prompts: list[Ints]
    references: list[str]
    ending: Ending

    @staticmethod
    def of(
        task: TaskConfig,
        evals: Mapping[str, Encoded],
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> Asked | None:
        """Of a run's first evaluation split; None where nothing is generated.

        Args:
            task: of the run.
            evals: its evaluation splits.
            tokenizer: that encoded them.
            model: its modules; no value of them is read.

        Raises:
            ConfigError: a prompt and the longest answer do not fit the model.
        """
        from ffalora_cli.data.dataset import some_rows
        from ffalora_cli.engine.generate import Ending, prompts

        config = task.generate
        if config is None:
            return None
        split, examples = next(iter(evals.items()))
        examples = some_rows(task, split, examples, config.rows)
        rows, targets = np.arange(len(examples)), examples.targets
        ending = Ending.of(tokenizer, model, config.max_new_tokens, config.stop)
        assert targets.offsets is not None
        answers = np.split(targets.values, targets.offsets[1:-1])
        references = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        asked = Asked(config, prompts(examples, rows), references, ending)
        settings: Any = model.config.get_text_config()
        asked.check_room(getattr(settings, "max_position_embeddings", None))
        return asked

    def check_room(self, context: int | None) -> None:
        """Refuse answers that could run beyond what the model reads.

        Args:
            context: tokens; None: as many as one likes.
        """
        longest = max(map(len, self.prompts))
        if context is not None and longest + self.config.max_new_tokens > context:
            room = context - longest
            remedy = f"set {room} or less" if room > 0 else "make task.max_length smaller"
            raise ConfigError(
                f"task.generate.max_new_tokens={self.config.max_new_tokens} after the longest "
                f"prompt, {longest} tokens, is beyond the {context} tokens that the model reads; "
                f"{remedy}"
            )

    def due(self, round: int, last: bool) -> bool:
        """Whether answers are written after a round; 0 is before training."""
        return self.config.initial if round == 0 else last or round % self.config.every == 0

    def writer(self, network: Network, max_tokens: int, ranks: Ranks) -> Write:
        """What writes the answers, given the tensors."""
        from ffalora_cli.engine.generate import generate

        return partial(generate, network, self.prompts, self.ending, max_tokens, ranks=ranks)

    def scored(
        self, write: Write, values: Tensors, poll: Poll, told: Told
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Metrics of the answers under common tensors, and a line of each."""
        answers = write(values, poll, told)
        lines: list[dict[str, Any]] = []
        for prompt, reference, ids in zip(self.prompts, self.references, answers, strict=True):
            line: dict[str, Any] = {
                "prompt": self.ending.tokenizer.decode(prompt),
                "answer": self.ending.text(ids),
                "reference": reference,
                "finished": self.ending.reached(ids),
            }
            for name in self.config.metrics:
                found = COMPARISONS[name](line["answer"], reference, self.config.extract)
                line[name] = {"extracted": found.extracted, "score": found.score}
            lines.append(line)
        metrics = {evaluated(UNFINISHED): float(np.mean([not line["finished"] for line in lines]))}
        for name in self.config.metrics:
            key, mean = evaluated(name), float(np.mean([line[name]["score"] for line in lines]))
            metrics[key] = mean
            if name in SHARES:
                metrics |= zip(interval(key), wilson(mean, len(lines)), strict=True)
        return metrics, lines
