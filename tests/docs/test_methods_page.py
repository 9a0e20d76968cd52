"""The table of ``docs/methods.md`` says what the methods' files declare."""

from __future__ import annotations

import re

from ffalora_cli.compose import catalogue
from ffalora_cli.methods import registry
from tests import ROOT

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
LETTERS = {"lora_a": "A", "lora_b": "B"}


def row(name: str) -> str:
    """The row of a method, as it has to stand there."""
    method = registry.get(name)
    odd, even = (" and ".join(LETTERS[f] for f in method.exchange(n).trained) for n in (1, 2))
    trains = odd if odd == even else f"{odd} (odd rounds), {even} (even)"
    refused = sorted({"none", "row", "text", "column", "client"} - method.units)
    formulas = (
        f"`{f}`".replace("|", "\\|") for f in (method.uplink_formula, method.downlink_formula)
    )
    return f"| `{name}` | {trains} | {' | '.join(formulas)} | {', '.join(refused) or '-'} |"


def test_the_table_is_that_of_the_registry():
    table = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert table == [row(name) for name in registry.names()], "\n".join(map(row, registry.names()))


def test_every_method_is_described_and_no_other():
    described = re.findall(r"^- \*\*`(\w+)`\*\*", PAGE, flags=re.MULTILINE)
    assert sorted(described) == registry.names() == sorted(catalogue.options("method"))


def test_bytes_of_the_example_are_those_of_the_formulas():
    """12 layers of MiniLM, 384 wide, rank 8, four bytes: the numbers in the text."""
    from ffalora_cli.types import Site

    site = Site("x", 384, 384)
    for name, stated in re.findall(r"`(\w+)` ([\d,]+) B up", PAGE):
        elements = registry.get(name).uplink_elements(site, 8, 1)
        assert 12 * 4 * elements == int(stated.replace(",", "")), name
    assert PAGE.count(" B up") >= 2
