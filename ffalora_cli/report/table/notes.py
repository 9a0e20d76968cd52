"""Sentences under the table of a comparison: spread, pairs, privacy, settings, left-out runs."""

from __future__ import annotations

from collections.abc import Sequence

from ffalora_cli.config.errors import counted, listed
from ffalora_cli.metric_keys import interval, short_name
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.moments import headline, more_is_better, record_at, value_of
from ffalora_cli.report.runs.selection import value_at
from ffalora_cli.report.runs.settings import (
    MEANINGLESS,
    WORTH_SAYING,
    changed_weights,
    client_rows,
    differences,
    grouped,
    other_inputs,
    recorded_inputs,
    said_of,
    scored_split,
    setting,
    title,
)
from ffalora_cli.report.runs.spent_together import sentences
from ffalora_cli.report.table.numbers import scale_of
from ffalora_cli.report.table.rows import Comparison, Row

_TIED_MEANS = (
    "not separable from the best: the 95 % interval of their difference holds zero (paired by "
    "{over}, else Welch's; each row by itself, not corrected for how many there are)"
)
_NAMED = 3  # runs named in a sentence
_BUDGETS = {
    "bytes": "clients had sent more than {} bytes",
    "epsilon": "more than epsilon {} was spent",
    "seconds": "rounds had taken more than {} seconds",
}


def notes(comparison: Comparison) -> list[str]:
    """Everything a reader needs to judge the numbers."""
    return [
        *_spread(comparison),
        *_intervals(comparison),
        *_differences(comparison),
        *_evaluation_point(comparison),
        *_seconds(comparison),
        *_privacy(comparison),
        *_settings(comparison),
        *_inputs(comparison),
        *_left_out(comparison),
    ]


def baseline_name(comparison: Comparison) -> str:
    """What differences are taken to: the settings in which the baselines agree, as one word."""
    bases = {row.baseline for row in comparison.rows if row.baseline is not None}
    if not bases:
        return ""
    settings = zip(comparison.columns, zip(*bases, strict=True), strict=True)
    names = comparison.question.names
    shared = [names.value(key, own[0]) for key, own in settings if len(set(own)) == 1]
    return "/".join(shared) or "baseline"


def _spread(comparison: Comparison) -> list[str]:
    over = title(comparison.question.over)
    cells = [cell for row in comparison.rows for cell in row.cells]
    counts = {cell.sample.count for cell in cells}
    found = []
    if max(counts) > 1 and comparison.question.interval:
        found.append(
            f"±: half-width of the 95 % interval of the mean over {over} (Student's t); "
            f"sd: between runs; n: runs"
        )
    elif max(counts) > 1:
        found.append(f"±: one standard deviation over {over}, between runs")
    if 1 in counts:
        found.append("n = 1: a single run has no spread and no interval")
    if any(cell.rank == "best" and cell.sample.count == 1 for cell in cells):
        found.append("a best of a single run shows no difference to any other row")
    return found


def legend(comparison: Comparison) -> dict[str, str]:
    """What the marks of cells mean, for those that there are."""
    ranks = {cell.rank for row in comparison.rows for cell in row.cells}
    if not ranks - {""}:
        return {}
    held = listed(map(comparison.question.names.key, comparison.within))
    same = f" of the same {held}" if held else ""
    low = [scale_of(m).title for m in comparison.metrics if not more_is_better(m)]
    lowest = f", the lowest of {listed(low)}" if low else ""
    found = {"best": f"best mean{same}{lowest}"}
    if "tied" in ranks:
        found["tied"] = _TIED_MEANS.format(over=title(comparison.question.over))
    return found


def _intervals(comparison: Comparison) -> list[str]:
    """Of shares of generated answers, which have one in a single run, too."""
    found, point = [], comparison.question.point
    for metric in comparison.metrics:
        ends = [[value_of(run, point, end) for end in interval(metric)] for run in comparison.runs]
        said = [
            f"{run.path.name} {100 * low:.1f} to {100 * high:.1f} %"
            for run, (low, high) in zip(comparison.runs, ends, strict=True)
            if low is not None and high is not None
        ]
        if said:
            more = f", and of {len(said) - _NAMED} more" if len(said) > _NAMED else ""
            found.append(
                f"{short_name(metric)}: 95 % interval of a run's answers (Wilson): "
                f"{', '.join(said[:_NAMED])}{more}"
            )
    return found


