"""Hydra as a library: overrides in, plain dictionaries out, errors as one readable line.

Only composition is used. Hydra starts nothing, writes no folder and sets up no logging, and a
config can neither import code (``_target_``) nor read the environment beyond a few names.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from omegaconf.resolvers import oc

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.catalogue import groups
from ffalora_cli.compose.origins import chain, who_set
from ffalora_cli.compose.overrides import Setting
from ffalora_cli.config.build import check_value, nearest_key
from ffalora_cli.config.errors import ConfigError, brief, choose, one_line

_OF_HYDRA = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # of its instantiate
ENVIRONMENT = ("FFALORA_DATA", "HOME", "TMPDIR", "USER")  # what ${oc.env:NAME} may read

_ALONE = threading.RLock()  # what Hydra and OmegaConf keep is global, threads or not
_NAME = "task.name"
_FOLDER = "task.folder"
ORIGIN = {
    _FOLDER: None,
    "task.package": None,
    "task.hub_path": None,
    "task.hub_name": None,
    "task.license": "",
}
"""Of a task; cleared where it is renamed by keys, because it is other data."""
_BY_NAME = "tracking"  # the group whose options differ in their name alone


def compose_job(job: Sequence[Setting]) -> dict[str, Any]:
    """Compose one job.

    Args:
        job: settings of one job, as ``overrides.expand`` makes them.

    Returns:
        The configuration: plain and fully resolved.

    Raises:
        ConfigError: anything wrong with the composition, in one line.
    """
    with _guarded_environment():
        plain = _resolve(_composed(job))
    if plain["task"].get("folder") is not None and _FOLDER not in {one.key for one in job}:
        _find_folder(plain["task"], choices_of(job))
    return plain


def compose_unresolved(job: Sequence[Setting]) -> dict[str, Any]:
    """The same with its ``${...}`` references as they are written."""
    with _guarded_environment():
        return OmegaConf.to_container(_composed(job), resolve=False)  # type: ignore[return-value]


def _composed(job: Sequence[Setting]) -> DictConfig:
    chosen, settings = _chosen(job), [setting for setting in job if not setting.chooses]
    keys = tuple(setting.key for setting in settings)
    choices = _by_hydra(chosen)[1]
    config = _set(_own(chosen, keys, settings), settings)
    _forget_origin(config, choices, keys)
    return config


def _find_folder(task: dict[str, Any], choices: Mapping[str, str | None]) -> None:
    """Turn, in place, the folder of rows that a file names into one from the working directory.

    A file says it from where the file lies, so that both can move, be cloned and be read from
    anywhere; what is typed is from where it is typed, as all paths are.
    """
    line = who_set(_FOLDER, choices)
    if line is not None:
        place = os.path.join(os.path.dirname(line.file), os.path.expanduser(task["folder"]))
        task["folder"] = os.path.normpath(place)


def _chosen(job: Sequence[Setting]) -> tuple[str, ...]:
    """The options of groups, as Hydra reads them; null: none of it."""
    chosen = (one for one in job if one.chooses and one.value != "null")
    return tuple(f"{one.key}={_quoted(one.value)}" for one in chosen)


def _own(chosen: tuple[str, ...], keys: tuple[str, ...], settings: Sequence[Setting]) -> DictConfig:
    """A copy of a composition to set values in; jobs that set the same keys take the same one.

    Each sets all of them anew. Sections are merged and would keep what another job set, and a task
    that one job renamed has lost its origin.
    """
    sections = any(isinstance(setting.value, dict | list) for setting in settings)
    if sections or _NAME in keys:
        return copy.deepcopy(_by_hydra(chosen)[0])
    return _shared(chosen, keys, catalogue.own_folders())


@lru_cache(2)
def _shared(chosen: tuple[str, ...], keys: tuple[str, ...], own: tuple[Path, ...]) -> DictConfig:
    return copy.deepcopy(_compose(chosen, own)[0])


def change(plain: Mapping[str, Any], job: Sequence[Setting]) -> dict[str, Any]:
    """A resolved configuration with some keys set; of the groups, only a tracker can be chosen.

    Args:
        plain: resolved, as a run folder has it.
        job: what to set.

    Raises:
        ConfigError: anything wrong with a setting, in one line.
    """
    settings = []
    for one in job:
        key = f"{one.key}.name" if one.key == _BY_NAME else one.key
        settings.append(replace(one, key=key))
        if settings[-1].chooses:
            raise ConfigError(
                f"{key}: a recorded run has keys, no groups; set {key}.name=... or another key"
            )
    with _guarded_environment():
        try:
            base = OmegaConf.create(dict(plain))
        except OmegaConfBaseException as error:  # a reference that was never resolved
            raise ConfigError(f"{error.full_key}: {_reason(error)}") from error
        _refuse_targets(OmegaConf.to_container(base, resolve=False), "")
        config = _set(copy.deepcopy(base), settings)
        if OmegaConf.select(config, _NAME) != OmegaConf.select(base, _NAME):
            forget_below(config, [{_NAME}, {setting.key for setting in settings}])
        return _resolve(config)


def choices_of(job: Sequence[Setting]) -> dict[str, str | None]:
    """Group to chosen option, in the order they are merged, as settings and experiments say."""
    return _by_hydra(_chosen(job))[1]


def _by_hydra(chosen: tuple[str, ...]) -> tuple[DictConfig, dict[str, str | None]]:
    return _compose(chosen, catalogue.own_folders())


@cache  # a sweep over seeds composes its groups once; 0.1 s each
def _compose(
    chosen: tuple[str, ...], own: tuple[Path, ...]
) -> tuple[DictConfig, dict[str, str | None]]:
    """Hydra's part: the defaults list with these group choices; not to be changed in place.

    Args:
        chosen: options of groups, as Hydra reads them.
        own: folders of options beside ffalora's.

    Returns:
        What they compose, and group to chosen option in the order of merging.
    """
    try:
        with _ALONE, initialize_config_module(catalogue.PACKAGE, version_base="1.3"):
            places = ",".join(_quoted(f"file://{folder}") for folder in own)
            overrides = [*chosen, f"hydra.searchpath=[{places}]"]
            found = compose("config", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_reason(error)) from error
    choices = found.hydra.runtime.choices
    with open_dict(found):
        del found["hydra"]
    _refuse_targets(OmegaConf.to_container(found, resolve=False), "")
    return found, {str(name): choices[name] for name in choices if name in groups()}


def _quoted(text: str) -> str:
    """A text as Hydra's grammar has it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _set(config: DictConfig, settings: Sequence[Setting]) -> DictConfig:
    """Values set as Hydra sets ``++key=value``; keys were checked against the schema before."""
    for setting in settings:
        key, value = setting.key, setting.value
        check_value(key, value)
        _refuse_targets(value, key)
        try:
            OmegaConf.update(config, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, RecursionError) as error:
            raise ConfigError(f"{key}: {_reason(error)}") from error
    return config


