"""Compares generated answers with references: numbers as GSM8K's are, texts of one's own, ROUGE-L.

The numbers are extracted and normalised by the rules of lm-evaluation-harness's task ``gsm8k``, so
that an exported model scores there what it scored here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError, brief, choose, require
from ffalora_cli.config.schema import GenerateConfig
from ffalora_cli.tasks.base import Metric

NOTHING = "[invalid]"  # extracted where nothing was found; no reference
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = tuple(map(re.compile, (",", r"\$", r"(?s).*#### ", r"\.$")))
_Z = 1.959963984540054  # 97.5 % of a standard normal lie below
_WORD = re.compile("[a-z0-9]+")


@dataclass(frozen=True)
class Compared:
    """One answer beside its reference.

    Attributes:
        extracted: of the answer, as it was compared.
        wanted: of the reference.
        score: from 0 to 1; 1 where they are one.
    """

    extracted: str
    wanted: str
    score: float


def exact_match_strict(answer: str, reference: str, extract: str | None) -> Compared:
    """The first number after ``#### ``."""
    return _equal(_number(_STRICT, 0, answer), _normalised(reference))


def exact_match_flexible(answer: str, reference: str, extract: str | None) -> Compared:
    """The last number."""
    return _equal(_number(_FLEXIBLE, -1, answer), _normalised(reference))


def exact_match(answer: str, reference: str, extract: str | None) -> Compared:
    """What ``extract`` finds first, its first group if it has one, in answer and reference.

    Without ``extract``, and in a reference where it finds nothing, all of the text.
    """
    wanted = _found(extract, reference)
    return _equal(_found(extract, answer), reference.strip() if wanted == NOTHING else wanted)


def rouge_l(answer: str, reference: str, extract: str | None) -> Compared:
    """ROUGE-L, the F measure of the longest common subsequence of words (Lin 2004), no stemming."""
    said, wanted = (_WORD.findall(text.lower()) for text in (answer, reference))
    common = _common(said, wanted)
    score = 2 * common / (len(said) + len(wanted)) if common else 0.0
    return Compared(" ".join(said), " ".join(wanted), score)


COMPARISONS: Mapping[str, Callable[[str, str, str | None], Compared]] = {
    compare.__name__: compare
    for compare in (exact_match_strict, exact_match_flexible, exact_match, rouge_l)
}
"""By the names that ``task.generate.metrics`` uses."""
SHARES = frozenset(COMPARISONS) - {"rouge_l"}
"""Those of right and wrong answers, which have an interval."""
UNFINISHED = "generated_unfinished"
METRICS: Mapping[str, Metric] = {
    **dict.fromkeys(COMPARISONS, Metric("percent")),
    UNFINISHED: Metric("percent", higher_is_better=False),
}
"""What is declared of them, and of the share of answers that ``max_new_tokens`` cut."""


def check(config: GenerateConfig) -> None:
    """Refuse what cannot be generated or compared.

    Raises:
        ConfigError: the first key that cannot be.
    """
    for name in ("rows", "every", "max_new_tokens"):
        value = getattr(config, name)
        require(f"task.generate.{name}", value, value >= 1, "1 or more")
    require(
        "task.generate.stop", list(config.stop), all(config.stop), "texts with a letter or more"
    )
    for name in config.metrics:
        if name not in COMPARISONS:
            raise choose("task.generate.metrics", name, list(COMPARISONS))
    require("task.generate.metrics", [], bool(config.metrics), "one or more of what is compared")
    if config.extract is None:
        return
    try:
        re.compile(config.extract)
    except re.error as error:
        raise ConfigError(
            f"task.generate.extract={brief(config.extract, 60)} is no regular expression "
            f"({error}); mend it, or set null"
        ) from error
    if "exact_match" not in config.metrics:
        raise ConfigError(
            "task.generate.extract is what exact_match compares; add it to task.generate.metrics, "
            "or set null"
        )


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``rows`` (Wilson 1927, equation 4, no correction)."""
    square = _Z**2 / rows
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / rows + square / rows / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _equal(extracted: str, wanted: str) -> Compared:
    return Compared(extracted, wanted, float(extracted == wanted))


def _number(pattern: re.Pattern[str], which: int, text: str) -> str:
    """One of a pattern's matches, its first group that is not empty, normalised."""
    matches = [next(filter(None, match.groups()), "") for match in pattern.finditer(text)]
    return _normalised(matches[which].strip() if matches and matches[which] else NOTHING)


def _normalised(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


def _found(extract: str | None, text: str) -> str:
    if extract is None:
        return text.strip()
    match = re.search(extract, text)
    if match is None:
        return NOTHING
    return (match.group(1 if match.re.groups else 0) or "").strip()


def _common(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, 64 words at a time (Hyyro 2004)."""
    places: dict[str, int] = {}
    for bit, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << bit
    everywhere = state = (1 << len(one)) - 1
    for word in other:
        hit = state & places.get(word, 0)
        state = ((state + hit) | (state - hit)) & everywhere
    return len(one) - state.bit_count()