def _differences(comparison: Comparison) -> list[str]:
    if comparison.question.across:  # no difference is shown
        return []
    firsts = [row.cells[0].against for row in comparison.rows]
    compared = [against for against in firsts if against is not None]
    if not compared:
        return []
    pairs = [str(key[0]) for against in compared for key in against.pairs]  # type: ignore[index]
    unpaired = sum(against.unpaired for against in compared)
    over = title(comparison.question.over)
    names = sorted({pair.rsplit(" ", 1)[-1] for pair in pairs}, key=lambda n: (len(n), n))
    held = f"same {over} ({listed(names)}), same rows at every client, same evaluation rows"
    found = f"vs {baseline_name(comparison)}: mean of paired differences and its 95 % interval; "
    found += f"a pair has the {held}" if pairs else f"no pair has the same {over} and client rows"
    if pairs and any(client_rows(run) is None for run in comparison.runs):
        found += " (the rows of some runs by their settings alone: no fingerprint was recorded)"
    if unpaired and pairs:
        found += f"; without a partner: {counted(unpaired, 'run')}"
    return [found]


def _evaluation_point(comparison: Comparison) -> list[str]:
    point = comparison.question.point
    if point.kind in _BUDGETS:
        amount = f"{point.amount:,g}" if point.amount < 1e6 else f"{point.amount:,.0f}"
        return [f"at the last evaluation before {_BUDGETS[point.kind].format(amount)}"]
    if point.kind == "round":
        return [f"after round {point.amount:g}"]
    if point.kind == "reach":
        return _reached(comparison)
    if point.kind != "best-validation":
        return []
    judged = sorted({headline(run) for run in comparison.runs})
    splits = sorted(
        {
            str(scored_split(run)[0] or value_at(run.config, "task.eval_split"))
            for run in comparison.runs
        }
    )
    return [
        f"each run at its own best round by {listed(judged)}; that round was chosen on the rows "
        f"that score it ({listed(splits)}), so scores are optimistic: no run here keeps a second "
        "split for choosing"
    ]


def _reached(comparison: Comparison) -> list[str]:
    """When a score counts as reached, by whom it is not, and by whom not for good."""
    point = comparison.question.point
    scale, up = scale_of(point.metric), more_is_better(point.metric)
    goal = f"{scale.title.removesuffix(' %')} {'at least' if up else 'at most'} "
    goal += f"{scale.plain(point.amount)}{' %' * scale.title.endswith(' %')}"
    found = [f"at the first evaluation with {goal}; costs are of all rounds up to it"]
    every = sorted({int(run.config["federation"]["eval_every"]) for run in comparison.runs})
    if every[-1] > 1:
        found[0] += f" (scored every {listed(every)} rounds, so it may have been earlier)"
    lost, never = 0, []
    for run in comparison.runs:
        record = record_at(run, point)
        scores = [(n, v) for n, v in zip(*run.series(point.metric), strict=True) if v == v]
        if record is None:
            best = (max if up else min)((value for _, value in scores), default=None)
            never.append(f"{run.path.name} (best {scale.plain(best)})")
        else:
            after = [value for number, value in scores if number > record.round]
            lost += any((value < point.amount) if up else (value > point.amount) for value in after)
    if lost:
        found.append(f"{lost} of those that reached it scored worse at some later evaluation")
    if never:
        more = f", and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        found.append(
            f"never reached by {len(never)} of {counted(len(comparison.runs), 'run')}, in no mean: "
            f"means of rows with such runs are too favourable and take no part in the ranking: "
            f"{', '.join(never[:_NAMED])}{more}"
        )
    return found


def _seconds(comparison: Comparison) -> list[str]:
    """What a wall clock measured, where it is shown."""
    rows = comparison.rows
    if comparison.question.across or comparison.question.point.kind == "reach":
        return []
    said = "s a run: mean wall clock, start and evaluations included, all resumptions together"
    said += "; s a round: of training alone" * any(row.round_seconds.count for row in rows)
    return [said] if any(row.seconds.count for row in rows) else []


