"""Every format says the same numbers, and is what it claims to be: strict, escaped, compiling."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.runs.selection import select_runs
from ffalora_cli.report.table import formats, side_by_side
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.rows import Question
from tests.made_runs import write_run

FINALS = {"lora": [0.5, 0.54], "ffa_lora": [0.6, 0.61]}
HOSTILE = formats.Grid(
    ("a_b", r"50 % & \more"),
    (("x|y #1 {z}", "~1 ± 2 * $3^4 <b>"), ("[q,v]", "-"), ("x", "−1")),
    1,
    ("note_one: 100 % of $ & # ~ ^ \\ {} α − ε – ≤",),
    {(0, 1): "best", (2, 1): "tied"},
    {"best": "more_is_better", "tied": "100 % as good"},
)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    for method, finals in FINALS.items():
        for seed, final in enumerate(finals):
            write_run(runs, [f"method={method}", f"seed={seed}"], [0.2, final])
    write_run(runs, ["method=lora", "privacy=none"], [0.2, 0.7])
    return compare(select_runs(runs), Question(by=("method", "privacy.epsilon_target")))


def test_grid_shows_percents_intervals_and_dashes(comparison) -> None:
    grid = side_by_side.grid(comparison)
    assert grid.head == (
        "method", "ε", "accuracy %", "sd", "vs LoRA", "n", "ε spent", "up B", "s a run",
    )  # fmt: skip
    half = 12.706204736 * np.std(FINALS["ffa_lora"], ddof=1) / np.sqrt(2) * 100
    lora, plain, ffa = grid.rows
    assert ffa[:3] == ("FFA-LoRA", "6", f"60.50 ± {half:.2f}")
    assert lora[4] == plain[4] == "baseline"
    assert plain == ("LoRA", "no privacy", "70.00", "-", "baseline", "1", "-", "100.00", "1.0")
    assert {place for place, rank in grid.marks.items() if rank} == {(1, 2)}
    assert grid.marks[1, 2] == "best" and ffa[6] == "6.00"


def test_csv_has_plain_numbers(comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(side_by_side.as_csv(comparison))))
    assert [row["method"] for row in rows] == ["lora", "lora", "ffa_lora"]
    assert float(rows[2]["eval/accuracy:mean"]) == pytest.approx(np.mean(FINALS["ffa_lora"]))
    assert float(rows[2]["eval/accuracy:minus_baseline"]) == pytest.approx(0.085)
    assert rows[2]["eval/accuracy:minus_baseline_pairs"] == "2"
    assert rows[1]["eval/accuracy:sd"] == rows[1]["epsilon"] == ""
    assert float(rows[0]["uplink_bytes"]) == 100.0


def test_json_is_strict_and_complete(comparison) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads(side_by_side.as_json(comparison), parse_constant=refuse)
    assert content["schema_version"] == 1
    row = content["rows"][2]
    metric = row["metrics"]["eval/accuracy"]
    low, high = metric["interval95"]
    assert (low + high) / 2 == pytest.approx(metric["mean"]) == pytest.approx(0.605)
    assert metric["minus_baseline"]["pairs"] == ["seed 0", "seed 1"]
    assert row["settings"] == {"method": "ffa_lora", "privacy.epsilon_target": "6"}
    assert row["baseline"] == {"method": "lora", "privacy.epsilon_target": "6"}
    assert len(row["runs"]) == 2
    assert content["rows"][1]["metrics"]["eval/accuracy"]["interval95"] is None
    assert content["rows"][1]["epsilon"] is None


def test_markdown_has_as_many_cells_in_every_line(comparison) -> None:
    for grid in (side_by_side.grid(comparison), HOSTILE):
        lines = [x for x in formats.markdown(grid).splitlines() if x.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert counts == {len(grid.head) + 1}
        assert len(lines) == len(grid.rows) + 2


def test_latex_escapes_and_is_balanced(comparison) -> None:
    text = formats.latex(HOSTILE)
    body = text.replace(r"\&", "").split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert body.count("&") == 4  # one in the head, one in each row
    assert not re.search(r"(?<!\\)[%$#_]", re.sub(r"\$(\\pm|-)\$", "", body))
    assert r"\textbf{\textasciitilde{}1 $\pm$ 2" in body and r"{[}q,v] & --" in body
    assert not re.search(r"\\\\\s*\[", text)  # an argument of the line's end
    assert r"\underline{$-$1}" in body
    assert r"bold: more\_is\_better; underlined: 100 \% as good.\par" in text
    for name in ("table", "tabular"):  # few columns: beside another column of text
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    whole = formats.latex(side_by_side.grid(comparison))
    assert whole.count(r"\\") == 4
    assert whole.count("{table*}") == 2 and "{table}" not in whole  # across both


STEERING = formats.Grid(("a\nb",), (("x\r\x1b[31m`c` [t](u) $m$ &lt;",),), 1, ("n\n\x1b]0;",))


def test_no_name_steers_a_terminal_or_a_page() -> None:
    shown = formats.text(STEERING)
    assert (shown.head, shown.notes) == (("a b",), ("n  ]0;",))
    for text in (shown.rows[0][0], formats.markdown(STEERING), formats.latex(STEERING)):
        assert all(line.isprintable() for line in text.split("\n"))
    assert r"\`c\` \[t](u) \$m\$ &amp;lt;" in formats.markdown(STEERING)
    assert len(formats.markdown(STEERING).splitlines()) == 5
    assert "\na b \\\\\n" in formats.latex(STEERING)


@pytest.mark.parametrize(
    ("caption", "label"), [("a{b", ""), ("a}{b", ""), ("50 % of", ""), ("", "t}x"), ("a\\", "")]
)
def test_a_caption_or_label_that_would_end_its_command_is_refused(caption, label) -> None:
    with pytest.raises(ConfigError, match="ends it in LaTeX"):
        formats.latex(HOSTILE, caption, label)
    assert r"\caption{\emph{50} \% of}" in formats.latex(HOSTILE, r"\emph{50} \% of", "tab:a_b")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(comparison, tmp_path) -> None:
    tables = "\n".join(
        formats.latex(grid) for grid in (side_by_side.grid(comparison), HOSTILE, STEERING)
    )
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables}"
    (tmp_path / "t.tex").write_text(document + r"\end{document}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("options", ["", "twocolumn"])
def test_latex_is_no_wider_than_a_page(comparison, tmp_path, options) -> None:
    table = formats.latex(side_by_side.grid(comparison))
    document = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs}}\begin{{document}}"
    (tmp_path / "t.tex").write_text(f"{document}{table}\\end{{document}}", encoding="utf-8")
    command = ["pdflatex", "-interaction=batchmode", "t.tex"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    assert "Overfull" not in (tmp_path / "t.log").read_text(errors="replace")
