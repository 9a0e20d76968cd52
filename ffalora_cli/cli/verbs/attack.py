"""``ffalora attack``: what one step's gradient gives away, with and without privacy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice, product
from typing import TYPE_CHECKING, Any

from ffalora_cli.cli.arguments import OVERRIDES, Parser, file_to_write
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.schema import TEXT_CLASSIFICATION
from ffalora_cli.methods import registry

if TYPE_CHECKING:
    from ffalora_cli.audit.attack.inversion import Noise
    from ffalora_cli.audit.attack.targets import Victim
    from ffalora_cli.config.schema import Config
    from ffalora_cli.methods.base import Method
    from ffalora_cli.types import Examples

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
    file = file_to_write("--json", options.json) if options.json else None
    (job,) = plan([text for text in options.overrides if text != "invert"])
    config = job.config
    if config.task.kind != TEXT_CLASSIFICATION:
        raise ConfigError(
            f"task.kind={config.task.kind}: ffalora attack recovers the tokens of classified texts "
            "and their labels, nothing else; choose a task of text_classification, as in task=sst2"
        )
    if options.dp != "off" and not config.privacy.inside_clients:
        raise ConfigError(
            f"privacy.unit={config.privacy.unit}: no noise is added to an example's step; "
            "choose privacy=text or --dp off"
        )
    from ffalora_cli.audit.attack.targets import victims

    methods = _methods(options.methods or f"lora,{config.method.name}")
    examples, noise = _rows_and_noise(config, options.dp != "off")
    steps = {"off": (None,), "on": (noise,), "both": (None, noise)}[options.dp]
    cells, labels = [], []
    for victim in victims(config, examples):
        print(f"\n{victim.title}: share of positions whose exact token ranks first")
        print(f"{'tokens':<26}" + "".join(f"{n:>8}" for n in lengths))
        for rank in ranks:
            cells += _table(victim, rank, product(methods, steps, lengths), config.seed)
        labels += _labels(victim, ranks[0], steps, config.seed)
    for line in _closing(labels, noise):
        print(line)
    if file is not None:
        found: dict[str, Any] = {"cells": [asdict(cell) for cell in cells], "label_counts": labels}
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


def _rows_and_noise(config: Config, private: bool) -> tuple[Examples, Noise | None]:
    """The run's training rows, and the mechanism of its client with the least noise."""
    from ffalora_cli.audit.attack.inversion import Noise
    from ffalora_cli.audit.attack.targets import own_rows
    from ffalora_cli.privacy.planning.make import make_plan

    examples, sizes = own_rows(config)
    if not private:
        return examples, None
    exchanges = registry.get(config.method.name).exchanges()
    planned = make_plan(config.privacy, sizes, config.federation, (), exchanges=exchanges)
    if planned is None:
        return examples, None
    return examples, Noise(float(planned.noise_multiplier.min()), planned.max_grad_norm)


def _table(
    victim: Victim, rank: int, cases: Iterable[tuple[Method, Noise | None, int]], seed: int
) -> list[Cell]:
    """Measure and print the lines of one rank; a case is a method, its noise and a length."""
    from ffalora_cli.audit.attack.inversion import attack, recovered

    network = victim.network(rank)
    counted, attacked = [], []
    for method, noise, length in cases:
        rows = victim.sentences(victim.rows, length)
        counted.append((method.name, noise is not None, length, len(rows.tokens)))
        attacked += [
            attack(network, rows, row, method, noise, seed) for row in range(len(rows.tokens))
        ]
    shares = iter(recovered(network, attacked, skip=victim.public))
    cells = [
        Cell(victim.name, name, rank, private, length, sum(islice(shares, count)) / count)
        for name, private, length, count in counted
    ]
    for (name, private), line in groupby(cells, key=lambda cell: (cell.method, cell.private)):
        label = f"{name}, rank {rank}{', private' if private else ''}"
        print(f"{label:<26}" + "".join(f"{c.recovered:>8.2f}" for c in line), flush=True)
    return cells


def _labels(
    victim: Victim, rank: int, steps: Sequence[Noise | None], seed: int
) -> list[dict[str, Any]]:
    """Label counts read from a trained head."""
    from ffalora_cli.audit.attack.inversion import label_counts_exact
    from ffalora_cli.audit.attack.targets import shuffled

    network, rows = victim.network(rank), victim.sentences(LABEL_BATCH * LABEL_BATCHES, 12)
    rows = shuffled(rows, seed) if victim.name == "model" else rows
    found = []
    for noise in steps:
        exact, tried = label_counts_exact(network, rows, LABEL_BATCH, noise, seed)
        private = noise is not None
        found.append({"victim": victim.name, "private": private, "exact": exact, "batches": tried})
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
