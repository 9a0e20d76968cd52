"""``ffalora partition``: the clients × labels table of a configuration, printed and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import OVERRIDES, Parser, file_to_write
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.units import count
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, counted, one_line
from ffalora_cli.report.figures.files import SUFFIXES

if TYPE_CHECKING:
    import numpy as np

    from ffalora_cli.config.schema import Config
    from ffalora_cli.experiment.population import ClientTable

_CLASSES = 6  # more do not fit 80 columns: then a client's largest labels are named instead
_NAME = 30  # characters of a client's name
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
    if Path(options.figure).suffix not in SUFFIXES:
        name = Path(options.figure).name
        raise ConfigError(f"--figure {name}: give a file ending in {', '.join(SUFFIXES)}")
    figure = file_to_write("--figure", options.figure)
    (job,) = plan(options.overrides)
    from ffalora_cli.experiment import client_table
    from ffalora_cli.report.figures.partition import draw

    found = client_table(job.config)
    for line in lines(found):
        print(line)
    partition = job.config.partition
    scheme = partition.label_mix or partition.name
    title = f"{job.config.task.name}, {scheme}, seed {partition.seed}"
    draw(found.counts, found.strata, figure, title)
    print()
    for line in closing(found, job.config, figure):
        print(line)
    return DONE


def lines(found: ClientTable) -> list[str]:
    """The table as text: clients by name where the data names them, units where rows share one.

    Args:
        found: of the configuration.

    Returns:
        Lines of at most 80 characters: all classes when they fit, else each client's largest.
    """
    counts, classes, sizes = found.counts, found.strata, found.sizes
    names = [str(client) for client in range(len(sizes))]
    if found.names is not None:
        names = [one_line(name)[:_NAME] or "-" for name in found.names]
    wide = max(7, *map(len, names[:_CLIENTS]))
    columns = [("rows", sizes)]
    if (found.units < sizes).any():
        columns.append(("units", found.units))

    def begin(name: str, numbers: Sequence[str]) -> str:
        return f"{name:>{wide}} " + " ".join(f"{number:>9}" for number in numbers) + " "

    head = begin("client", [title for title, _ in columns])
    if len(classes) == 1:  # no labels: the number of rows says it all
        cells, labels, total = [""] * len(counts), "", ""
    elif len(classes) <= _CLASSES:
        width = min(14, (80 - len(head)) // len(classes) - 1)
        cells = [" ".join(count(int(n)).rjust(width) for n in row) for row in counts]
        labels = " ".join(name[:width].rjust(width) for name in classes)
        total = " ".join(count(int(n)).rjust(width) for n in counts.sum(0))
    else:
        cells = [_largest(row, classes, 80 - len(head)) for row in counts]
        labels = "labels, largest first"
        total = f"{counted(int((counts.sum(0) > 0).sum()), 'label')}"
    body = [
        begin(name, [count(int(values[client])) for _, values in columns]) + cells[client]
        for client, name in enumerate(names)
    ]
    if len(body) > _CLIENTS:
        body = [*body[:_CLIENTS], f"{'...':>{wide}} {counted(len(body) - _CLIENTS, 'more client')}"]
    everybody = begin("all", [count(int(values.sum())) for _, values in columns]) + total
    return [line.rstrip() for line in (head + labels, *body, everybody)]


def closing(found: ClientTable, config: Config, figure: Path) -> list[str]:
    """What the units are, what was left out, and where the picture is."""
    said: list[str] = []
    if config.privacy.unit == "text" and (found.units < found.sizes).any():
        said += labelled(
            "units",
            "texts of a client; rows that are one sequence to the model are one unit as well "
            "(ffalora plan)",
        )
    for note in found.notes:
        said += labelled("warning", note)
    return said + labelled("picture", str(figure))


def _largest(row: np.ndarray, classes: Sequence[str], width: int) -> str:
    """``12 labels: weather 30 %, alarm 22 %, ...`` in so many characters."""
    present = int((row > 0).sum())
    order = row.argsort(kind="stable")[::-1][: min(present, _CLASSES)]
    shares = ", ".join(f"{classes[i]} {100 * row[i] / row.sum():.0f} %" for i in order)
    text = f"{counted(present, 'label')}: {shares}"
    return text if len(text) <= width else f"{text[: width - 3]}..."
