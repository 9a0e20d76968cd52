"""Packages that offer tasks, forms or methods, as ``pip install`` leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, offers: Mapping[str, Mapping[str, str]]) -> None:
    """Write what a package says of itself beside its modules in ``folder``."""
    about = folder / f"{name}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = []
    for group, named in offers.items():
        lines += [f"[{group}]", *(f"{key} = {place}" for key, place in named.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))
