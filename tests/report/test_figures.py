"""Curves and their spread against plain loops; letters, colours and legends as they are drawn."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ffalora_cli import metric_keys
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.metric_keys import CLIENT_DRIFT, GAP, NOISE_RATIO
from ffalora_cli.report.csv_text import csv_text
from ffalora_cli.report.figures import clients, curves, mechanism, pareto
from ffalora_cli.report.figures.files import save
from ffalora_cli.report.figures.pareto import Point, mark_best
from ffalora_cli.report.figures.places import places
from ffalora_cli.report.figures.series import curve, epsilon_terms, group_runs, points
from ffalora_cli.report.figures.style import COLUMN, PENS, pen, plain_numbers, styled
from ffalora_cli.report.runs.statistics import summarize
from tests.made_runs import made_run, statement

FIRST, SECOND = [0.2, 0.4, 0.5, 0.7], [0.3, 0.3, 0.6, 0.8]


@pytest.fixture
def seeds(tmp_path):
    """Two seeds of one private configuration; the second sends half as much a round."""
    return [
        made_run(tmp_path, ["seed=0"], FIRST, seconds=2.0),
        made_run(tmp_path, ["seed=1"], SECOND, per_round=0.5e6, seconds=3.0),
    ]


def held(pairs: list[tuple[float, float]], place: float) -> float:
    """The last value at or before a place, by a loop."""
    found = math.nan
    for x, y in pairs:
        if x <= place:
            found = y
    return found


def test_rounds_are_averaged_where_all_runs_were_scored(tmp_path):
    runs = [
        made_run(tmp_path, ["seed=0"], [0.2, 0.4, 0.6, 0.8]),
        made_run(tmp_path, ["seed=1"], [0.4, 0.5, 0.9], rounds=[0, 2, 5]),
    ]
    (group,) = group_runs(runs).groups
    line = curve(group, "round", "eval/accuracy")
    assert line.x.tolist() == [0, 2]
    assert line.mean == pytest.approx([0.3, 0.55])
    assert line.sd == pytest.approx([statistics.stdev([0.2, 0.4]), statistics.stdev([0.6, 0.5])])
    assert "ends at round 2" in line.notes[0]


@pytest.mark.parametrize("x, steps", [("uplink_bytes", (1e6, 0.5e6)), ("seconds", (2.0, 3.0))])
def test_along_bytes_and_seconds_the_last_value_is_held(seeds, x, steps):
    (group,) = group_runs(seeds).groups
    line = curve(group, x, "eval/accuracy")
    pairs = [
        [(step * n, y) for n, y in enumerate(scores)]
        for step, scores in zip(steps, (FIRST, SECOND), strict=True)
    ]
    places = sorted({place for one in pairs for place, _ in one})
    assert line.x.tolist() == places
    for place, mean, sd in zip(line.x, line.mean, line.sd, strict=True):
        values = [held(one, place) for one in pairs]
        assert mean == pytest.approx(statistics.mean(values))
        assert sd == pytest.approx(statistics.stdev(values))


def test_a_run_that_stopped_ends_the_mean_and_a_finished_one_does_not(tmp_path, seeds):
    stopped = made_run(tmp_path, ["seed=2"], [0.1, 0.2], finished=False)
    (group,) = group_runs([*seeds, stopped]).groups
    line = curve(group, "uplink_bytes", "eval/accuracy")
    assert line.x[-1] == 1e6
    assert line.mean[-1] == pytest.approx(statistics.mean([0.4, 0.6, 0.2]))
    assert "shortest of 3 runs" in " ".join(line.notes)


def test_epsilon_begins_with_the_first_release_and_total_bytes_have_both_directions(seeds):
    assert points(seeds[0], "epsilon", "eval/accuracy")[0].tolist() == [7, 8, 9]
    assert points(seeds[0], "total_bytes", "eval/accuracy")[0].tolist() == [0, 3e6, 6e6, 9e6]


def test_epsilons_of_different_kinds_share_no_axis(tmp_path, seeds):
    other = made_run(tmp_path, ["seed=3"], FIRST, privacy=statement(delta=1e-6))
    stopped = made_run(tmp_path, ["seed=5"], FIRST[:2], finished=False)
    assert epsilon_terms([*seeds, stopped]) == "unit text, add/remove one, delta 1e-05"
    with pytest.raises(ConfigError, match="cannot share an axis"):
        epsilon_terms([*seeds, other])


def test_what_cannot_be_drawn_is_said(tmp_path, seeds):
    grouping = group_runs(seeds)
    with pytest.raises(ConfigError, match=r"did you mean 'eval/accuracy'"):
        curves.draw(grouping, "round", "eval/acuracy")
    with pytest.raises(ConfigError, match=r"models of the clients' own.*accuracy_own_labels"):
        clients.draw(group_runs(seeds), "accuracy")
    with pytest.raises(ConfigError, match="eval_clients=true"):
        clients.draw(grouping, "accuracy_own_labels")
    public = made_run(tmp_path, ["privacy=none"], FIRST)
    with pytest.raises(ConfigError, match="--x epsilon"):
        curves.draw(group_runs([public]), "epsilon", "eval/accuracy")
    with styled():
        picture = curves.draw(group_runs([*seeds, public]), "epsilon", "eval/accuracy")
    assert picture.notes[-1] == "not drawn, without epsilon: no privacy"


def test_labels_are_the_fewest_words_that_tell_lines_apart(tmp_path, seeds):
    runs = [
        *seeds,
        made_run(tmp_path, ["method=lora"], FIRST),
        made_run(tmp_path, ["method=lora", "privacy=none"], FIRST),
        made_run(tmp_path, ["method=lora", "adapter.rank=2", "adapter.alpha=2"], FIRST),
    ]
    labels = [group.label for group in group_runs(runs[:3]).groups]
    assert labels == ["LoRA", "FFA-LoRA"]
    labels = [group.label for group in group_runs(runs[1:4]).groups]
    assert labels == ["LoRA, ε = 6", "LoRA, no privacy", "FFA-LoRA, ε = 6"]
    both = group_runs(runs[2:4], by=["privacy.unit", "privacy.epsilon_target"])
    assert "no privacy" in [group.label for group in both.groups]  # of two keys, once
    grouping = group_runs(runs[2:], by=["method"])
    assert [group.label for group in grouping.groups] == [
        "ε = 6, LoRA α = 2",
        "ε = 6, LoRA α = 8",
        "no privacy, LoRA α = 8",
    ]
    assert grouping.notes[0].startswith("split by") and "adapter.alpha" in grouping.notes[0]
    again = group_runs([*seeds, seeds[0]])
    assert len(again.runs) == 2
    assert "counted once" in again.notes[0]


@pytest.mark.parametrize("x", ["round", "uplink_bytes", "epsilon"])
def test_letters_are_readable_and_the_legend_covers_nothing(tmp_path, seeds, x):
    ranks = [["adapter.rank=2", "adapter.alpha=2"], ["adapter.rank=4", "adapter.alpha=4"]]
    more = [made_run(tmp_path, [*words, "method=lora"], FIRST) for words in ranks]
    with styled():
        figure = curves.draw(group_runs([*seeds, *more]), x, "eval/accuracy").figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    (axis,), (legend,) = figure.axes, figure.legends
    box = legend.get_window_extent(renderer)
    assert not box.overlaps(axis.get_tightbbox(renderer))
    whole = figure.bbox
    assert figure.get_figwidth() == COLUMN
    words = axis.figure.texts
    assert len(words) == 2 and all(words)
    assert not any(box.overlaps(text.get_window_extent(renderer)) for text in words)
    lasting = [*words, *legend.get_texts()]
    for text in [*lasting, *axis.get_xticklabels(), *axis.get_yticklabels()]:
        assert text.get_fontsize() == 8
    for text in lasting:
        ends = text.get_window_extent(renderer)
        assert ends.x0 >= -1 and ends.x1 <= whole.x1 + 1, text.get_text()


def seen(colour, cones=np.eye(3)):
    """CIE L*a*b* of a colour as an eye with these cones sees it (linear RGB to linear RGB)."""
    code = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(cones @ linear, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes (2009), severity 1.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)


def test_the_first_four_colours_are_told_apart_in_grey_and_by_every_eye():
    for one, other in combinations([look.colour for look in PENS[:4]], 2):
        assert abs(seen(one)[0] - seen(other)[0]) > 10, (one, other)  # printed in grey
        for cones in (np.eye(3), DEUTERANOPIA, PROTANOPIA):
            assert np.linalg.norm(seen(one, cones) - seen(other, cones)) > 25, (one, other)
    assert len({look.marker for look in PENS}) == len({str(look.dash) for look in PENS}) == 7
    looks = [pen(index) for index in range(3 * len(PENS))]
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)


METHODS, ALPHAS = ("a", "b", "c", "d", "e", "f"), ("0.1", "1", "10")


def told(**keys):
    return [dict(zip(keys, values, strict=True)) for values in product(*keys.values())]


@pytest.mark.parametrize(
    "lines, titles, colours, dashes",
    [
        (told(method="ab", alpha=("0.1", "1")), ("",), ("a", "b"), ("0.1", "1")),
        (told(alpha=ALPHAS), ("",), ALPHAS, ("",)),  # one factor has the colours
        (told(alpha=ALPHAS, method="ab"), ALPHAS, ("a", "b"), ("",)),  # six lines: panels
        (told(method="ab", e="123", alpha=("0.1", "1")), ("1", "2", "3"), ("a", "b"), ("0.1", "1")),
        (told(method=METHODS), METHODS, METHODS, ("",)),
        (told(method=METHODS, alpha=ALPHAS), METHODS, METHODS, ALPHAS),
        ([{}], ("",), ("",), ("",)),
    ],
)
def test_colour_says_the_method_and_dash_or_panel_the_rest(lines, titles, colours, dashes):
    found = places(lines)
    assert (found.titles, found.colours, found.dashes) == (titles, colours, dashes)
    for line, place in zip(lines, found.of, strict=True):
        said = [found.titles[place.panel], found.colours[place.colour], found.dashes[place.dash]]
        assert set(line.values()) <= set(said)
        assert place.pen.colour == pen(place.colour).colour
    assert max(Counter(place.panel for place in found.of).values()) <= 4


@pytest.fixture
def grid(tmp_path):
    """Three methods, two mixtures, two seeds: six lines."""
    return [
        made_run(tmp_path, [f"method={method}", "partition=dirichlet", f"seed={seed}",
                            f"partition.dirichlet_alpha={alpha}"],
                 [score + 0.02 * seed for score in FIRST], per_round=size)
        for method, size in (("lora", 2e6), ("ffa_lora", 1e6), ("rolora", 1.5e6))
        for alpha in (10.0, 0.3)
        for seed in (0, 1)
    ]  # fmt: skip


def test_from_five_lines_on_there_are_titled_panels_of_one_scale(grid):
    with styled():
        figure = curves.draw(group_runs(grid), "uplink_bytes", "eval/accuracy").figure
        FigureCanvasAgg(figure).draw()
    left, right = figure.axes
    assert [axis.get_title().split()[-1] for axis in (left, right)] == ["0.3", "10"]  # by size
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    for axis in (left, right):
        lines = [line for line in axis.lines if line.get_linestyle() == "-"]  # no caps of whiskers
        assert len({line.get_color() for line in lines}) == len(lines) == 3
        whiskers = [bars for bars in axis.containers if bars.has_yerr]
        assert len(whiskers) == 3 and not [c for c in axis.collections if c.get_alpha()]  # no bands
        at = [{float(x[0, 0]) for x in bars.lines[2][0].get_segments()} for bars in whiskers]
        for bars, line in zip(at, lines, strict=True):
            assert bars <= set(line.get_xdata())  # where the line has a point, not beside it
    words = [text.get_text() for legend in figure.legends for text in legend.texts]
    assert len(words) == 3


def test_numbers_on_axes_are_plain(tmp_path):
    run = made_run(tmp_path, [], [-0.25, 0.0, 0.25], metric="eval/mcc", per_round=1e9)
    with styled():
        figure = curves.draw(group_runs([run]), "uplink_bytes", "eval/mcc").figure
        FigureCanvasAgg(figure).draw()
    (axis,) = figure.axes
    ticks = [text.get_text() for text in axis.get_yticklabels()]
    assert "\N{MINUS SIGN}0.2" in ticks and not any("-" in text for text in ticks)
    assert "(GB)" in axis.figure.get_supxlabel()
    assert [plain_numbers()(value, None) for value in (0.001, 1e6)] == ["0.001", "1,000,000"]


def test_letters_are_text_in_vector_files(tmp_path, seeds):
    with styled():
        files = save(curves.draw(group_runs(seeds), "round", "eval/accuracy"), tmp_path / "a")
    assert b">accuracy (%)</text>" in files[1].read_bytes()
    pdf = files[2].read_bytes()
    assert b"/Subtype /CIDFontType2" in pdf and b"/Type3" not in pdf  # embedded as type 42
    assert b"/MediaBox [ 0 0 234 " in pdf  # 3.25 inches: letters have their size in the paper


def test_the_numbers_beside_the_picture_are_those_in_it(tmp_path, seeds):
    with styled():
        picture = curves.draw(group_runs(seeds), "round", "eval/accuracy")
        files = save(picture, tmp_path / "new" / "a.png")
        again = [file.read_bytes() for file in files]
        save(curves.draw(group_runs(seeds), "round", "eval/accuracy"), files[1])
    assert [file.suffix for file in files] == [".png", ".svg", ".pdf", ".csv"]
    assert [file.read_bytes() for file in files] == again  # the same runs, the same bytes
    rows = list(csv.DictReader(io.StringIO(files[3].read_text())))
    (line,) = picture.figure.axes[0].lines
    assert [float(row["eval/accuracy"]) for row in rows] == line.get_ydata().tolist()
    assert [float(row["round"]) for row in rows] == [0, 1, 2, 3]
    low, high = float(rows[1]["low_95"]), float(rows[1]["high_95"])
    assert (low, high) == pytest.approx(summarize([0.4, 0.3]).interval)
    with pytest.raises(ConfigError, match=r"try a\.pdf"):
        save(picture, tmp_path / "a.jpg")
    assert csv_text([]) == ""


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=9))
def test_filled_points_are_those_nothing_dominates(triples):
    made = [
        Point(str(i), float(b), math.inf if e == 3 else float(e), summarize([float(a)]))
        for i, (a, b, e) in enumerate(triples)
    ]
    aims = np.array([(a, -b, -e) for a, b, e in triples])
    for own, point in zip(aims, mark_best(made), strict=True):
        better = ((aims >= own).all(axis=1) & (aims > own).any(axis=1)).any()
        assert point.best is (not better)
    losses = [replace(point, sample=summarize([-point.sample.mean])) for point in made]
    assert [p.best for p in mark_best(losses, False)] == [p.best for p in mark_best(made)]


def test_pareto_has_a_point_for_each_epsilon_and_leaves_out_the_unfinished(tmp_path, seeds):
    runs = [
        *seeds,
        made_run(tmp_path, ["privacy=none"], [0.2, 0.9]),
        made_run(tmp_path, ["method=lora"], FIRST, per_round=2e6),
        made_run(tmp_path, ["seed=4"], [0.1], finished=False),
    ]
    with styled():
        picture = pareto.draw(
            group_runs(runs, unlabelled="privacy"), "uplink_bytes", "eval/accuracy"
        )
    rows = [(row["group"], row["epsilon"], row["runs"], row["best"]) for row in picture.rows]
    assert rows == [("LoRA", 9.0, 1, 0), ("FFA-LoRA", 9.0, 2, 1), ("FFA-LoRA", None, 1, 1)]
    assert picture.rows[1]["eval/accuracy"] == pytest.approx(0.75)
    assert picture.notes == ("left out: 1 unfinished of 5 runs",)
    axis = picture.figure.axes[0]
    (low, high), (left, right) = axis.get_ylim(), axis.get_xlim()
    beside = {(row["uplink_bytes"] / 1e6, row["eval/accuracy"]) for row in picture.rows}
    drawn = [bars.lines[0] for bars in axis.containers]
    assert all(line.get_transform() == axis.transData for line in drawn)  # nothing is moved aside
    assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in drawn} == beside
    for row in picture.rows:
        assert low < row["eval/accuracy"] - (row["sd"] or 0) and high > row["eval/accuracy"]
        assert left < row["uplink_bytes"] / 1e6 < right
    with pytest.raises(ConfigError, match="bytes below"):
        pareto.draw(group_runs(runs), "round", "eval/accuracy")


def test_pareto_labels_an_epsilon_rounded_up(tmp_path):
    run = made_run(tmp_path, ["seed=8"], FIRST)
    last = run.rounds[-1]
    spent = {**last.metrics, "privacy/epsilon_spent": 6.0012}
    run = replace(run, rounds=(*run.rounds[:-1], replace(last, metrics=spent)))
    with styled():
        picture = pareto.draw(group_runs([run]), "uplink_bytes", "eval/accuracy")
    assert picture.rows[0]["epsilon"] == 6.01
    words = [text.get_text() for legend in picture.figure.legends for text in legend.texts]
    assert "\N{GREEK SMALL LETTER EPSILON} = 6.01" in words


def test_a_pareto_point_under_another_is_larger(tmp_path):
    runs = [made_run(tmp_path, [f"method={method}"], FIRST) for method in ("lora", "ffa_lora")]
    with styled():
        picture = pareto.draw(group_runs(runs), "uplink_bytes", "eval/accuracy")
    below, above = (bars.lines[0] for bars in picture.figure.axes[0].containers)
    assert below.get_markersize() > above.get_markersize()


def test_clients_are_dots_at_their_last_score(tmp_path):
    scores = {0: {"accuracy_own_labels": 0.9}, 1: {"accuracy_own_labels": 0.5}, 2: {}}
    run = made_run(tmp_path, ["federation.eval_clients=true"], FIRST, clients=scores)
    assert clients.scores(run, "accuracy_own_labels") == [(0, 0.9), (1, 0.5)]
    with styled():
        picture = clients.draw(group_runs([run]), "accuracy_own_labels")
    assert "mean 70.0 %, lowest 50.0 %" in picture.words
    assert "no part of the guarantee" in picture.notes[-1]
    dots, bar = picture.figure.axes[0].lines
    assert sorted(dots.get_xdata()) == [0.5, 0.9]
    assert all(a != b for a, b in pairwise(dots.get_ydata()))
    assert set(bar.get_xdata()) == {0.7}


def measured(run, **values):
    """The run with these values of the mechanism in every round but the first."""
    added = {getattr(metric_keys, name): value for name, value in values.items()}
    rounds = [replace(r, metrics=r.metrics | added if r.round else r.metrics) for r in run.rounds]
    return replace(run, rounds=tuple(rounds))


def test_the_mechanism_has_a_row_a_quantity_of_those_that_are_there(tmp_path):
    noise = {"NOISE_RATIO": 3.0, "CLIPPED": 0.4}
    lora = measured(made_run(tmp_path, ["method=lora"], FIRST), GAP=0.5, CLIENT_DRIFT=1.5, **noise)
    ffa = measured(made_run(tmp_path, ["method=ffa_lora"], FIRST), GAP=0.0, CLIENT_DRIFT=1.0)
    with styled():
        picture = mechanism.draw(group_runs([lora, ffa]))
    gap, noised, drift, clipped = picture.figure.subfigs[0].axes
    assert [line.get_ydata()[-1] for line in gap.lines] == [0.5, 0.0]
    assert [line.get_ydata()[-1] for line in noised.lines] == [3.0]
    assert [line.get_ydata()[-1] for line in drift.lines] == [1.5, 1.0]
    assert len(clipped.lines) == 1 and noised.get_ylim()[0] < 0.0
    assert "keep the picture" in picture.notes[-1]
    plain = measured(made_run(tmp_path, ["privacy=none"], FIRST), GAP=0.5, CLIPPED=0.0)
    with styled():
        assert len(mechanism.draw(group_runs([plain])).figure.subfigs[0].axes) == 1
    found = Counter((row["metric"], row["group"]) for row in picture.rows)
    assert found[GAP, "LoRA"] == found[NOISE_RATIO, "LoRA"] == found[CLIENT_DRIFT, "FFA-LoRA"] == 3
    with pytest.raises(ConfigError, match="diagnostics=mechanism"), styled():
        mechanism.draw(group_runs([made_run(tmp_path, ["seed=7"], FIRST)]))


def test_markers_at_the_top_of_a_row_are_whole(tmp_path):
    """One that would lie on the upper edge was cut in half."""
    lora, ffa = (made_run(tmp_path, [f"method={name}"], FIRST) for name in ("lora", "ffa_lora"))
    runs = [measured(lora, CLIENT_DRIFT=1.41), measured(ffa, CLIENT_DRIFT=1.40)]
    with styled():
        (axis,) = mechanism.draw(group_runs(runs)).figure.subfigs[0].axes
    low, high = axis.get_ylim()
    assert high - 1.41 >= 0.04 * (high - low) and low < 0.0
