"""The config room is standard library only, and the command line starts without heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "hydra", "omegaconf", "rich", "numpy", "transformers", "matplotlib", "yaml")


def loaded_after(code: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a fresh interpreter that ran ``code``."""
    script = (
        f"{code}\nimport sys; print('\\n' + ' '.join({{n.split('.')[0] for n in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import ffalora_cli.config.build, ffalora_cli.config.rules, ffalora_cli.config.signature",
        "from ffalora_cli.cli.main import main; main(['--help'])",
        "from ffalora_cli.cli.main import main; main(['ls', 'tasks'])",
        "from ffalora_cli.cli.main import main; main(['ls', 'methods'])",
    ],
)
def test_nothing_heavy_is_imported(code) -> None:
    loaded = loaded_after(code)
    assert "ffalora_cli" in loaded
    assert not loaded & set(HEAVY)


def test_composing_needs_no_torch() -> None:
    loaded = loaded_after("from ffalora_cli.compose.jobs import plan; plan([])")
    assert "hydra" in loaded
    assert "torch" not in loaded
