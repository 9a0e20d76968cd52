"""Words the lines around a run: what starts, what came out, what to try next."""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffalora_cli.cli.screen.streams import WIDTH, width
from ffalora_cli.cli.screen.units import count, human_bytes, human_seconds, score
from ffalora_cli.config.errors import counted, one_line
from ffalora_cli.config.schema import Config
from ffalora_cli.config.secrets import redact
from ffalora_cli.federation.schedule import in_words
from ffalora_cli.metric_keys import (
    DOWNLINK_TOTAL,
    UPLINK_TOTAL,
    bytes_of,
    evaluated,
    interval,
    personalized,
)
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.tasks import generated_answers
from ffalora_cli.tasks import registry as tasks

_LABEL = 10
_HANDLE = re.compile(r"[0-9a-f]{12}(-\d+)?$")
_NOT_SHOWN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")  # steers a terminal
_UNIT = re.compile(r"(?<=\d) (?=[kMGT]?B\b|%)")


def labelled(label: str, text: str) -> list[str]:
    """``label  text`` wrapped to 80 columns or the terminal; long paths stay in one piece."""
    lines = textwrap.wrap(
        _UNIT.sub("\u00a0", _NOT_SHOWN.sub("?", text)),  # wrap never parts a number from its unit
        width=min(WIDTH, width()),
        initial_indent=label.ljust(_LABEL),
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines] or [label]


def aside(text: str) -> None:
    """Something worth knowing beside what is printed."""
    print(f"ffalora: {redact(one_line(text))}", file=sys.stderr)


def left_out(text: str) -> None:
    """A run among others cannot be read: said beside the result, which goes on without it."""
    aside(f"left out: {text}")


def opening(facts: Mapping[str, Any], config: Config) -> list[str]:
    """What is about to be trained, where, and under which promise."""
    sizes = list(facts.get("client_sizes") or ())
    clients = counted(int(facts["clients"]), "client")
    if sizes:
        low, high = int(min(sizes)), int(max(sizes))
        clients += (
            f" with {count(low)} to {count(high)} rows"
            if low < high
            else f" of {counted(low, 'row')}"
        )
    trainable, frozen = int(facts["trainable_parameters"]), int(facts["frozen_parameters"])
    lines = labelled(
        "run", f"{facts['method']} on {facts['task']} with {facts['model']}, {clients}"
    )
    lines += labelled(
        "training", f"{count(trainable)} parameters, {count(frozen)} frozen, on {facts['device']}"
    )
    lines += labelled("protocol", protocol(config))
    lines += labelled("privacy", privacy_sentence(facts.get("privacy")))
    lines += labelled("records", str(facts["run_dir"]))
    for note in facts.get("notes") or ():
        lines += labelled("note", str(note))
    return lines


def protocol(config: Config) -> str:
    """How clients and server work, in one sentence."""
    federation, adapter = config.federation, config.adapter
    parts = [
        f"{counted(federation.rounds, 'round')} of {counted(federation.local_steps, 'step')}",
        f"batch {federation.local_batch_size}",
        f"{federation.local_optimizer} lr {in_words(federation)}",
        f"rank {adapter.rank} at {adapter.place}",
        *([f"{config.head.mode} head"] if tasks.get(config.task.kind).headed else []),
        f"partition {config.partition.label_mix or config.partition.name}",
    ]
    if federation.cohort_size is not None:
        parts.append(f"{federation.cohort_sampling} cohorts of {federation.cohort_size}")
    if config.evaluation.max_examples is not None:
        parts.append(f"at most {counted(config.evaluation.max_examples, 'row')} evaluated")
    return ", ".join(parts)


def clients(config: Config) -> str:
    """How many clients a configuration asks for, in words."""
    number = config.federation.num_clients
    return "all clients of the data" if number is None else counted(number, "client")


def privacy_sentence(privacy: Mapping[str, Any] | None) -> str:
    """The statement's sentence (unit, relation, delta, sampling, accountant), or that none is.

    A looser accountant's claim has the PLD value of the same mechanism beside it.
    """
    if not privacy:
        return "none: nothing is promised about single examples or clients"
    sentence = str(privacy["sentence"])
    tight = (privacy.get("largest") or {}).get("epsilon", {}).get("pld")  # of one client alone
    several = any(word in sentence for word in ("several clients", "epsilons added"))
    if privacy.get("accountant") == "pld" or not isinstance(tight, float) or several:
        return sentence
    return f"{sentence}; the same noise by the PLD accountant: epsilon {epsilon_text(tight)}"


