"""``ffalora budget``: any two of epsilon, noise multiplier and steps give the third."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.units import count
from ffalora_cli.privacy.rounding import epsilon_text

_ACCOUNTANTS = ("pld", "rdp", "prv")
_NOTE = (
    "any unit of one client (row, text or column value: what --examples counts), add/remove one,\n"
    "Poisson sampling; noise sd in clips, on the sum"
)

_EXAMPLES = """\
examples:
  ffalora budget --examples 22450 --batch 200 --steps 10000 --epsilon 6 --delta 1e-5
  ffalora budget --examples 22450 --batch 200 --noise-multiplier 1 --epsilon 3 --delta 1e-5
  ffalora budget --examples 22450 --batch 200 --steps 1000 --epsilon 3 --delta 1e-5 \\
      --accountant all --plot budget.svg"""


def main(arguments: Sequence[str]) -> int:
    """Solve, print, draw."""
    parser = Parser("budget", "Plan the privacy of one client before any run.", _EXAMPLES)
    parser.add_argument("--examples", type=int, required=True, help="rows (or texts) of the client")
    parser.add_argument("--batch", type=int, required=True, help="expected local batch size")
    parser.add_argument("--delta", type=float, default=1e-5, help="default: 1e-5")
    parser.add_argument("--steps", type=int, help="local steps in all: rounds x local_steps")
    parser.add_argument("--epsilon", type=float, help="target that is not passed")
    parser.add_argument("--noise-multiplier", type=float, help="noise sd in units of the clip")
    parser.add_argument("--accountant", choices=(*_ACCOUNTANTS, "all"), default="pld")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--plot", help="png, svg or pdf file for the curves")
    options = parser.read(arguments)
    from ffalora_cli.privacy.planning.budget import solve

    names = _ACCOUNTANTS if options.accountant == "all" else (options.accountant,)
    found = [
        solve(
            name,
            options.examples,
            options.batch,
            options.delta,
            options.epsilon,
            options.noise_multiplier,
            options.steps,
        )
        for name in names
    ]
    if options.plot:
        from ffalora_cli.report.figures.budget import draw

        draw(found[0], Path(options.plot).expanduser())
    if options.format == "json":
        rows = [{**asdict(budget), "relation": "add/remove one"} for budget in found]
        print(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2))
        return DONE
    heads = f"{'epsilon':>9}{'delta':>9}{'noise multiplier':>18}{'rate':>10}{'steps':>9}"
    print(f"{'accountant':<12}{heads}")
    for b in found:
        print(
            f"{b.accountant:<12}{epsilon_text(b.epsilon, 4):>9}{b.delta:>9.3g}"
            f"{b.noise_multiplier:>18.5f}{b.sample_rate:>10.4g}{count(b.steps):>9}"
        )
    print(f"\n{_NOTE}")
    if options.plot:
        print(f"picture   {options.plot}")
    return DONE
