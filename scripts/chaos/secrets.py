"""Planted secrets: keys in the environment of real runs, then a search through all they left.

Four runs: one sent to W&B offline; one that fails inside, with the key in the error's text;
and two that were typed with a key in an override, where it would fit and where it does not, which
must be refused. A secret counts as found when any twelve characters of it are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.chaos.workload import Row, overrides, tiny_model

PLANTED = {
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f9e8d7c",
    "HF_TOKEN": "hf_PlantedTokenOfNobody0123456789",
    "AWS_SECRET_ACCESS_KEY": "PlantedSecret/AWS+0123456789abcdef",
    "DATABASE_PASSWORD": "PlantedPassword0123",
}
_FAILS = """
import sys, os
from ffalora_cli.experiment.session import Session
def commit(self, record):
    token = os.environ["HF_TOKEN"]
    raise RuntimeError(f"no answer for {token} and {os.environ['WANDB_API_KEY']}")
Session.commit = commit
from ffalora_cli.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def secrets(count: int = 0, seed: int = 0) -> Row:
    """Each secret is looked for in what each of three runs left, wrote and said."""
    del count, seed
    row = Row("planted secrets", "found 0 times in all artefacts and output")
    pieces = {key: _pieces(secret) for key, secret in PLANTED.items()}
    with tempfile.TemporaryDirectory(prefix="ffalora-secrets-") as name:
        root = Path(name)
        settings = [*overrides(tiny_model(root / "model"), "private", rounds=1), "--quiet"]
        for kind, code in (("tracked", 0), ("failing", 1), ("typed", 2), ("misplaced", 2)):
            folder = root / kind
            folder.mkdir()
            got, said = play(kind, folder, settings)
            row.count(None if got == code else f"{kind}: exit code {got}: {said[-300:]!r}")
            places = [(str(f), f.read_bytes()) for f in folder.rglob("*") if f.is_file()]
            records = decoded(folder)
            if kind == "tracked" and not any(b"bbc_news" in content for _, content in records):
                row.count("tracked: the search does not see what W&B's files hold")
            row.notes.append(f"{kind}: {len(places)} files")
            for place, content in [*places, *records, ("output", said)]:
                found = [key for key in PLANTED if any(piece in content for piece in pieces[key])]
                row.count(f"{kind}: {found} in {place}" if found else None)
    return row


def _pieces(secret: str) -> list[bytes]:
    """Every twelve characters of it: what is cut to fit a line may leave half a key."""
    return [secret[at : at + 12].encode() for at in range(len(secret) - 11)]


def play(kind: str, folder: Path, settings: list[str]) -> tuple[int, bytes]:
    """One run in a process of its own, everything it can write below ``folder``; code, output."""
    environment = {**os.environ, **PLANTED, "HOME": str(folder), "FFALORA_TRACEBACK": "1"}
    environment |= {"FFALORA_CACHE": str(folder / "cache"), "WANDB_MODE": "offline"}
    environment |= {"TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    start = ["-c", _FAILS] if kind == "failing" else ["-m", "ffalora_cli.cli.main"]
    more = [f"paths.runs={folder}/runs", "tracking=wandb"]
    if kind == "typed":
        more.append(f"tracking.project={PLANTED['WANDB_API_KEY']}")
    if kind == "misplaced":
        more.append(f"federation.rounds={PLANTED['WANDB_API_KEY']}")
    command = [sys.executable, *start, "run", *settings, *more]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=folder, timeout=300)
    return done.returncode, done.stdout + done.stderr


def decoded(folder: Path) -> list[tuple[str, bytes]]:
    """The records of W&B's binary files, which are cut into blocks on disk."""
    from tests.records.test_tracker_wandb import entries

    return [
        (f"{file.name}, decoded", b"".join(entry.SerializeToString() for entry in entries(file)))
        for file in folder.rglob("*.wandb")
    ]
