"""What reading a model with transformers has around it: quiet, and errors of one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, brief, one_line
from ffalora_cli.hub.model_files import INSTEAD
from ffalora_cli.hub.reasons import of_ours


@contextlib.contextmanager
def readable_errors(source: str, folder: str | None = None) -> Iterator[None]:
    """Re-word what transformers raises about a model's files into one line with a remedy.

    Args:
        source: ``model.source``, for the message.
        folder: that weights are read from, if any are.
    """
    try:
        yield
    except Exception as error:  # a damaged folder can raise anything its libraries know
        if of_ours(error):
            raise
        named = f"model.source={brief(source, 60)}"
        if folder is not None and _holds_pickles(Path(folder)):
            raise ConfigError(
                f"{named}: its weights are pickles only, which are never opened; where you trust "
                "it, save it with safetensors (save_pretrained), then model.source=FOLDER"
            ) from error
        reason = one_line(f"{type(error).__name__}: {error}").rstrip(". ")
        raise ConfigError(f"{named}: not loadable ({reason}); {INSTEAD}") from error


def _holds_pickles(folder: Path) -> bool:
    """Whether a folder's weights are in ``pytorch_model.bin`` alone."""
    names = ("pytorch_model.bin", "pytorch_model.bin.index.json")
    return any((folder / n).exists() for n in names) and not any(folder.glob("*.safetensors"))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the load report: a new head is expected here and said in the manifest."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
