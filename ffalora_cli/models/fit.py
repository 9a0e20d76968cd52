"""Checks that tokenizer or image processor, model, task and adapter fit, before anything is loaded.

All of it is known from the configuration of the model (its modules without weights), from the
tokenizer and, at the end, from the tokens. What cannot work is refused; what is odd is noted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ffalora_cli.adapters.sites import DECODERS, FAMILIES, find_sites
from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.models.families import check
from ffalora_cli.models.families.padding import check_end, finds_last
from ffalora_cli.tasks import registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAID, _MOST = 0.05, 0.5  # shares of unknown tokens: said, refused
_CUT = 0.5  # share of rows that fill max_length: said


def check_fit(model: PreTrainedModel, processor: Any, config: Config) -> list[str]:
    """Refuse what could only crash or learn nothing.

    Args:
        model: its modules; no value of them is read (``backbone.load_skeleton``).
        processor: of the same source (``processor.load_processor``): one of images has looked at
            their size itself.
        config: of the run.

    Returns:
        Lines about what works and is odd.

    Raises:
        ConfigError: names the first misfit and what to set.
    """
    source = f"model.source={brief(config.model.source, 60)}"
    kind = registry.get(config.task.kind)
    writes = kind.reads == "vocabulary"
    notes = _check_family(model, source, writes) + _check_rank(model, config)
    if config.task.image_column is not None:
        return notes
    rows = model.get_input_embeddings().num_embeddings
    largest = max(processor.get_vocab().values(), default=0)
    if largest >= rows:
        raise ConfigError(
            f"{source}: its tokenizer has ids up to {largest}, its embedding {rows} rows; give it "
            "the tokenizer it was trained with, or resize the embedding and save it"
        )
    _check_length(model, config.task)
    if writes:
        _check_writer(processor, config, source)
    if finds_last(model, kind):
        check_end(model, processor, source)
    elif processor.pad_token_id is None:
        refusal = check.refusal(model, kind.reads)
        if why := why_padded(config, model.config.model_type, refusal):
            raise ConfigError(
                f"{source}: its tokenizer has no pad token, and {why}; set pad_token in "
                "tokenizer_config.json"
            )
    return notes


def check_tokens(
    ids: np.ndarray, lengths: np.ndarray, tokenizer: PreTrainedTokenizerBase, config: Config
) -> list[str]:
    """Look at the tokens of the training rows: does this tokenizer know these texts?

    Args:
        ids: int [tokens].
        lengths: int [rows].
        tokenizer: that made them.
        config: of the run.

    Returns:
        Lines about a high share of unknown tokens, or of rows that were cut.

    Raises:
        ConfigError: half of the tokens or more are unknown, or no row has any.
    """
    unknown, special = tokenizer.unk_token_id, set(tokenizer.all_special_ids)
    words = len(ids) - _count(ids, special - {unknown})
    share = _count(ids, {unknown} - {None}) / words if words else 1.0
    where = f"task={config.task.name}, model.source={brief(config.model.source, 60)}"
    if share >= _MOST:
        raise ConfigError(
            f"{where}: {share:.0%} of the training rows' tokens are unknown to the tokenizer, so "
            "there is little to learn; use a model whose tokenizer knows these texts"
        )
    found = []
    if share >= _SAID:
        found.append(f"{share:.0%} of the training rows' tokens are unknown to the tokenizer")
    full = float((lengths >= config.task.max_length).mean())
    if full >= _CUT:
        found.append(
            f"{full:.0%} of the training rows fill task.max_length={config.task.max_length}: what "
            "is beyond is cut"
        )
    return found


def _count(ids: np.ndarray, wanted: Iterable[int]) -> int:
    return sum(int(np.count_nonzero(ids == one)) for one in wanted)


def _check_family(model: PreTrainedModel, source: str, writes: bool) -> list[str]:
    """Decoders classify, too, but encoders do not write; an untested family may do either."""
    family = model.config.model_type
    known = f"supported families are {', '.join(DECODERS if writes else (*FAMILIES, *DECODERS))}"
    if model.config.is_encoder_decoder:
        raise ConfigError(f"{source}: a {family} model is an encoder with a decoder; {known}")
    if writes and family in FAMILIES:
        raise ConfigError(
            f"{source}: a {family} model reads both ways, so it knows the next word already; use a "
            f"language model, as model=smollm2 ({known})"
        )
    tested = family in DECODERS or (family in FAMILIES and not writes)
    return [] if tested else [f"a {family} model is not tested; {known}"]


def _check_writer(tokenizer: PreTrainedTokenizerBase, config: Config, source: str) -> None:
    """An answer ends with a token of its own; chats are written by the tokenizer's template."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"{source}: its tokenizer has no token that ends a text, and every answer ends with "
            "it; set eos_token in tokenizer_config.json"
        )
    if config.task.messages_column is not None and not tokenizer.chat_template:
        raise ConfigError(
            f"task.messages_column={config.task.messages_column}: the tokenizer of {source} has no "
            "chat template; use a model tuned on chats, or put its chat_template.jinja in a folder "
            "with the model"
        )


def _check_length(model: PreTrainedModel, task: TaskConfig) -> None:
    """Rows of a table of positions; RoBERTa's first ones, up to its padding's, belong to no token.

    Encoders without such a table (DeBERTa, ModernBERT) read any length. A decoder says how many
    tokens it was trained on, whatever tells it of their order.
    """
    trained = model.config.max_position_embeddings if model.config.model_type in DECODERS else None
    if trained is not None and task.max_length > trained:
        raise ConfigError(
            f"task.max_length={task.max_length}: the model's context is {trained} tokens; set "
            f"task.max_length={trained}"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(".position_embeddings"):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            most = module.num_embeddings - unused
            if task.max_length > most:
                more = f" ({module.num_embeddings} positions, {unused} unused)" if unused else ""
                raise ConfigError(
                    f"task.max_length={task.max_length} does not fit the model, which reads up to "
                    f"{most} tokens{more}; set task.max_length={most}"
                )


def why_padded(config: Config, family: str, refusal: str) -> str | None:
    """Why training pads in this run; None where rows lie end to end.

    Args:
        config: of the run.
        family: of the model.
        refusal: why this model can do nothing else (``Network.padding``); empty where it can.
    """
    if config.engine.name == "reference":
        return "engine=reference pads"
    if refusal:
        return f"a {family} model pads: {refusal}"
    if config.model.dropout is not None:
        return "model.dropout pads"
    return "adapter.dropout pads" if config.adapter.dropout else None


def _check_rank(model: nn.Module, config: Config) -> list[str]:
    """Sites there must be; rows of A can only be orthogonal where there is room for them."""
    rank = config.adapter.rank
    pattern = config.adapter.targets
    sites = find_sites(model, config.model.targets[pattern], config.adapter.layers, pattern)
    room = min(site.d_in for site in sites)
    if config.adapter.init == "orthogonal" and rank > room:
        raise ConfigError(
            f"adapter.rank={rank}: {rank} rows cannot be orthogonal in a layer of width {room}; "
            f"set adapter.rank={room} or less, or adapter.init=kaiming"
        )
    narrow = min(min(site.d_in, site.d_out) for site in sites)
    if rank > narrow:
        return [
            f"adapter.rank={rank} is above a layer's width of {narrow}: there it sends more and "
            f"learns no more than adapter.rank={narrow}"
        ]
    return []
