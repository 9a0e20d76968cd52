"""Code blocks of the README and docs, and how a test runs them.

Every block is run. Conventions, all visible to who reads the source of a page:

- ``bash``: every line is a command. ``RUN`` (``RUNS``) is a finished run, ``DATA`` a folder of
  tasks, ``MODEL`` a folder of weights, ``DIR`` a folder to write to. Runs are cut down: a tiny
  model, ``debug=tiny``, few rounds, ``privacy=none`` unless the command speaks of privacy
  (calibration takes longer than such a run); everything else is as it stands there.
- ``python``: run after the block before it, in the same folder.
- ``yaml``, ``json`` and ``toml`` are parsed; ``text``, ``mermaid`` and the like are not code.
- ``<!-- test: file PATH -->`` before a block: its text is that file for the rest of the page;
  what a ``pyproject.toml`` offers by entry points is installed.
- ``<!-- test: together -->``: its commands build on one another, on rows of one's own in
  ``news.csv``: they are played in order (``test_getting_started.py``), not one by one.
- ``<!-- test: skip REASON -->``: not run, for this reason. A test counts them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
NOT_CODE = {"", "text", "mermaid", "csv", "latex", "html", "diff"}
SLOW = {"run", "sweep", "tune", "audit", "attack", "export"}  # verbs that take seconds
_BLOCK = re.compile(
    r"(?:<!-- test: (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block and the note before it."""

    page: str
    line: int
    language: str
    text: str
    note: str = ""

    @property
    def skip(self) -> str:
        """Why it is not run; empty: it is."""
        return self.note.removeprefix("skip ") if self.note.startswith("skip ") else ""

    @property
    def together(self) -> bool:
        """Whether its commands are played in order alone."""
        return self.note == "together"

    @property
    def file(self) -> str:
        """Path that it is the text of; empty: it is no file."""
        return self.note.removeprefix("file ") if self.note.startswith("file ") else ""

    @property
    def commands(self) -> list[str]:
        """Lines without comments."""
        lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in self.text.splitlines()]
        return [line for line in lines if line] if self.language in ("bash", "sh") else []


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        note = found["note"] or ""
        yield Block(page.name, line, found["language"], found["text"], note)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
WITH_FILES = {block.page for block in BLOCKS if block.file}


def words_of(command: str) -> list[str]:
    """A command's words after ``ffalora``; that of a ``$(ffalora ...)`` within it."""
    inner = re.search(r"\$\((ffalora [^)]*)\)", command)
    return shlex.split(inner[1] if inner else command)[1:]


def filled(words: list[str], run: str, data: Path, model: Path) -> list[str]:
    """The placeholders' values in place."""
    values = {"RUN": run, "RUNS": run, "DATA": str(data), "MODEL": str(model)}
    return [re.sub(r"\b(RUNS?|DATA|MODEL)\b", lambda m: values[m[1]], word) for word in words]


def cut_down(words: list[str], data: Path, model: Path | None) -> list[str]:
    """A ``run`` with few rounds of few steps on a tiny model, everything else as it stands."""
    kept = []
    for word in words:
        key, _, value = word.partition("=")
        if key in ("federation.rounds", "federation.local_steps", "hydra.sweeper.n_trials"):
            word = f"{key}={min(int(value), 2)}"
        if key == "model" and model is not None:
            continue
        kept.append(word)
    given = {word.partition("=")[0] for word in kept}
    if model is not None and "model.source" not in given:
        kept += ["model=auto", f"model.source={model}"]
    elif model is not None:
        kept.append("model=auto")
    kept += [] if "debug" in given else ["debug=tiny"]
    kept += [] if any(key.startswith("privacy") for key in given) else ["privacy=none"]
    return kept + ([] if "paths.data" in given else [f"paths.data={data}"])
