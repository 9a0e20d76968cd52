"""Loading a frozen pretrained backbone with a freshly drawn, seeded head."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ffalora_cli import keys
from ffalora_cli.config.errors import ConfigError, brief, one_line
from ffalora_cli.config.schema import HeadConfig, ModelConfig
from ffalora_cli.models.adapters import FAMILIES
from ffalora_cli.models.fingerprint import fingerprint_tensors
from ffalora_cli.models.source import TOKENIZER_FILES, WEIGHT_FILES, no_tokenizer, resolve_source

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier in eval mode, and where its weights came from."""

    model: PreTrainedModel
    fingerprint: str  # BLAKE2b of the loaded frozen weights, the head left out
    drawn: tuple[str, ...]  # head parameters that the checkpoint lacked and the head seed drew
    rest: str = ""  # BLAKE2b of what else decides its function: configuration, head as loaded


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The fast tokenizer that belongs to the model."""
    from transformers import AutoTokenizer

    path, revision = resolve_source(config.source), config.revision or "main"
    with _readable_errors(config), _quiet_transformers():
        local = _is_local(path, revision, TOKENIZER_FILES)
        # Left open, ``trust_remote_code`` asks on the terminal whether to run the folder's code.
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, local_files_only=local, trust_remote_code=False
        )
    # Without files transformers makes one up: special tokens alone, every word unknown or gone.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise no_tokenizer(config)
    return tokenizer


def load_skeleton(config: ModelConfig, num_labels: int) -> PreTrainedModel:
    """The model's modules as its configuration alone tells: on the meta device, without values.

    Raises:
        ConfigError: the configuration cannot be had, or is of a family that does not classify.
    """
    from transformers import AutoModelForSequenceClassification

    with _readable_errors(config), _quiet_transformers():
        settings = _settings(config, num_labels)
        with torch.device("meta"):
            try:
                return AutoModelForSequenceClassification.from_config(settings)
            except ValueError as error:
                raise ConfigError(
                    f"model.source={brief(config.source, 60)}: a {settings.model_type} model does "
                    f"not classify texts; supported families are {', '.join(FAMILIES)}"
                ) from error


def load_backbone(config: ModelConfig, head: HeadConfig, num_labels: int) -> Backbone:
    """Load ``AutoModelForSequenceClassification``, freeze it, and draw what the checkpoint lacks.

    Args:
        config: the model group.
        head: scale (standard deviation of new weights) and seed of the head.
        num_labels: classes of the task.

    Returns:
        The model in eval mode, every parameter frozen, fp32, on the CPU.

    Raises:
        ConfigError: the source cannot be found, read or reached.
    """
    from transformers import AutoModelForSequenceClassification

    path = resolve_source(config.source)
    revision = config.revision or "main"
    with _readable_errors(config), _quiet_transformers():
        if config.random_weights:
            settings = _settings(config, num_labels)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(keys.torch_seed(keys.derive(head.seed, "random_weights")))
                model = AutoModelForSequenceClassification.from_config(settings)
            missing: set[str] = {name for name, _ in head_linears_parameters(model)}
        else:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path,
                revision=revision,
                num_labels=num_labels,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                use_safetensors=True,  # a pickle is never opened
                local_files_only=_is_local(path, revision, WEIGHT_FILES),
            )
            missing = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    model.eval().requires_grad_(False)
    lost = sorted(name for name in missing if name.startswith(f"{model.base_model_prefix}."))
    lost = [name for name in lost if ".pooler." not in name]
    if lost:
        raise ConfigError(
            f"model.source={config.source!r}: the checkpoint lacks {len(lost)} backbone tensors "
            f"({lost[0]} …); is it a checkpoint of this architecture?"
        )
    drawn = _draw_missing(model, missing, head)
    head_names = {name for name, _ in head_linears_parameters(model)}
    frozen = {n: t for n, t in model.state_dict().items() if n not in head_names}
    return Backbone(model, fingerprint_tensors(frozen), drawn, _rest(model, head_names - {*drawn}))


def _rest(model: PreTrainedModel, loaded: Collection[str]) -> str:
    """Hash of the configuration and of the head's tensors that the checkpoint brought."""
    settings = model.config.to_dict()
    for name in ("_name_or_path", "_commit_hash", "transformers_version"):  # where, not what
        settings.pop(name, None)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name in loaded}
    text = json.dumps(settings, sort_keys=True, default=str) + fingerprint_tensors(tensors)
    return f"blake2b:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _settings(config: ModelConfig, num_labels: int) -> PretrainedConfig:
    """The model's configuration for so many classes."""
    from transformers import AutoConfig

    path, revision = resolve_source(config.source), config.revision or "main"
    return AutoConfig.from_pretrained(
        path,
        revision=revision,
        num_labels=num_labels,
        local_files_only=_is_local(path, revision),
        trust_remote_code=False,
    )


