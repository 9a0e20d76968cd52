"""Classifiers that read a text's last token, which transformers finds by the id of its padding.

Language models rarely have such an id, and their tokenizers often name another one: then the head
would read a row of padding, without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ffalora_cli.adapters.sites import FAMILIES
from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    from ffalora_cli.tasks.base import Task


def finds_last(model: Any, kind: Task) -> bool:
    """Whether the head may look for the last token: an encoder of ``FAMILIES`` reads the first."""
    one_row = kind.modality == "text" and kind.reads == "example"
    return one_row and model.config.model_type not in FAMILIES


def name_padding(model: Any) -> None:
    """Let every call of ``model``, and of its copies, know its padding.

    A model without such an id has what its texts begin with, as no text ends so; what a mask hides
    is filled with it.
    """
    config = model.config.get_text_config()
    if config.pad_token_id not in range(config.vocab_size):  # LLaMA's first one was -1
        known = [config.bos_token_id, config.eos_token_id, 0]
        config.pad_token_id = next(i for i in known if i in range(config.vocab_size))
    model.register_forward_pre_hook(_fill, with_kwargs=True)


def check_end(model: Any, tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer that ends its texts with what the head takes for padding.

    Raises:
        ConfigError: says which token that is.
    """
    padding = model.config.get_text_config().pad_token_id
    if tokenizer("a")["input_ids"][-1:] == [padding]:
        raise ConfigError(
            f"{source}: its texts end with {tokenizer.convert_ids_to_tokens(padding)!r}, which is "
            "its padding, too, so its head would read the token before; set another pad_token_id "
            "in config.json"
        )


def _fill(model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    if ids is None or mask is None:
        return args, kwargs
    padding = model.config.get_text_config().pad_token_id
    return args, kwargs | {"input_ids": ids.masked_fill(mask == 0, padding)}
