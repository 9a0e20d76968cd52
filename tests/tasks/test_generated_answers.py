"""Scores of generated answers against those of lm-eval, rouge-score and scipy."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from scipy.stats import binomtest

from ffalora_cli.tasks.generated_answers import COMPARISONS, wilson

REFERENCE = "She has 1,000 + 234 = <<1000+234=1234>>1234 coins.\n#### 1,234"
ANSWERS = (
    # what was written, right by the strict rule, right by the flexible one
    ("It is 1234.\n#### 1234", 1, 1),
    ("#### 1,234", 1, 1),
    ("#### 1,234.", 1, 1),
    ("#### $1234", 0, 1),  # the strict rule takes no sign of money
    ("#### 1234 and then #### 5", 1, 0),  # the first after ####, the last anywhere
    ("so 1,234 coins", 0, 1),
    ("The answer is 1234. ", 0, 1),
    ("1234 or 7", 0, 0),
    ("-1234", 0, 0),
    ("#### -1234", 0, 0),
    ("1234.0", 0, 0),  # lm-eval compares texts, not numbers
    ("no number. $ ...", 0, 0),
    ("####1234", 0, 1),
    ("", 0, 0),
)


@pytest.mark.parametrize(("answer", "strict", "flexible"), ANSWERS)
def test_numbers_are_found_and_compared_by_rule(answer, strict, flexible):
    for name, right in (("exact_match_strict", strict), ("exact_match_flexible", flexible)):
        assert COMPARISONS[name](answer, REFERENCE, None).score == right


def test_numbers_are_those_of_lm_eval():
    """Its own filters and metric, set up by its own file of the task."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    folder = Path(lm_eval.__file__).parent
    task = yaml.safe_load((folder / "tasks/gsm8k/gsm8k.yaml").read_text())
    (metric,) = task["metric_list"]
    settings = {name: metric[name] for name in ("ignore_case", "regexes_to_ignore")}
    ours = dict(zip(("strict-match", "flexible-extract"), list(COMPARISONS)[:2], strict=True))
    for filters in task["filter_list"]:
        regex = dict(filters["filter"][0])
        assert regex.pop("function") == "regex"
        compare = COMPARISONS[ours[filters["name"]]]
        for answer, *_ in ANSWERS:
            (extracted,) = next(iter(RegexFilter(**regex).apply([[answer]], [{}])))
            wanted = exact_match_fn(predictions=[extracted], references=[REFERENCE], **settings)
            assert compare(answer, REFERENCE, None).score == wanted["exact_match"], answer


def test_an_expression_of_ones_own():
    compare = COMPARISONS["exact_match"]
    assert compare(" blue\n", "blue", None).score == 1
    found = compare("I say: (B) or (C)", "The answer is (B)", r"\(([A-D])\)")
    assert (found.extracted, found.wanted, found.score) == ("B", "B", 1)
    assert compare("B", "B", r"\(([A-D])\)").score == 0  # nothing was found in the answer
    assert compare("(B)", "B", r"\(([A-D])\)").score == 1  # a reference may be the bare answer


def test_rouge_l_is_that_of_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    draw = random.Random(0)
    words = ["the", "a", "cat,", "Cat", "sat.", "on-the", "mat", "12", "1,2", "Über", "---"]
    for _ in range(300):
        said, wanted = (" ".join(draw.choices(words, k=draw.randint(0, 90))) for _ in range(2))
        theirs = scorer.score(wanted, said)["rougeL"].fmeasure
        assert COMPARISONS["rouge_l"](said, wanted, None).score == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("right", "rows"), [(0, 50), (6, 50), (50, 50), (37, 1319)])
def test_wilson_interval(right, rows):
    theirs = binomtest(right, rows).proportion_ci(method="wilson")
    assert wilson(right / rows, rows) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
