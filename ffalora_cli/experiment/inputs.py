"""Compares what a run was made from, by content of its files, with what is there now.

The signature says what was asked, the inputs say of what: a finished run is an answer only where
both are the same. ``data`` is computed from training rows, so it stays in the run folder; nothing
else here is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError, listed
from ffalora_cli.config.schema import Config
from ffalora_cli.config.splits import HOLDOUT, evaluated_splits
from ffalora_cli.content import content_hash, hash_memory
from ffalora_cli.records.files import read_json
from ffalora_cli.records.run_directory import MANIFEST, SUMMARY


@dataclass(frozen=True)
class Inputs:
    """Hashes of what was read; None where it is not on this machine.

    Attributes:
        data: of each split that is read, by name. Private: a function of training rows.
        weights: of the model's configuration and weights.
        tokenizer: of its files.
        commit: of the hub's repository that they are from.
        code: of the Python files of a method, form or kind of task that is not ffalora's own.
    """

    data: Mapping[str, str | None]
    weights: str | None
    tokenizer: str | None
    commit: str | None = None
    code: str | None = None


def inputs_of(config: Config) -> Inputs:
    """The inputs that a run of this configuration would read now; nothing is downloaded.

    Files seen before are not read again (``content``); others cost about a second a gigabyte.

    Raises:
        ConfigError: a folder or file that the configuration names is not there.
    """
    from ffalora_cli.data.sources.source import locate_here
    from ffalora_cli.models.source import model_files

    task, memory = config.task, hash_memory(config.paths.cache)
    splits = [name for name in ("train", *evaluated_splits(task)) if name != HOLDOUT]
    try:
        found = {name: locate_here(task, config.paths.data, name, memory) for name in splits}
        data = {name: source and source.fingerprint for name, source in found.items()}
        code, files = code_of(config), model_files(config.model)
        if files is None:
            return Inputs(data, None, None, code=code)
        hashes = [
            content_hash(files.folder, part, memory) if part else None
            for part in (files.weights, files.tokenizer)
        ]
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: cannot be read ({error.strerror}); make it readable"
        ) from None
    return Inputs(data, *hashes, files.commit, code)


def code_of(config: Config) -> str | None:
    """Hash of the Python files behind the names of a run that are not ffalora's own."""
    from ffalora_cli.adapters.registry import FORMS
    from ffalora_cli.methods.registry import METHODS
    from ffalora_cli.tasks.registry import KINDS

    named = ((METHODS, config.method.name), (FORMS, config.adapter.form), (KINDS, config.task.kind))
    files = sorted({file for folder, name in named for file in folder.code(name)})
    if not files:
        return None
    root = Path(os.path.commonpath(files)) if len(files) > 1 else files[0].parent
    return content_hash(root, files)


@dataclass(frozen=True)
class Loaded:
    """Hashes of what was loaded, whatever its files look like: the noise of a run is keyed by them.

    Attributes:
        tokens: of the training rows as the model reads them. Private, as is ``clients``.
        clients: of which client has which rows.
        weights: of the frozen weights.
        model: of the model's configuration and of the head that came with its weights.
        tokenizer: of its content.
    """

    tokens: str
    clients: str
    weights: str
    model: str
    tokenizer: str

    @property
    def digest(self) -> str:
        """One hash of all of them."""
        text = "\n".join(f"{name} {value}" for name, value in asdict(self).items())
        return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


@dataclass
class InputsCheck:
    """Compares finished runs with what is there now; what many of them share is looked at once."""

    _seen: dict[str, Inputs] = field(default_factory=dict)

    def check(self, folder: Path, config: Config, again: bool = True) -> str | None:
        """Refuse a finished run as the answer to a configuration whose inputs have changed.

        Args:
            folder: of the finished run.
            config: what is asked now, of the same signature.
            again: whether the command that asks knows ``--again``.

        Returns:
            What could not be compared, as one line; None when everything was.

        Raises:
            ConfigError: names what changed, and what to do; or an input is not there.
        """
        then = recorded_inputs(read_json(folder / MANIFEST))
        key = repr((config.task, config.model, config.paths))
        if key not in self._seen:
            self._seen[key] = inputs_of(config)
        now = self._seen[key]
        changed, unknown = _differences(then, now)
        if changed:
            raise ConfigError(
                f"{folder}: done before on other inputs: {listed(changed)} changed since; "
                f"{_remedy(folder, then, now, again)}"
            )
        if unknown:
            return f"{folder}: not compared with what is there now: {listed(unknown)}"
        return None


def recorded_inputs(manifest: Mapping[str, Any]) -> Inputs:
    """What a manifest says about inputs; of a run older than the record, its data files."""
    found = manifest.get("inputs")
    if isinstance(found, Mapping):
        data = found.get("data")
        return Inputs(
            dict(data) if isinstance(data, Mapping) else {},
            *(found.get(key) for key in ("weights", "tokenizer", "commit", "code")),
        )
    facts = manifest.get("data")
    facts = facts if isinstance(facts, Mapping) else {}
    evals = facts.get("evals")
    splits = {"train": facts.get("train"), **(evals if isinstance(evals, Mapping) else {})}
    return Inputs({name: _file(rows) for name, rows in splits.items()}, None, None)


def _file(rows: Any) -> str | None:
    """Hash of the file that rows came from; packages were told apart by file sizes then."""
    if not isinstance(rows, Mapping) or str(rows.get("origin")).startswith("package:"):
        return None
    return rows.get("source_fingerprint")


def _differences(then: Inputs, now: Inputs) -> tuple[list[str], list[str]]:
    """Names of inputs that changed, and of those that one side does not know."""
    pairs = {f"data of split {name}": (then.data.get(name), now.data[name]) for name in now.data}
    pairs |= {
        "the model's weights": (then.weights, now.weights),
        "the tokenizer": (then.tokenizer, now.tokenizer),
    }
    if then.code or now.code:  # most runs have none
        pairs["the code of its plugins"] = (then.code, now.code)
    changed = [name for name, (one, other) in pairs.items() if one and other and one != other]
    return changed, [name for name, pair in pairs.items() if None in pair]


def _same(folder: Path, now: Inputs) -> bool:
    """Whether a run was made of these inputs, all of them recorded."""
    return not any(_differences(recorded_inputs(read_json(folder / MANIFEST)), now))


def _remedy(folder: Path, then: Inputs, now: Inputs, again: bool) -> str:
    """What helps: the copy that was made of these inputs, the old commit, or a new run."""
    copy = 2
    while (twin := folder.with_name(f"{folder.name}-{copy}")).is_dir():
        if (twin / SUMMARY).exists() and _same(twin, now):
            return f"the result on these is in {twin}"
        copy += 1
    if then.commit and now.commit and then.commit != now.commit:
        return f"set model.revision={then.commit} for the model it had, or another name="
    return f"to run on these {'add --again, or ' if again else ''}choose another name="
