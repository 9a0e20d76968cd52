"""Writes the model card of an export: what it is, how good, under which promise, how remade.

It is made from what may leave the run folder (``records/leaving.py``); folders become the word
FOLDER.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.config.signature import relevant
from ffalora_cli.export.peft import public_source
from ffalora_cli.export.usage import from_hub, usage
from ffalora_cli.federation.schedule import in_words
from ffalora_cli.methods import registry
from ffalora_cli.methods.base import Method
from ffalora_cli.metric_keys import DOWNLINK_TOTAL, UPLINK_TOTAL, evaluated, interval
from ffalora_cli.privacy.rounding import bound_of_delta, delta_text, epsilon_text, largest_client
from ffalora_cli.records.leaving import may_leave, released, without_folder
from ffalora_cli.records.manifest import code_of, joined
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.tasks import registry as tasks

_OWN = ("paths.", "tracking", "name=", "hydra.")  # overrides that say nothing about the result
_ENDS = interval("")
NOMINAL = (
    "This guarantee is nominal: the noise is a function of seed, config, training rows, weights "
    "and tokenizer, of which this card states all but the rows. Publish a model trained with "
    "privacy.noise=secure instead."
)


@dataclass(frozen=True)
class CardFacts:
    """What an export knows beside the run's records.

    Attributes:
        round: of the weights.
        chosen: how it was asked for: ``last``, ``best`` or a number.
        merged: a full model; else an adapter.
        client: whose model, or None for the global one.
        rows: compared after reloading.
        tolerance: that outputs for these rows were within, as a share of the largest (at least 1).
        difference: the largest difference among them, as such a share.
        sized: whether the model has to be told that images are of another size than its own.
        padding: id that the model has to be told, whose head looks for a text's last token.
    """

    round: int
    chosen: str
    merged: bool
    client: int | None
    rows: int
    tolerance: float
    difference: float
    sized: bool = False
    padding: int | None = None


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
        f"A {kind} for {config.task.name} ({_learnt(config.task)}) on "
        f"{_base(records, config)}, trained with {method.title} over "
        f"{_clients(config)}: {of} model after round {facts.round} of "
        f"{config.federation.rounds}. Method: {method.reference}."
    )
    sections = [
        ("", about),
        ("Results", _results(records, config, facts, scores)),
        ("Use", usage(config, facts.merged, facts.sized, facts.padding)),
        ("Privacy", _privacy(records.privacy, config, facts.client)),
        ("Data and clients", _data(records, config)),
        ("Training", _training(config)),
        ("Communication", _communication(records, config, method)),
        ("Reproduce", _reproduce(records, config, facts)),
        ("Versions", _versions(records.manifest, config, facts)),
        ("Limitations", _limitations(config, facts)),
    ]
    title = f"# {config.task.name}, {method.title}"
    body = "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in sections)
    head = _front_matter(config, facts.merged, scores, records.privacy is not None)
    return f"---\n{head}\n---\n\n{title}\n\n{body}\n"


def _learnt(task: TaskConfig) -> str:
    """What a task is in a few words."""
    kind = tasks.get(task.kind)
    what = kind.pipeline.replace("-", " ")
    return f"{what}, {kind.outputs(task)} classes" if "id2label" in kind.settings(task) else what


def _base(records: RunRecords, config: Config) -> str:
    at = f" at commit `{config.model.revision}`" if from_hub(config) else ""
    made = (records.manifest.get("model") or {}).get("weights")
    return f"`{public_source(config.model.source)}`{at}" + (f" ({made})" if made else "")


def _scores(records: RunRecords, config: Config, facts: CardFacts) -> dict[str, float]:
    """Metrics of the exported round that may be published, by their name in the task.

    Empty where the round was not evaluated, and for one client's model: what was recorded is
    another model's (the mean over clients, or the global one's without personal tensors).
    """
    metrics: Mapping[str, float] = {}
    if facts.client is None:
        metrics = {r.round: r.metrics for r in records.rounds}.get(facts.round, {})
    written = config.task.generate.metrics if config.task.generate is not None else ()
    names = [*config.task.metrics, "loss", *(x for n in written for x in (n, *interval(n)))]
    wanted = {name: evaluated(name) for name in names}
    return {name: metrics[key] for name, key in wanted.items() if key in metrics}


def _results(
    records: RunRecords, config: Config, facts: CardFacts, scores: Mapping[str, float]
) -> str:
    if not scores:
        why = "it was not evaluated"
        if facts.client is not None:
            why = "clients' own scores are not published"
        return f"No score is stated for this model: {why}."
    rows = [(name, _number(name, scores)) for name in scores if not name.endswith(_ENDS)]
    seeds = joined(records.manifest.get("seeds"))
    text = _table((f"metric, {_split(config)}", f"round {facts.round}"), rows)
    text += f"\n\nOne run; seeds: {seeds}. No spread over seeds is known from it."
    if facts.chosen == "best":
        text += " The round was chosen by looking at this split, so the score is optimistic."
    if not records.finished:
        text += " The run did not finish."
    return text


def _number(name: str, scores: Mapping[str, float]) -> str:
    """A score, with its interval where it has one."""
    low, high = interval(name)
    if low not in scores:
        return f"{scores[name]:.4f}"
    return f"{scores[name]:.4f} (95 % interval {scores[low]:.4f} to {scores[high]:.4f})"


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
        *([("classes", ", ".join(task.classes))] if task.classes else []),
        *_of_kind(task),
        ("clients", f"{_clients(config)}, partition {how} (seed {partition.seed})"),
        *((f"fingerprint of {name}", f"`{value}`") for name, value in prints.items()),
    ]
    return _table(("", ""), rows)


def _of_kind(task: TaskConfig) -> list[tuple[str, str]]:
    """How rows become what the model reads: the template of a language model's among it."""
    kind = tasks.get(task.kind)
    named = [(key, getattr(task, key)) for key in kind.keys if key != "generate"]
    rows = [(key, f"`{value}`".replace("\n", "\\n")) for key, value in named if value is not None]
    if kind.modality == "text":
        cut = "the first" if kind.reads != "vocabulary" else "at most"
        rows.append(("tokens", f"{cut} {task.max_length} of a row"))
    if (asked := task.generate) is not None:
        said = f"to {asked.rows} rows, greedy, at most {asked.max_new_tokens} tokens"
        rows.append(("generated answers", said))
    return [(key.replace("_", " "), value.replace("|", "\\|")) for key, value in rows]


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
        ("local optimiser", f"{f.local_optimizer}, lr {in_words(f)}"),
        ("server optimiser", f"{f.server_optimizer.name}, lr {f.server_optimizer.lr:g}"),
        ("combination", f"{f.combination}, weights by {f.weights}"),
        (
            "adapter",
            f"rank {adapter.rank}, alpha {adapter.alpha:g}, {adapter.place}, A {adapter.init}",
        ),
        *(
            [("head", f"{config.head.mode}, scale {config.head.scale:g}")]
            if tasks.get(config.task.kind).headed
            else []
        ),
        ("precision", config.engine.precision),
    ]
    return _table(("", ""), rows)