def _privacy(comparison: Comparison) -> list[str]:
    private = [run for run in comparison.runs if run.privacy is not None]
    if not private:
        return []
    claims = sorted({claim(run) for run in private})
    whose = "largest of the row's runs"
    if comparison.question.across:
        largest = max(row.epsilon for row in comparison.rows if row.epsilon is not None)
        whose = f"at most {epsilon_text(largest)} a run"
    elif "epsilon" in comparison.metrics:
        whose = "each run's own at that round"
    found = [f"epsilon: {whose}; {'; or '.join(claims)}"]
    if len(private) > 1:
        found.append(
            "each epsilon is of one run alone; choosing the best of them costs more "
            "(privacy.trials), and nothing protects the rows it is chosen on"
        )
    released = (*comparison.runs, *comparison.unfinished, *comparison.without)
    return [*found, *sentences(released)]


def claim(run: RunRecords) -> str:
    """Unit, relation, delta, sampling and accountant, as the run's own sentence has them."""
    sentence = str((run.privacy or {}).get("sentence"))
    parts = sentence.partition("(")[2].rstrip(")").split("; ")
    kept = [part for part in parts if part.startswith(("a row", "any ", "unit"))]
    return "; ".join(kept) or sentence


def _settings(comparison: Comparison) -> list[str]:
    runs, names = comparison.runs, comparison.question.names
    hidden = [key for key in comparison.following if _worth_saying(key, runs)]
    found = [
        f"goes with them: {said_of(runs, comparison.columns, key, names)}" for key in hidden[:6]
    ]
    if comparison.split and comparison.question.by:
        found.append(
            f"rows are also split by {listed(comparison.split)}, which is not averaged over; "
            f"for fewer, select with {comparison.split[0]}=VALUE"
        )
    if comparison.mixed:
        key = comparison.mixed[0]
        found.append(
            f"some rows average runs with different {listed(comparison.mixed)}; add {key} to --by "
            f"or --pivot, or filter with {key}=VALUE"
        )
    # Without --anyway only tasks that --by lays side by side differ in what is meaningless.
    said = (*MEANINGLESS, *WORTH_SAYING) if comparison.question.anyway else WORTH_SAYING
    for aspect, values in differences(runs, said).items():
        text = f"{aspect.name} differ ({listed(values)}): {aspect.why}".replace(" are on", "")
        mixing = [row for row in comparison.rows if differences(row.runs, [aspect])]
        found.append(
            text + (f"; also within the mean of {_rows(comparison, mixing)}" if mixing else "")
        )
    weights = "had different frozen weights in different runs"
    return [*found, *(f"{source} {weights}" for source in changed_weights(runs))]


def _rows(comparison: Comparison, rows: Sequence[Row]) -> str:
    """A few rows by what they are."""
    names = comparison.question.names
    return listed(" / ".join(map(names.value, comparison.columns, row.settings)) for row in rows)


def _inputs(comparison: Comparison) -> list[str]:
    """One configuration on different inputs, and repetitions that are not known to be any."""
    found = []
    for same in grouped(comparison.runs, lambda run: run.manifest.get("signature")).values():
        if differing := other_inputs(same):
            found.append(
                f"{_names(same)}: one configuration on different inputs ({listed(differing)}), so "
                "no repetitions, and a mean of them mixes two things"
            )
    unsure = [run for run in comparison.repeated if "tokenizer" not in recorded_inputs(run)]
    if unsure:
        found.append(
            f"{_names(unsure)}: not all inputs were recorded then, so that it repeats another run "
            "is by what was"
        )
    return found


def _worth_saying(key: str, runs: Sequence[RunRecords]) -> bool:
    """Whether a determined key says more than the columns: not what a name or its lack implies."""
    values = {setting(run, key) for run in runs} - {"null", "none"}
    return not key.startswith(("task.", "model.", "method.")) and len(values) > 1


def _left_out(comparison: Comparison) -> list[str]:
    kinds = (
        (comparison.unfinished, "not finished, left out of all means"),
        (comparison.repeated, "repeated (same signature, same noise), counted once"),
        (comparison.without, "without a value at this evaluation point, left out"),
    )
    return [f"{counted(len(runs), 'run')} {what}: {_names(runs)}" for runs, what in kinds if runs]


def _names(runs: Sequence[RunRecords]) -> str:
    names = ", ".join(_named(run) for run in runs[:_NAMED])
    return names if len(runs) <= _NAMED else f"{names}, and {len(runs) - _NAMED} more"


def _named(run: RunRecords) -> str:
    return f"{run.path.name} (failed: {run.failure.reason})" if run.failure else run.path.name
