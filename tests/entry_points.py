"""A package beside ours for one test, as ``pip install`` leaves it."""

from __future__ import annotations

import sys


def install(folder, monkeypatch, group, source, names):
    """Put module ``toys`` of ``source`` on the path; entry point ``name`` is its ``NAME``."""
    (folder / "toys.py").write_text(source)
    offer(folder, "toys", {group: {name: f"toys:{name.upper()}" for name in names}})
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "toys", raising=False)


def offer(folder, name, offers):
    """Write what a package of modules in ``folder`` offers: {group: {name: place}}."""
    about = folder / f"{name}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = []
    for group, named in offers.items():
        lines += [f"[{group}]", *(f"{key} = {place}" for key, place in named.items()), ""]
    (about / "entry_points.txt").write_text("\n".join(lines))
