"""The folders in which a hostile case is played, and the pickle that most of them plant."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts.chaos.watch import Watch


@dataclass
class Scene:
    """Folders of one case.

    Attributes:
        root: of everything; ``outside`` in it must stay as it is.
        settings: overrides of the run that was begun.
        watch: over ``root``.
    """

    root: Path
    settings: list[str]
    watch: Watch

    @property
    def run(self) -> Path:
        """A copy of the run that was begun."""
        return self.root / "runs" / "run"

    @property
    def outside(self) -> Path:
        """Where nothing may be written."""
        return self.root / "outside"

    @property
    def sentinel(self) -> Path:
        """Made by every planted piece of code."""
        return self.root / "sentinel"

    def fresh(self, victim: bytes) -> None:
        """Everything as it was before the last case."""
        for name in ("runs", "outside", "evil", "data"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        self.sentinel.unlink(missing_ok=True)
        shutil.copytree(self.root / "begun" / "run", self.run)
        self.outside.mkdir()
        (self.outside / "victim").write_bytes(victim)

    def resume(self) -> list[str]:
        """Go on with the run."""
        return ["resume", str(self.run), "--quiet"]

    def payload(self) -> bytes:
        """A pickle that makes the sentinel when it is opened."""
        path = self.sentinel

        class Bomb:
            def __reduce__(self) -> tuple[object, ...]:
                return (os.system, (f"touch {path}",))

        return pickle.dumps(Bomb())
