"""Exports a run as a folder that others load: written aside, reloaded, then put in place."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.adapters import registry as forms
from ffalora_cli.config.build import build
from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.config.schema import QUANTISED, Config
from ffalora_cli.engine.microbatch import cut
from ffalora_cli.export import reload
from ffalora_cli.export.model_card import CardFacts, model_card
from ffalora_cli.export.peft import (
    merged_model,
    public_source,
    write_adapter,
    write_merged,
)
from ffalora_cli.export.processors import save_processor
from ffalora_cli.export.trained_model import TrainedModel, read_model
from ffalora_cli.export.usage import from_hub
from ffalora_cli.records.files import sync_folder, to_json, write_new
from ffalora_cli.records.leaving import leaving
from ffalora_cli.records.manifest import recorded_commits
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.moments import headline
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.targets import Targets

if TYPE_CHECKING:
    import torch

    from ffalora_cli.data.dataset import Ready
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Tensors

ROWS = 64  # compared, evenly spaced over a split
TOKENS = 2048  # of a micro-batch
TOLERANCE = 1e-4  # on an output, as a share of the largest or, if that is below 1, absolute
CARD, FACTS = "README.md", "export.json"


def export(
    records: RunRecords,
    to: Path,
    which: str = "last",
    merge: bool = False,
    client: int | None = None,
    force: bool = False,
) -> tuple[CardFacts, bool]:
    """Write a PEFT adapter, or a merged model, with tokenizer and model card.

    Args:
        records: of the run.
        to: folder; new, empty, or with ``force`` an earlier export.
        which: ``last``, ``best`` or a round's number.
        merge: a full model in place of an adapter.
        client: whose model, where tensors stay with the clients.
        force: replace an earlier export.

    Returns:
        What was written, and whether it loads without being told where the base model is.

    Raises:
        ConfigError: nothing was written.
        RunFailed: the reloaded model is another one; nothing was kept.
    """
    from ffalora_cli.models.backbone import load_backbone, pin_model
    from ffalora_cli.models.families.padding import finds_last
    from ffalora_cli.models.families.vision import takes_any_size
    from ffalora_cli.models.network import build_network
    from ffalora_cli.models.processor import load_processor

    _check_target(to, force)
    config = recorded_commits(build(records.config), records.manifest)
    config = replace(config, model=pin_model(config.model))
    trained = read_model(records, which, headline(records))
    _check_form(config, trained, merge)
    if client is not None and config.privacy.unit == "client":
        raise ConfigError(
            f"--client {client}: at privacy.unit=client a client's own tensors are neither clipped "
            "nor noised, so they stay at home; leave out --client for the global model"
        )
    if merge and config.engine.precision in QUANTISED:
        raise ConfigError(
            f"--merge: the adapter was trained on weights rounded to {config.engine.precision}; "
            "merged with those that were not it is another model; export the adapter by itself"
        )
    processor = load_processor(config.model, config.task)
    backbone = load_backbone(config.model, config.head, config.task)
    padding = None
    if finds_last(backbone.model, backbone.task):  # the tokenizer pads with what the head passes by
        padding = backbone.model.config.get_text_config().pad_token_id
        processor.pad_token = processor.convert_ids_to_tokens(padding)
    rows = _rows(config, processor)
    targets = config.model.targets[config.adapter.targets]
    network = build_network(backbone, config.adapter, targets)
    if backbone.fingerprint != records.manifest.get("model_fingerprint"):
        raise ConfigError(
            f"model.source={config.model.source!r}: its weights are not those of the run "
            f"({records.manifest.get('model_fingerprint')}); restore them"
        )
    values = trained.values(network.initial, client)
    network.add_to_base(trained.base_delta)
    arguments = takes_any_size(network.plain)
    with _aside(to) as folder:
        if merge:
            model = merged_model(network, values, trained.base_delta)
            write_merged(folder, model, backbone.task.settings(config.task))
        else:
            write_adapter(folder, network, values, backbone.drawn, config)
        save_processor(processor, folder)
        question = _question(folder, config, merge, arguments, padding)
        difference = _difference(network, rows, values, question)
        if not difference <= TOLERANCE:
            raise RunFailed(
                f"the reloaded model's outputs differ from ours by {difference:.2g} of the largest "
                f"(at most {TOLERANCE:g}): nothing was kept; please report it with the versions"
            )
        sized = config.task.image_size is not None and bool(arguments)
        facts = CardFacts(
            trained.round, which, merge, client, len(rows), TOLERANCE, difference, sized, padding
        )
        write_new(folder / CARD, model_card(records, config, facts).encode())
        write_new(folder / FACTS, _facts(records, config, facts))
    return facts, merge or from_hub(config)


def _check_target(to: Path, force: bool) -> None:
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise ConfigError(f"--to {to}: is a file or a link; give a new folder")
    if not to.exists() or not any(to.iterdir()):
        return
    if not (to / FACTS).is_file():
        raise ConfigError(f"--to {to}: holds something that is no export; give a new folder")
    if not force:
        raise ConfigError(f"--to {to}: holds an export; add --force to replace it")


def _check_form(config: Config, trained: TrainedModel, merge: bool) -> None:
    if merge:
        return
    if trained.base_delta:
        raise ConfigError(
            f"method {config.method.name} changed the base weights, which an adapter of rank "
            f"{config.adapter.rank} cannot hold: add --merge for the exact full model"
        )
    if why := forms.get(config.adapter.form).no_peft:
        raise ConfigError(
            f"adapter.form={config.adapter.form}: {why}; add --merge for the exact full model"
        )
    if config.model.random_weights:
        raise ConfigError("model.random_weights=true: nobody else has this base; add --merge")
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "export: an adapter is written by peft; pip install 'ffalora[export]', or add --merge"
        )


def _rows(config: Config, processor: Any) -> Ready:
    """Some real rows of the evaluation split, or of train where that is cut from it.

    Where single tokens are scored, each row keeps its last target: there the model has read all of
    the row.
    """
    from ffalora_cli.data.dataset import encoded_split

    task = config.task
    split = task.eval_split if task.eval_split in task.splits else "train"
    paths = config.paths
    length = task.max_length if task.image_column is None else processor.tokens
    rows, _ = encoded_split(task, processor, paths.data, paths.cache, split, length)
    targets = rows.targets
    ends = np.arange(1, len(rows) + 1) if targets.offsets is None else targets.offsets[1:]
    there = np.flatnonzero(np.diff(ends, prepend=0))  # a row may have none
    chosen = there[np.unique(np.linspace(0, len(there) - 1, min(ROWS, len(there))).astype(int))]
    last = ends[chosen] - 1
    positions = None if targets.positions is None else targets.positions[last]
    return replace(rows.take(chosen), targets=Targets(targets.values[last], positions=positions))


def _difference(
    network: Network, rows: Ready, values: Tensors, question: Mapping[str, Any]
) -> float:
    """Largest difference between our outputs and those of the folder's model, as a share.

    Raises:
        RunFailed: it cannot be loaded; says why.
    """
    import torch
    from safetensors.torch import load_file, save_file

    asked: Tensors = {}
    ours: list[torch.Tensor] = []
    for number, batch in enumerate(cut(rows.lengths, TOKENS, ROWS, packed=False)):
        asked |= {f"{number}/{name}": x.contiguous() for name, x in rows.inputs(batch).items()}
        targets = rows.targets.batch(batch)
        if network.task.reads != "example":
            asked[str(number)] = targets.positions
        with torch.no_grad():
            ours.append(network.outputs(network.inputs(rows, batch), values, targets))
    with tempfile.TemporaryDirectory() as private:  # real rows: readable by their owner alone
        files = [Path(private, name) for name in ("question", "inputs", "answer")]
        files[0].write_bytes(to_json(question))
        save_file(asked, files[1])
        done = subprocess.run(
            [sys.executable, "-P", str(reload.__file__), *map(str, files)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # what the run loaded is on this machine
            capture_output=True,
            text=True,
        )
        if done.returncode or not files[2].is_file():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:150]
            raise RunFailed(f"plain transformers cannot load the export ({reason}); nothing kept")
        theirs = load_file(files[2])
    off = max(float((o - theirs[str(n)]).abs().max()) for n, o in enumerate(ours))
    return off / max(1.0, *(float(outputs.abs().max()) for outputs in ours))


def _question(
    folder: Path, config: Config, merge: bool, arguments: Mapping[str, Any], padding: int | None
) -> dict[str, Any]:
    """What ``reload`` has to know."""
    from ffalora_cli.models.source import resolve_source

    task = registry.get(config.task.kind)
    return {
        "folder": str(folder.resolve()),
        "base": None if merge else resolve_source(config.model.source, config.model.cache),
        "revision": config.model.revision,
        "auto_class": task.auto_class,
        "width": task.outputs(config.task) or None,
        "padding": padding,
        "settings": task.settings(config.task),
        "arguments": arguments,
    }


@contextmanager
def _aside(to: Path) -> Iterator[Path]:
    """A folder beside ``to`` that takes its place at the end, or is gone."""
    to = to.resolve()
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    except OSError as error:
        raise ConfigError(
            f"--to {to}: cannot be written ({error.strerror}); choose another"
        ) from None
    try:
        yield folder
        folder.chmod(0o755)
        if to.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
            os.rename(to, old)
            os.rename(folder, to)
            shutil.rmtree(old)
        else:
            os.rename(folder, to)
        sync_folder(to.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _facts(records: RunRecords, config: Config, facts: CardFacts) -> bytes:
    """For programs, and the mark by which an export is known as one."""
    said = {
        "schema": 1,
        "ffalora": records.manifest.get("ffalora"),
        "signature": records.manifest.get("signature"),
        "base": {
            "source": public_source(config.model.source),
            "revision": config.model.revision,
        },
        **asdict(facts),
    }
    return to_json(leaving(said, "export", config.privacy.unit), indent=2)
