"""Writes the model card of an export: what it is, how good, under which promise, how remade.

It is made from what may leave the run folder (``records/leaving.py``); folders become the word
FOLDER.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ffalora_cli.config.schema import Config
from ffalora_cli.export.card_parts import (
    CardFacts,
    communication,
    from_hub,
    front_matter,
    limitations,
    privacy,
    reproduce,
    table,
    usage,
)
from ffalora_cli.methods import registry
from ffalora_cli.metric_keys import evaluated
from ffalora_cli.records.leaving import may_leave, released
from ffalora_cli.records.reading import RunRecords


def model_card(records: RunRecords, config: Config, facts: CardFacts) -> str:
    """The whole card, Markdown with YAML front matter as the hub reads it.

    Args:
        records: of the run.
        config: of the run.
        facts: of the export.
    """
    records = released(records)
    method = registry.get(config.method.name)
    scores = _scores(records, config, facts)
    kind = "merged model" if facts.merged else "LoRA adapter"
    of = "one client's" if facts.client is not None else "the global"
    about = (
        f"A {kind} for {config.task.name} ({len(config.task.classes)} classes) on "
        f"{_base(config)}, trained with {method.title} over "
        f"{_clients(config)}: {of} model after round {facts.round} of "
        f"{config.federation.rounds}. Method: {method.reference}."
    )
    sections = [
        ("", about),
        ("Results", _results(records, config, facts, scores)),
        ("Use", usage(config, facts.merged)),
        ("Privacy", privacy(records.privacy, config, facts.client)),
        ("Data and clients", _data(records, config)),
        ("Training", _training(config)),
        ("Communication", communication(records, config, method)),
        ("Reproduce", reproduce(records, config, facts)),
        ("Versions", _versions(records.manifest, config, facts)),
        ("Limitations", limitations(config, facts)),
    ]
    title = f"# {config.task.name}, {method.title}"
    body = "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in sections)
    head = front_matter(config, facts.merged, scores, records.privacy is not None)
    return f"---\n{head}\n---\n\n{title}\n\n{body}\n"


def _base(config: Config) -> str:
    from ffalora_cli.export.peft import public_source

    at = f" at commit `{config.model.revision}`" if from_hub(config) else ""
    return f"`{public_source(config.model.source)}`{at}"


def _scores(records: RunRecords, config: Config, facts: CardFacts) -> dict[str, float]:
    """Metrics of the exported round that may be published, by their name in the task.

    Empty where the round was not evaluated, and for one client's model: what was recorded is
    another model's (the mean over clients, or the global one's without personal tensors).
    """
    if facts.client is not None:
        return {}
    for record in records.rounds:
        if record.round == facts.round:
            wanted = {name: evaluated(name) for name in (*config.task.metrics, "loss")}
            return {
                name: record.metrics[key] for name, key in wanted.items() if key in record.metrics
            }
    return {}


def _results(
    records: RunRecords, config: Config, facts: CardFacts, scores: Mapping[str, float]
) -> str:
    split = _split(config)
    if not scores:
        why = (
            "clients' own scores are not published"
            if facts.client is not None
            else "it was not evaluated"
        )
        return f"No score is stated for this model: {why}."
    rows = [(name, f"{value:.4f}") for name, value in scores.items()]
    seeds = ", ".join(f"{k} {v}" for k, v in (records.manifest.get("seeds") or {}).items())
    text = table((f"metric, {split}", f"round {facts.round}"), rows)
    text += f"\n\nOne run; seeds: {seeds}. No spread over seeds is known from it."
    if facts.chosen == "best":
        text += " The round was chosen by looking at this split, so the score is optimistic."
    if not records.finished:
        text += " The run did not finish."
    return text


def _split(config: Config) -> str:
    task = config.task
    split = {"eval": task.eval_split, "tune": task.tune_split, "test": "test"}[task.eval_on]
    share = f" ({task.holdout_fraction:g} of train, given to no client)"
    most = config.evaluation.max_examples
    rows = f", at most {most} rows of it" if most is not None else ""
    return split + (share if split == "holdout" else " split") + rows


def _data(records: RunRecords, config: Config) -> str:
    task, partition = config.task, config.partition
    how = partition.label_mix or partition.name
    if partition.dirichlet_alpha is not None:
        how += f", dirichlet_alpha {partition.dirichlet_alpha:g}"
    prints = records.manifest.get("data_fingerprints") or {}
    rows = [
        ("task", f"{task.name}, version {task.version}"),
        ("source", _rows_from(records, config)),
        ("licence of the data", task.license or "not stated"),
        ("classes", ", ".join(task.classes)),
        ("tokens", f"the first {task.max_length} of a row"),
        ("clients", f"{_clients(config)}, partition {how} (seed {partition.seed})"),
        *((f"fingerprint of {name}", f"`{value}`") for name, value in prints.items()),
    ]
    return table(("", ""), rows)


def _rows_from(records: RunRecords, config: Config) -> str:
    """Where the rows came from, with the commit where that was the hub."""
    origin = str(((records.manifest.get("data") or {}).get("train") or {}).get("origin", ""))
    if origin.startswith("hub:"):
        repository, _, commit = origin.removeprefix("hub:").rpartition("@")
        return f"{repository}, commit `{commit}`"
    path = str(config.task.hub_path or "").partition("@")[0]
    return path or config.task.package or "a folder of files"


def _training(config: Config) -> str:
    f, adapter = config.federation, config.adapter
    rows = [
        ("rounds × local steps", f"{f.rounds} × {f.local_steps}"),
        ("batch of a client", f"{f.local_batch_size}"),
        ("clients a round", "all" if f.cohort_size is None else f"{f.cohort_size}"),
        ("local optimiser", f"{f.local_optimizer}, lr {f.local_lr:g}"),
        ("server optimiser", f"{f.server_optimizer.name}, lr {f.server_optimizer.lr:g}"),
        ("combination", f"{f.combination}, weights by {f.weights}"),
        (
            "adapter",
            f"rank {adapter.rank}, alpha {adapter.alpha:g}, {adapter.targets}, A {adapter.init}",
        ),
        ("head", f"{config.head.mode}, scale {config.head.scale:g}"),
        ("precision of the frozen weights", config.engine.precision),
    ]
    return table(("", ""), rows)


def _versions(manifest: Mapping[str, Any], config: Config, facts: CardFacts) -> str:
    within = facts.tolerance
    if may_leave("export.difference", config.privacy.unit):
        within = facts.difference
    versions = {k: v for k, v in (manifest.get("versions") or {}).items() if v}
    git = manifest.get("git") or {}
    code = f"ffalora {manifest.get('ffalora')}"
    if git:
        code += f" at {str(git['commit'])[:12]}{' with local changes' if git['dirty'] else ''}"
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{code}; Python {manifest.get('python')}; {listed}.\n\nBase weights "
        f"`{manifest.get('model_fingerprint')}`, config `{manifest.get('signature')}`. This folder "
        f"was loaded by plain libraries in a process of its own; class scores of {facts.rows} rows "
        f"differ from the run's model by {within:.1e} at most."
    )


def _clients(config: Config) -> str:
    number = config.federation.num_clients
    return "all clients of the data" if number is None else f"{number} clients"
