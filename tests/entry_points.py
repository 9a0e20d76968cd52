"""A package beside ours for one test, as ``pip install`` leaves it."""

from __future__ import annotations


def install(folder, monkeypatch, group, source, names):
    """Put module ``toys`` of ``source`` on the path; entry point ``name`` is its ``NAME``."""
    (folder / "toys.py").write_text(source)
    about = folder / "toys-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    lines = [f"[{group}]", *(f"{name} = toys:{name.upper()}" for name in names)]
    (about / "entry_points.txt").write_text("\n".join([*lines, ""]))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "toys", raising=False)