def closing(summary: Mapping[str, Any], metrics_order: Sequence[str]) -> list[str]:
    """The last lines of a run.

    Args:
        summary: as ``summary.json`` has it (``final``, ``rounds``, ``seconds``, ``privacy``), with
            ``run_dir``.
        metrics_order: the task's metrics, headline first.
    """
    metrics: Mapping[str, float] = summary.get("final") or {}
    scores = [
        f"{name} {score(name, metrics.get(evaluated(name)))}"
        for name in (*metrics_order, "loss")
        if evaluated(name) in metrics
    ]
    rest = ("_own_labels", "_min")
    for key in (k for k in metrics if k.startswith(personalized("")) and not k.endswith(rest)):
        place = 0 if summary.get("headline") == key else len(scores)
        name = key.removeprefix(personalized(""))
        scores.insert(place, f"clients' own models' {name} {score(key, metrics[key])} on average")
    rounds = int(summary.get("rounds") or 0)
    after = f"after {counted(rounds, 'round')}"
    if summary.get("seconds") is not None:
        after += f" in {human_seconds(float(summary['seconds']))}"
    lines = labelled("result", f"{', '.join(scores) or 'not evaluated'} ({after})")
    if written := generated(metrics):
        lines += labelled("generated", written)
    lines += labelled("bytes", communication(metrics))
    lines += labelled("privacy", privacy_sentence(summary.get("privacy")))
    lines += labelled("records", str(summary.get("run_dir")))
    return lines


def generated(metrics: Mapping[str, float]) -> str:
    """Scores of generated answers, shares with their interval; empty where there are none."""
    found = []
    for name in generated_answers.METRICS:
        key = evaluated(name)
        if key in metrics:
            low, high = (metrics.get(end) for end in interval(key))
            ends = "" if low is None else f" (95 %: {score(name, low)} to {score(name, high)})"
            found.append(f"{name.replace('generated_', '')} {score(name, metrics[key])}{ends}")
    return ", ".join(found)


def communication(metrics: Mapping[str, float]) -> str:
    """Bytes of the whole run by direction and together, with set-up and head as parts of both."""
    up = metrics.get(UPLINK_TOTAL)
    down = metrics.get(DOWNLINK_TOTAL)
    both = None if up is None or down is None else up + down
    parts = [
        f"{name} {human_bytes(value)}"
        for name, kind in (("set-up", "setup"), ("head", "head"))
        if (value := metrics.get(bytes_of(kind, total=True), metrics.get(bytes_of(kind))))
    ]
    ways = f"up {human_bytes(up)}, down {human_bytes(down)}, together {human_bytes(both)}"
    return f"{ways} (all clients){'; of it ' if parts else ''}{', '.join(parts)}"


def suggestions(config: Config, overrides: Sequence[str], run: str) -> list[str]:
    """Commands worth typing next, made from the one just run; each replaces what it changes.

    Args:
        config: of the run.
        overrides: as typed.
        run: its folder.
    """
    folder = Path(run)
    name = handle(folder.name) if folder.parent == Path("runs") else shlex.quote(run)
    lines = [f"ffalora show {name}"]
    if config.privacy.unit != "none":
        lines.append(_with("run", overrides, "privacy=none"))
    method = config.method.name
    other = "ffa_lora" if method == "lora" else "lora"
    lines.append(_with("sweep", overrides, f"method={method},{other}", "seed=0,1,2"))
    labels = ["try", *[""] * (len(lines) - 1)]
    return [label.ljust(_LABEL) + line for label, line in zip(labels, lines, strict=True)]


def _with(verb: str, overrides: Sequence[str], *changes: str) -> str:
    """A command with other settings; keys below a group that is chosen anew go with it.

    What would not fit a line is what the person has typed, and is left out as ``...``.
    """
    anew = [change.partition("=")[0] for change in changes]
    kept = [text for text in overrides if text.partition("=")[0].partition(".")[0] not in anew]
    command = f"ffalora {verb} {shlex.join([*kept, *changes])}"
    if len(command) <= WIDTH - _LABEL:
        return command
    return f"ffalora {verb} ... {shlex.join(changes)}"


def handle(run: str) -> str:
    """What names a run in few letters: the signature in its folder's name, else all of it."""
    found = _HANDLE.search(run)
    return found[0] if found else run