def _is_local(path: str, revision: str, files: Collection[str] = ()) -> bool:
    """Whether config, and one of ``files``, are on this machine; if not, one request to the hub.

    Asking first matters: transformers retries an unreachable hub for most of a minute.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if Path(path).is_dir():
        return True
    has_config = isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str)
    if has_config and (not files or _is_cached(path, revision, files)):
        return True
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        try:
            HfApi().model_info(path, revision=revision, timeout=5)
        except Exception as error:  # a dozen libraries' exceptions, all meaning "not to be had"
            raise OSError(type(error).__name__) from error
    return False


def _is_cached(path: str, revision: str, files: Collection[str]) -> bool:
    """Whether the hub's cache has one of these files of the model."""
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(path, name, revision=revision), str) for name in files
    )


def _is_folder(source: str) -> bool:
    return Path(resolve_source(source)).is_dir()


def head_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers outside the base model: what ``head.mode`` freezes or trains.

    Names are module paths in ``model`` (``classifier``, ``classifier.out_proj``, …).
    """
    prefix = model.base_model_prefix + "."
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(prefix)
    }


def head_linears_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the head's linear layers, by their name in the model."""
    for name, module in head_modules(model).items():
        for leaf, parameter in module.named_parameters():
            yield f"{name}.{leaf}", parameter


def _draw_missing(model: nn.Module, missing: set[str], head: HeadConfig) -> tuple[str, ...]:
    """Weights ~ N(0, head.scale^2), keyed by (head seed, name); biases zero; norms left alone."""
    drawn = []
    for name, parameter in model.named_parameters():
        if name not in missing:
            continue
        drawn.append(name)
        if parameter.dim() == 2:
            key = keys.derive(head.seed, "head", name)
            parameter.copy_(keys.normal(key, tuple(parameter.shape)) * head.scale)
        elif name.endswith("bias"):
            parameter.zero_()
    return tuple(drawn)


@contextlib.contextmanager
def _readable_errors(config: ModelConfig) -> Iterator[None]:
    """Re-word what transformers and the hub raise into one line with a remedy."""
    try:
        yield
    except Exception as error:  # a damaged folder can raise anything its libraries know
        if isinstance(error, ConfigError) or _is_ours(error):
            raise
        source = f"model.source={brief(config.source, 60)}"
        if _holds_pickles(config, error):
            raise ConfigError(
                f"{source}: its weights are pickles only, which are never opened; where you trust "
                "it, save it with safetensors (save_pretrained), then model.source=FOLDER"
            ) from error
        offline = os.environ.get("HF_HUB_OFFLINE") == "1" and not _is_folder(config.source)
        reason = one_line(str(error))[:90]
        where = (
            "not in the local cache (HF_HUB_OFFLINE=1)" if offline else f"not loadable ({reason})"
        )
        raise ConfigError(
            f"{source}: {where}; use model=minilm (no download) or model.source=FOLDER"
        ) from error


def _is_ours(error: Exception) -> bool:
    """Whether our own code raised it and not on purpose: a bug here is no damaged model."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    name = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return name.startswith("ffalora_cli.") and not isinstance(error, OSError)


def _holds_pickles(config: ModelConfig, error: Exception) -> bool:
    """Whether weights are there, or on the hub, but in ``pytorch_model.bin`` alone."""
    from huggingface_hub import try_to_load_from_cache

    names = ("pytorch_model.bin", "pytorch_model.bin.index.json")
    folder = Path(resolve_source(config.source))
    if folder.is_dir():
        return any((folder / n).exists() for n in names) and not any(folder.glob("*.safetensors"))
    if "cannot be loaded with `safetensors`" in str(error):  # transformers, of a repository
        return True
    revision = config.revision or "main"
    found = [try_to_load_from_cache(config.source, name, revision=revision) for name in names]
    return any(isinstance(file, str) for file in found) and not _is_cached(
        config.source, revision, WEIGHT_FILES
    )


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
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