def _resolve(composed: DictConfig) -> dict[str, Any]:
    """Plain values, every interpolation followed, nothing missing, no code named."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ConfigError(f"{key} has no value yet; set it, as in {key}=VALUE") from error
    except InterpolationKeyError as error:
        raise _dangling(error, composed) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_reason(error)}") from error
    _refuse_targets(plain, "")
    return plain  # type: ignore[return-value]


def _forget_origin(
    config: DictConfig, choices: Mapping[str, str | None], typed: Collection[str]
) -> None:
    """Unset, in place, the origin of a task whose name a later file or the command line changed.

    Args:
        config: composed, with the typed keys.
        choices: group to chosen option.
        typed: keys of the command line.
    """
    if OmegaConf.select(config, _NAME) != choices.get("task"):  # an option has its file's name
        forget_below(config, [*chain(choices), typed])


def forget_below(config: DictConfig, layers: Sequence[Collection[str]]) -> None:
    """The same, from the keys that are set by what is merged, in the order of merging."""
    naming = [number for number, layer in enumerate(layers) if _NAME in layer]
    if len(naming) < 2:
        return
    for key, nothing in ORIGIN.items():
        if not any(key in layer for layer in layers[naming[-1] :]):
            OmegaConf.update(config, key, nothing)


@contextmanager
def _guarded_environment() -> Iterator[None]:
    """``${oc.env:...}`` limited to the allowed names, however the reference is written."""
    with _ALONE:
        OmegaConf.register_new_resolver("oc.env", _allowed_env, replace=True)
        try:
            yield
        finally:
            OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _allowed_env(name: str, *default: str) -> str | None:
    """``${oc.env:NAME}`` for the few harmless names: configs end up in records and trackers."""
    if name not in ENVIRONMENT:
        raise ConfigError(
            f"${{oc.env:{name}}} is not read, it would end up in the records; "
            f"allowed are {', '.join(ENVIRONMENT)}"
        )
    value = os.environ.get(name, default[0] if default else None)
    if value is None:
        raise ConfigError(f"${{oc.env:{name}}}: {name} is not set in the environment; export it")
    return value


def _refuse_targets(node: Any, path: str) -> None:
    """Refuse ``_target_`` anywhere: names are looked up in the registry, never imported."""
    if not isinstance(node, Mapping | list):
        return
    for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
        key = f"{path}.{name}" if path else str(name)
        if name in _OF_HYDRA:
            raise ConfigError(f"{brief(key, 60)[1:-1]}: configs never import code; remove {name}")
        _refuse_targets(child, key)


def _dangling(error: InterpolationKeyError, composed: DictConfig) -> ConfigError:
    """An interpolation that points nowhere: which key needs it, and what the value may be."""
    wanted = str(error.msg or error).split("'")
    missing = wanted[1] if len(wanted) > 1 else "?"
    section, _, pattern = missing.rpartition(".")
    if section == "model.max_grad_norm":  # looked up by adapter.targets
        known = list(composed.model.targets)
        if pattern not in known:
            return choose("adapter.targets", pattern, known)
        return ConfigError(
            f"privacy.max_grad_norm: model.max_grad_norm.{pattern} is not there; set "
            "privacy.max_grad_norm, or that"
        )
    hint = nearest_key(missing)
    advice = f"; did you mean {hint!r}?" if hint and hint != missing else "; set it directly"
    return ConfigError(
        f"{error.full_key} refers to {brief(missing, 60)}, which is not there{advice}"
    )


def _reason(error: BaseException) -> str:
    """The first line of what Hydra or OmegaConf say; an error of ours that they wrapped, alone."""
    if isinstance(error, GrammarParseError):
        return "the ${...} reference cannot be read; write it as ${section.key}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    ours = first.split("ConfigError raised while resolving interpolation: ")[-1]
    return one_line(ours)[:140]