def _versions(manifest: Mapping[str, Any], config: Config, facts: CardFacts) -> str:
    within = facts.tolerance
    if may_leave("export.difference", config.privacy.unit):
        within = facts.difference
    versions = {k: v for k, v in (manifest.get("versions") or {}).items() if v}
    weights = (manifest.get("model") or {}).get("weights")  # of a model that was one file
    made = f" ({weights})" if weights else ""
    return (
        f"{code_of(manifest)}; Python {manifest.get('python')}; {joined(versions)}.\n\n"
        f"Base weights `{manifest.get('model_fingerprint')}`{made}, config "
        f"`{manifest.get('signature')}`. This folder was loaded by plain libraries in a process of "
        f"its own; its outputs for {facts.rows} rows differ from the run's model by {within:.1e} "
        "of the largest at most."
    )


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can change the result, with folders of this machine left out."""
    kept = relevant(config)
    model = dict(kept.get("model") or {})
    if str(model.get("source", "")).startswith((".", "/", "~")):
        model["source"] = "FOLDER"
    return {**kept, "model": model}


def _clients(config: Config) -> str:
    number = config.federation.num_clients
    return "all clients of the data" if number is None else f"{number} clients"


def _table(heading: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {heading[0]} | {heading[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows)])


def _front_matter(config: Config, merged: bool, scores: Mapping[str, float], private: bool) -> str:
    """The YAML that the hub reads, as its library writes it: base model, tags, data, results."""
    from huggingface_hub import EvalResult, ModelCardData

    task = config.task
    kind = tasks.get(task.kind)
    data_id, _, commit = str(task.hub_path or "").partition("@")
    tags = ["ffalora", "federated-learning", "lora", config.method.name.replace("_", "-")]
    results = [
        EvalResult(
            task_type=kind.pipeline,
            task_name=kind.pipeline.replace("-", " ").capitalize(),
            dataset_type=data_id or task.name,
            dataset_name=task.name,
            dataset_config=task.hub_name,
            dataset_split=task.eval_split,
            dataset_revision=commit or None,
            metric_type=kind.metrics[name].hub,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for name, value in scores.items()
        if name in kind.metrics and kind.metrics[name].hub
    ]
    content = ModelCardData(
        base_model=config.model.source if from_hub(config) else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag=kind.pipeline,
        tags=[*tags, *(["differential-privacy"] if private else [])],
        datasets=[data_id] if data_id else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=f"{task.name}-{config.method.name}" if results else None,
        eval_results=results or None,
    )
    return content.to_yaml()


def _privacy(statement: Mapping[str, Any] | None, config: Config, client: int | None) -> str:
    """The claim with everything it rests on, and what is outside it."""
    if not statement:
        return "None: nothing is promised about single examples or clients."
    text = f"**{statement['sentence']}**"
    if config.privacy.noise == "reproducible":
        text += f"\n\n**{NOMINAL}**"
    if "protects" not in statement:  # written by an earlier schema
        return text
    spent = " / ".join(map(epsilon_text, statement["epsilon_max"].values()))
    delta = delta_text(statement["delta"]) + bound_of_delta(statement, "the largest n")
    rows = [
        ("unit", f"{statement['unit']}: {statement['protects']}"),
        ("relation", str(statement["relation"])),
        ("epsilon (planned / spent)", spent),
        ("delta", delta),
        ("sampling", statement["sampling_note"] or statement["sampling"]),
        ("accountant", f"{statement['accountant'].upper()} ({statement['library']})"),
        ("largest client alone, same noise", "; ".join(largest_client(statement))),
        ("clip", f"{statement['max_grad_norm']:g}: {statement['mechanism']['clip_note']}"),
        ("noise", f"{statement['mechanism']['noise_by']}; {statement['noise']['note']}"),
    ]
    text += f"\n\n{_table(('', ''), rows)}\n\nThe whole run is charged, whatever its round.\n\n"
    if client is not None:
        text += "This client's own tensors were clipped and noised like the shared ones.\n\n"
    return text + "Outside the guarantee:\n\n" + "\n".join(f"- {x}" for x in statement["outside"])


def _communication(records: RunRecords, config: Config, method: Method) -> str:
    """Bytes of the whole run as they were packed."""
    totals = {key: value for record in records.rounds for key, value in record.metrics.items()}
    keys = (("up", UPLINK_TOTAL), ("down", DOWNLINK_TOTAL))
    shown = [(name, f"{totals[key]:,.0f}") for name, key in keys if key in totals]
    formulas = (
        f"{method.travels} Formula, a client, round and layer: up `{method.uplink_formula}`, "
        f"down `{method.downlink_formula}` (b bytes a number, {config.federation.wire_dtype})."
    )
    if not shown:
        return f"Totals are not stated: they follow from who took part. {formulas}"
    return f"{_table(('whole run, all clients', 'bytes'), shown)}\n\n{formulas}"


def _reproduce(records: RunRecords, config: Config, facts: CardFacts) -> str:
    """The command as typed, without what is one machine's, and the whole configuration."""
    import yaml

    command = list(records.manifest.get("command") or ())
    lines = []
    if command[1:2] == ["run"] and not {"-m", "--multirun"} & set(command):
        words = [w for w in command[2:] if "=" in w and not w.startswith(_OWN)]
        lines.append(shlex.join(["ffalora", "run", *map(without_folder, words)]))
    which = "" if facts.chosen == "last" else f" --round {facts.chosen}"
    which += " --merge" if facts.merged else ""
    which += "" if facts.client is None else f" --client {facts.client}"
    lines.append(f"ffalora export RUN --to DIR{which}")
    text = yaml.safe_dump(public_config(records.config), sort_keys=False, allow_unicode=True)
    commands = "\n".join(lines)
    return (
        f"```bash\n{commands}\n```\n\nThe same configuration gives the same bits on the same "
        f"machine. All of it:\n\n```yaml\n{text}```"
    )


def _limitations(config: Config, facts: CardFacts) -> str:
    """What this model is not."""
    kind = tasks.get(config.task.kind)
    what = {"text": "texts, or longer ones", "image": "images"}[kind.modality]
    lines = [
        f"Trained for {config.task.name} alone; nothing is known about other {what}.",
        "Clients were simulated on one machine; no network, no attacker and no real population.",
        "Biases of the base model and of the data are still there; none was measured.",
    ]
    if tasks.get(config.task.kind).headed and config.head.mode == "frozen":
        lines.append("The head is random and frozen: the adapter learnt to feed it.")
    if config.engine.precision != "fp32":
        lines.append(f"Trained with engine.precision={config.engine.precision}, exported in fp32.")
    if config.privacy.unit == "none":
        lines.append("Trained without privacy: training rows may be recoverable from it.")
    return "\n".join(f"- {line}" for line in lines)
