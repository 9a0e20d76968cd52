"""``ffalora partition``: the clients × labels table of a configuration, printed and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.jobs import plan
from ffalora_cli.cli.units import count
from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

_SUFFIXES = (".png", ".svg", ".pdf")
_CLASSES = 6  # more do not fit 80 columns: then a client's largest labels are named instead
_CELLS = 62  # characters beside client and rows
_CLIENTS = 40  # rows printed; the picture has them all

_EXAMPLES = """\
examples:
  ffalora partition partition=dirichlet partition.dirichlet_alpha=0.1 federation.num_clients=10
  ffalora partition experiment=glue_sst2_dp paths.data=DATA --figure split.svg"""


def main(arguments: Sequence[str]) -> int:
    """Print the table and save its picture."""
    parser = Parser("partition", "Print and draw which client gets which labels.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("--figure", default="partition.png", help="png, svg or pdf file to write")
    options = parser.read(arguments)
    figure = Path(options.figure).expanduser()
    if figure.suffix not in _SUFFIXES:
        raise ConfigError(f"--figure {figure.name}: give a file ending in {', '.join(_SUFFIXES)}")
    if not figure.parent.is_dir():
        raise ConfigError(f"--figure {figure}: folder {figure.parent} is not there; make it first")
    (job,) = plan(options.overrides)
    from ffalora_cli.experiment import client_table
    from ffalora_cli.report.partition_figure import draw

    counts, classes, sizes = client_table(job.config)
    for line in lines(counts, classes, sizes):
        print(line)
    partition = job.config.partition
    scheme = partition.label_mix or partition.name
    title = f"{job.config.task.name}, {scheme}, seed {partition.seed}"
    draw(counts, classes, figure, title)
    print(f"\npicture   {figure}")
    return DONE


def lines(counts: np.ndarray, classes: Sequence[str], sizes: np.ndarray) -> list[str]:
    """The table as text.

    Args:
        counts: int ``[clients, classes]``.
        classes: class names.
        sizes: rows of each client, int ``[clients]``.

    Returns:
        Lines of at most 80 characters: all classes when they fit, else each client's largest.
    """
    head = f"{'client':>7} {'rows':>9} "
    if len(classes) <= _CLASSES:
        width = min(14, (80 - len(head)) // len(classes) - 1)
        cells = [" ".join(count(int(n)).rjust(width) for n in row) for row in counts]
        head += " ".join(name[:width].rjust(width) for name in classes)
        total = " ".join(count(int(n)).rjust(width) for n in counts.sum(0))
    else:
        cells = [_largest(row, classes) for row in counts]
        head += "labels, largest first"
        total = f"{int((counts.sum(0) > 0).sum())} labels"
    body = [
        f"{client:>7} {count(int(size)):>9} {text}"
        for client, (size, text) in enumerate(zip(sizes, cells, strict=True))
    ]
    if len(body) > _CLIENTS:
        body = [*body[:_CLIENTS], f"{'...':>7} {len(body) - _CLIENTS} more clients"]
    return [head, *body, f"{'all':>7} {count(int(sizes.sum())):>9} {total}"]


def _largest(row: np.ndarray, classes: Sequence[str]) -> str:
    """``12 labels: weather 30 %, alarm 22 %, ...`` in what is left of 80 columns."""
    present = int((row > 0).sum())
    order = row.argsort(kind="stable")[::-1][: min(present, _CLASSES)]
    shares = ", ".join(f"{classes[i]} {100 * row[i] / row.sum():.0f} %" for i in order)
    text = f"{present} label{'' if present == 1 else 's'}: {shares}"
    return text if len(text) <= _CELLS else f"{text[: _CELLS - 3]}..."
