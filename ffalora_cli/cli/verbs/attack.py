"""``ffalora attack``: what one step's gradient gives away, with and without privacy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.methods import registry

if TYPE_CHECKING:
    from ffalora_cli.audit.attack.inversion import Noise
    from ffalora_cli.config.schema import Config
    from ffalora_cli.methods.base import Method
    from ffalora_cli.types import Examples

ROWS = {"surrogate": 10, "model": 3}  # attacked one by one
LABEL_BATCH, LABEL_BATCHES = 20, 40

_EXAMPLES = """\
examples:
  ffalora attack                                   the embedded default, with and without privacy
  ffalora attack --dp off --rank 8 --tokens 8,16
  ffalora attack model=roberta_base task=sst2 paths.data=DATA --json attack.json"""

_MEANING = (
    "One step on one example is the worst case: 10 local steps on batches of 200 already defeat "
    "this attack. FFA-LoRA's smaller numbers are a smaller measurement, not a guarantee: what "
    "freezing A hides, a cleverer attack may find. Privacy inside clients is what bounds it."
)


@dataclass(frozen=True)
class Cell:
    """One measured share."""

    victim: str  # "surrogate" | "model"
    method: str
    rank: int
    private: bool
    tokens: int
    recovered: float  # share of positions whose exact token ranks first


def main(arguments: Sequence[str]) -> int:
    """Attack a random surrogate and the run's own model; print the shares of tokens recovered."""
    parser = Parser("attack", "Recover tokens and label counts from one step.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=f"invert, or {OVERRIDES}")
    parser.add_argument("--tokens", default="4,6,8,12,16,32", help="lengths of the examples")
    parser.add_argument("--rank", default="8,16", help="ranks of the adapters")
    parser.add_argument("--methods", help="as in lora,rolora; default: lora and the run's")
    parser.add_argument("--dp", default="both", choices=("on", "off", "both"), help="privacy")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    options = parser.read(arguments)
    lengths, ranks = _numbers("--tokens", options.tokens), _numbers("--rank", options.rank)
    file = Path(options.json).expanduser() if options.json else None
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"--json {file}: folder {file.parent} is not there; make it first")
    (job,) = plan([text for text in options.overrides if text != "invert"])
    config = job.config
    if options.dp != "off" and not config.privacy.inside_clients:
        raise ConfigError(
            f"privacy.unit={config.privacy.unit}: no noise is added to an example's step; "
            "choose privacy=text or --dp off"
        )
    methods = _methods(options.methods or f"lora,{config.method.name}")
    examples, noise = _rows_and_noise(config, options.dp != "off")
    steps = {"off": (None,), "on": (noise,), "both": (None, noise)}[options.dp]
    cells, labels = [], []
    for target in ROWS:
        print(f"\n{_title(target, config)}: share of positions whose exact token ranks first")
        print(f"{'tokens':<26}" + "".join(f"{n:>8}" for n in lengths))
        for rank in ranks:
            cells += _table(target, config, methods, examples, rank, lengths, steps)
        labels += _labels(target, config, examples, ranks[0], steps)
    for line in _closing(labels, noise):
        print(line)
    if file is not None:
        found = {"cells": [asdict(cell) for cell in cells], "label_counts": labels}
        found |= {"noise": asdict(noise) if noise else None, "meaning": _MEANING}
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return DONE


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 2 or max(numbers) > 64:
        raise ConfigError(f"{option} {text[:40]}: give whole numbers from 2 to 64, as in 4,8,16")
    return numbers


def _methods(text: str) -> list[Method]:
    from ffalora_cli.audit.attack.inversion import check_attackable

    found = []
    for name in dict.fromkeys(text.split(",")):
        if name not in registry.names():
            raise choose("--methods", name, registry.names())
        found.append(registry.get(name))
        check_attackable(found[-1])
    return found


def _title(target: str, config: Config) -> str:
    if target == "surrogate":
        return "random RoBERTa, random words"
    return f"{config.model.name}, rows of {config.task.name}"


def _rows_and_noise(config: Config, private: bool) -> tuple[Examples, Noise | None]:
    """The run's training rows, and the mechanism of its client with the least noise."""
    from ffalora_cli.audit.attack.inversion import Noise
    from ffalora_cli.audit.attack.targets import own_rows
    from ffalora_cli.privacy.planning.plan import make_plan

    examples, sizes = own_rows(config)
    if not private:
        return examples, None
    exchanges = registry.get(config.method.name).exchanges()
    planned = make_plan(config.privacy, sizes, config.federation, (), exchanges=exchanges)
    if planned is None:
        return examples, None
    return examples, Noise(float(planned.noise_multiplier.min()), planned.max_grad_norm)


def _table(
    target: str,
    config: Config,
    methods: Sequence[Method],
    examples: Examples,
    rank: int,
    lengths: Sequence[int],
    steps: Sequence[Noise | None],
) -> list[Cell]:
    """Measure and print the lines of one rank."""
    from ffalora_cli.audit.attack import targets
    from ffalora_cli.audit.attack.inversion import attack, recovered

    own = target == "model"
    network = targets.own_network(config, rank) if own else targets.random_network(rank, 0)
    cases, attacked = [], []
    for method, noise, length in product(methods, steps, lengths):
        rows = (
            targets.own_sentences(examples, ROWS[target], length)
            if own
            else targets.random_sentences(ROWS[target], length, 0)
        )
        cases.append((method.name, noise, length, len(rows.tokens)))
        attacked += [
            attack(network, rows, row, method, noise, config.seed)
            for row in range(len(rows.tokens))
        ]
    shares = iter(recovered(network, attacked, skip=int(own)))
    cells = [
        Cell(target, name, rank, noise is not None, length, sum(islice(shares, count)) / count)
        for name, noise, length, count in cases
    ]
    for start in range(0, len(cells), len(lengths)):
        line = cells[start : start + len(lengths)]
        label = f"{line[0].method}, rank {rank}{', private' if line[0].private else ''}"
        print(f"{label:<26}" + "".join(f"{c.recovered:>8.2f}" for c in line), flush=True)
    return cells


def _labels(
    target: str,
    config: Config,
    examples: Examples,
    rank: int,
    steps: Sequence[Noise | None],
) -> list[dict[str, Any]]:
    """Label counts read from a trained head."""
    from ffalora_cli.audit.attack import targets
    from ffalora_cli.audit.attack.inversion import label_counts_exact

    count, length = LABEL_BATCH * LABEL_BATCHES, 12
    own = target == "model"
    network = targets.own_network(config, rank) if own else targets.random_network(rank, 0)
    rows = (
        targets.shuffled(targets.own_sentences(examples, count, length), config.seed)
        if own
        else targets.random_sentences(count, length, 0)
    )
    found = []
    for noise in steps:
        exact, tried = label_counts_exact(network, rows, LABEL_BATCH, noise, config.seed)
        found.append(
            {"victim": target, "private": noise is not None, "exact": exact, "batches": tried}
        )
    return found


def _closing(labels: Sequence[dict[str, Any]], noise: Noise | None) -> list[str]:
    """Label counts, the noise, and what all of it means."""
    parts = [
        f"{found['victim']}{' private' if found['private'] else ''} "
        f"{found['exact']} of {found['batches']}"
        for found in labels
    ]
    lines = ["", *labelled("labels", f"counts of a batch of {LABEL_BATCH}: " + ", ".join(parts))]
    if noise is not None:
        lines += labelled(
            "private",
            f"noise {noise.multiplier:.4f} x clip {noise.max_grad_norm} on one clipped example",
        )
    return lines + labelled("meaning", _MEANING)
