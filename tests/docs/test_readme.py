"""The names that the catalogue lists are the names there are; the README stays a first read."""

from __future__ import annotations

import re

from ffalora_cli.compose import catalogue
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CATALOGUE = (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")


def test_the_table_of_names_is_complete():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", CATALOGUE, flags=re.MULTILINE)
    listed = {group: set(expand(names)) for group, names in rows}
    assert set(listed) == set(catalogue.groups()) - {"debug"}
    for group, names in listed.items():
        assert names == set(catalogue.options(group)), group


def expand(text: str) -> list[str]:
    """Words, with one {a,b}{c,d} pattern expanded as a shell would."""
    words = []
    for word in text.split():
        options = [word]
        while any("{" in o for o in options):
            options = [
                o.replace(m.group(0), choice, 1)
                for o in options
                for m in [re.search(r"\{([^}]*)\}", o)]
                for choice in m.group(1).split(",")
            ]
        words += options
    return words


def test_the_readme_is_a_first_read_and_its_pages_are_there():
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) < 700
    pages = re.findall(r"\]\((docs/[\w-]+\.md)\)", README)
    assert {ROOT / page for page in pages} == set(ROOT.glob("docs/*.md"))
