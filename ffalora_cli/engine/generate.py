"""Answers that a causal language model writes: greedy, many rows at once, with a cache.

Every step is one forward pass of the newest tokens; keys and values of the earlier ones are kept.
The adapters stay in place: one product more for each of a site's two factors is lost in the noise
of a step's time, and merged weights would take memory of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ffalora_cli.engine.microbatch import cut
from ffalora_cli.engine.ranks import ALONE, Ranks
from ffalora_cli.stopping import Poll, never

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples, Ints, Tensors

CACHED = 8  # tokens in the cache for one of a micro-batch: a layer caches at most 2 values of the
# hidden width of a token, and keeps 24 of it for a backward pass (``engine.memory.KEPT``)

Write = Callable[..., list[list[int]]]
"""``generate`` of given prompts, here or on all ranks: tensors, and who is polled and told."""
Told = Callable[[float, int], None]
"""Is told how many of how many rows are done; a row half written is half a row."""


def silent(done: float, rows: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Ending:
    """What ends an answer and is no part of it.

    Attributes:
        most: tokens that an answer has at most.
        tokens: each of them ends an answer.
        stop: texts, each of which ends one.
        tokenizer: of the model.
    """

    most: int
    tokens: frozenset[int]
    stop: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase

    @staticmethod
    def of(
        tokenizer: PreTrainedTokenizerBase, model: Any, most: int, stop: Sequence[str]
    ) -> Ending:
        """As tokenizer and model have it; a special token among ``stop`` is one of ``tokens``."""
        settings = getattr(model, "generation_config", None)
        said = getattr(settings, "eos_token_id", None)
        tokens = {tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])}
        special = {
            word: tokenizer.convert_tokens_to_ids(word) for word in tokenizer.all_special_tokens
        }
        tokens |= {special[word] for word in stop if word in special}
        words = tuple(word for word in stop if word not in special)
        return Ending(most, frozenset(tokens - {None}), words, tokenizer)

    def reached(self, answer: Sequence[int]) -> bool:
        """Whether the last token ends the answer. A stop has no more tokens than bytes."""
        if answer[-1] in self.tokens:
            return True
        reach = max((len(word.encode()) for word in self.stop), default=0)
        if not reach:
            return False
        said = self.tokenizer.decode(list(answer[-reach - 1 :]))
        return any(word in said for word in self.stop)

    def text(self, answer: Sequence[int]) -> str:
        """The answer without what ended it and without special tokens."""
        kept = answer[:-1] if answer and answer[-1] in self.tokens else answer
        said = str(self.tokenizer.decode(list(kept), skip_special_tokens=True))
        return said[: min((at for w in self.stop if (at := said.find(w)) >= 0), default=len(said))]


def prompts(examples: Examples, rows: Ints) -> list[Ints]:
    """The tokens of each row before its answer, int64 each."""
    targets = examples.targets
    assert targets.offsets is not None and targets.positions is not None
    ends = targets.positions[targets.offsets[rows]] + 1  # an answer is read from the token before
    lengths = np.asarray(examples.lengths, np.int64)[rows]
    starts = np.cumsum(lengths) - lengths
    ids = examples.packed(rows)[0].numpy()
    return [ids[start : start + end] for start, end in zip(starts, ends, strict=True)]


def generate(
    network: Network,
    beginnings: Sequence[Ints],
    ending: Ending,
    max_tokens: int,
    values: Tensors,
    poll: Poll = never,
    told: Told = silent,
    ranks: Ranks = ALONE,
) -> list[list[int]]:
    """The most probable next token of each prompt, again and again.

    Batches of prompts of nearly equal length are dealt out to the ranks, as in ``predict``.

    Args:
        network: of a task that reads the vocabulary.
        beginnings: tokens of each prompt, at least one.
        ending: of an answer.
        max_tokens: of a micro-batch in training; decides how many rows are written at once.
        values: plain-shaped tensors by name.
        poll: called before every step.
        told: how far this rank is.
        ranks: who share the rows.

    Returns:
        Token ids of each answer, with the token that ended it if one did.
    """
    lengths = np.array([len(ids) for ids in beginnings])
    values = {name: tensor.to(network.device) for name, tensor in values.items()}
    written = np.zeros((len(lengths), ending.most), np.int64)  # id + 1; 0: no token
    batches = ranks.turns(cut(lengths + ending.most, CACHED * max_tokens, len(lengths), False))
    done, own = 0, sum(map(len, batches))
    for rows in batches:
        batch = _Batch(network, values, [beginnings[row] for row in rows])
        answers: list[list[int]] = [[] for _ in rows]
        left = list(range(len(rows)))  # places in ``rows`` that are still being written
        for step in range(ending.most):
            poll()
            told(done + len(rows) - len(left) * (1 - step / ending.most), own)
            for place, token in zip(left, batch.next(), strict=True):
                answers[place].append(token)
            going = [i for i, place in enumerate(left) if not ending.reached(answers[place])]
            if not going:
                break
            if len(going) < len(left):
                batch.keep(going)
                left = [left[i] for i in going]
        for row, answer in zip(rows, answers, strict=True):
            written[row, : len(answer)] = np.array(answer) + 1
        done += len(rows)
    return [[int(token) - 1 for token in row if token] for row in ranks.added(written)]


class _Batch:
    """Rows being written together, padded on the left: the newest token of each is the last."""

    def __init__(self, network: Network, values: Tensors, beginnings: Sequence[Ints]) -> None:
        from transformers import DynamicCache

        self._network, self._values, self._cache = network, values, DynamicCache()
        width = max(map(len, beginnings))
        ids, seen = np.zeros((2, len(beginnings), width), np.int64)
        for row, beginning in enumerate(beginnings):
            ids[row, width - len(beginning) :] = beginning
            seen[row, width - len(beginning) :] = 1
        self._ids, self._seen = (torch.from_numpy(x).to(network.device) for x in (ids, seen))

    @torch.no_grad()
    def next(self) -> list[int]:
        """The next token of each row, which is read by the next call."""
        new = self._ids.shape[1]
        places = (self._seen.cumsum(1) - 1).clamp_min(0)[:, -new:]
        scores = self._network.next_scores(self._values, self._ids, self._seen, places, self._cache)
        self._ids = scores.argmax(-1, keepdim=True)
        self._seen = torch.cat([self._seen, torch.ones_like(self._ids)], 1)
        found: list[int] = self._ids.squeeze(1).tolist()
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        index = torch.tensor(rows, device=self._ids.device)
        self._cache.batch_select_indices(index)
        self._ids, self._seen = (x.index_select(0, index) for x in (self._ids, self._seen))
