"""Checks that a resumed run is the same run: what must agree, and what need not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.build import of_earlier
from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.config.schema import Config
from ffalora_cli.config.signature import digest, relevant
from ffalora_cli.experiment.inputs import code_of
from ffalora_cli.records.files import plain, read_json
from ffalora_cli.records.manifest import NUMERICS, environment, recorded_commits
from ffalora_cli.records.run_directory import MANIFEST

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "opacus", "dp-accounting")
"""Distributions another version of which may give other bits."""

_NAMED = 6  # changed fields spelled out in an error


def identity(parts: Parts, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a result depends on but the machine: JSON values, for the manifest.

    ``data`` is computed from training rows without noise and stays in the run folder.
    """
    here, loaded = environment(), parts.loaded
    data = {"train": parts.data.train.fingerprint, "tokens": loaded.tokens}
    data |= {name: rows.fingerprint for name, rows in parts.data.evals.items()}
    value: dict[str, Any] = plain(
        {
            "config": relevant(resolved),
            "data": data | {"clients": loaded.clients},  # private, all of it
            "weights": loaded.weights,
            "model": loaded.model,
            "tokenizer": loaded.tokenizer,
            "versions": {name: here["versions"][name] for name in LIBRARIES},
            "ffalora": here["ffalora"],
        }
    )
    if code := code_of(parts.config):  # of a person's own; most runs have none
        value["code"] = code
    return value


def run_signature(signature: str, forked_from: Mapping[str, Any] | None) -> str:
    """Identity of a run: of its config alone, or with the run and round it was forked from.

    The state it was forked from is a hash of records, and a signature leaves the machine.
    """
    if forked_from is None:
        return signature
    origin = {key: value for key, value in forked_from.items() if key != "state"}
    return digest([signature, plain(origin)])


def begun_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run that stopped on the way; None when it did not get that far."""
    return read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else None


def check_config(manifest: Mapping[str, Any], resolved: Mapping[str, Any], folder: Path) -> None:
    """Refuse another configuration, before anything is loaded; names every field."""
    then = _recorded(manifest, folder)
    _refuse({"config": then["config"]}, {"config": plain(relevant(resolved))}, folder)


def check_numerics(manifest: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that another arithmetic began; a finished one stays as it is."""
    then = manifest.get("numerics", 1)
    if then != NUMERICS:
        raise ConfigError(
            f"{folder}: begun by an ffalora that sums and draws noise otherwise (numerics {then}, "
            f"here {NUMERICS}), so the same run cannot go on; start a new one from its last round "
            f"with: ffalora resume {folder} --fork"
        )


def check_identity(manifest: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse other data, weights or versions, once they are known; names every one."""
    _refuse(_recorded(manifest, folder), now, folder)


def keep_choices(config: Config, manifest: Mapping[str, Any]) -> Config:
    """The config with what was left open and chosen when it began: commits, ``max_tokens``."""
    config = recorded_commits(config, manifest)
    if config.engine.max_tokens is not None:
        return config
    return replace(config, engine=replace(config.engine, max_tokens=manifest.get("max_tokens")))


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Fields that differ, as ``key: then -> now``; the section ``config`` goes without its name."""
    before, after = dict(_leaves(then, "")), dict(_leaves(now, ""))
    return [
        f"{key.removeprefix('config.')} {brief(before.get(key))} -> {brief(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _recorded(manifest: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    found = manifest.get("identity")
    if not isinstance(found, Mapping) or not isinstance(found.get("config"), Mapping):
        raise ConfigError(f"{folder / MANIFEST}: says too little to continue; add --again")
    return {**found, "config": of_earlier(found["config"])}


def _refuse(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    different = changes(then, now)
    if not different:
        return
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    raise ConfigError(
        f"{folder}: another run was begun here: {', '.join(different[:_NAMED])}{more}; "
        f"undo that, or start from its last round with: ffalora resume {folder} --fork"
    )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
