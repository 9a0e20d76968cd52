"""``ffalora ls``: what can be chosen, and what was run, from the files; no Hydra, no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.streams import WIDTH
from ffalora_cli.cli.screen.streams import width as screen_width
from ffalora_cli.compose import catalogue
from ffalora_cli.config.errors import choose

_SINGULAR = {
    "tasks": "task",
    "models": "model",
    "methods": "method",
    "partitions": "partition",
    "experiments": "experiment",
    "federations": "federation",
    "privacy": "privacy",
    "engines": "engine",
    "trackings": "tracking",
    "debugs": "debug",
}


def main(arguments: Sequence[str]) -> int:
    """Print one group, the names of all groups, or the runs."""
    if arguments[:1] == ["runs"]:
        from ffalora_cli.cli import run_list

        return run_list.main(arguments[1:])
    examples = "examples:\n  ffalora ls methods\n  ffalora ls runs method=lora --state done"
    parser = Parser("ls", "List what can be chosen, or runs.", examples)
    parser.add_argument("what", nargs="?", help=", ".join(["runs", *list(_SINGULAR)[:7]]))
    what = parser.read(arguments).what
    if what is None:
        for group in catalogue.groups():
            print(_entry(group, ", ".join(catalogue.options(group))))
        return DONE
    group = _SINGULAR.get(what, what)
    if group not in catalogue.groups():
        raise choose("", what, ("runs", *_SINGULAR))
    for option in catalogue.options(group):
        print(_entry(option, catalogue.describe(group, option)))
        if group == "method":
            print(_declaration(option))
    print(f"\nchoose one with: ffalora run {group}=NAME")
    return DONE


def _entry(name: str, text: str, width: int = 18) -> str:
    return textwrap.fill(
        text,
        width=min(WIDTH, screen_width()),
        initial_indent=name.ljust(width),
        subsequent_indent=" " * width,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _declaration(name: str) -> str:
    """What a method says about itself, under its name."""
    from ffalora_cli.methods import registry

    method = registry.get(name)
    lines = [
        method.reference,
        method.travels,
        f"up   {method.uplink_formula}",
        f"down {method.downlink_formula}",
        f"privacy units: {', '.join(sorted(method.units))}",
    ]
    return "\n".join(_entry("", line) for line in lines) + "\n"
