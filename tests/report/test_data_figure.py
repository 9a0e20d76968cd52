"""The picture of a partition is written, holds its labels, and is the same for the same table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.figures.partition import draw

TABLE = np.array([[1985, 22541], [17868, 2505], [9927, 12523]])


@pytest.mark.parametrize("suffix, head", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_format_follows_the_suffix(tmp_path: Path, suffix: str, head: bytes) -> None:
    path = draw(TABLE, ["negative", "positive"], tmp_path / f"new/split.{suffix}", "SST-2")
    assert path.read_bytes().startswith(head)


def test_bars_say_sizes_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # keep text as text
    text = draw(TABLE, ["negative", "positive"], tmp_path / "a.svg", "SST-2 severe").read_text()
    for word in ("SST-2 severe", "negative", "positive", "24,526", "20,373", "22,450"):
        assert word in text


@pytest.mark.parametrize("clients, classes", [(100, 5), (3, 77), (1000, 151), (1, 2)])
def test_any_shape_is_drawn(tmp_path: Path, clients: int, classes: int) -> None:
    table = np.random.default_rng(0).integers(0, 9, (clients, classes))
    table[0] = 0  # an empty client divides nothing by zero
    names = [f"class {label}" for label in range(classes)]
    with np.errstate(all="raise"):
        assert draw(table, names, tmp_path / "a.png", "many").stat().st_size > 5000


def test_other_suffixes_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.png"):
        draw(TABLE, ["negative", "positive"], tmp_path / "a.jpg", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw(TABLE, ["negative", "positive"], tmp_path / "file" / "a.png", "")
