"""Seeded damage to bytes, JSON values and command-line words: what the fuzzer feeds the readers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

DEEP = "@deep@"  # stands for a nest that ``json.dumps`` itself could not write

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, 1e308, float("nan"),
    float("inf"), "", "x", "..", "../../outside", "/etc/passwd", "\0", "\n", "\ud800", "a" * 5000,
    [], {}, [[]], {"": {}}, [None], {"_target_": "os.system"}, "${oc.env:HOME}", "1e5", DEEP,
)  # fmt: skip

TOKENS = (
    b"\0", b"\n", b"{", b"}", b"[", b"]", b":", b",", b'"', b"null", b"NaN", b"1e999", b"-", b"&a ",
    b"*a", b"!!python/object/apply:os.system ['touch sentinel']", b"<<: *a", b"\xff\xfe",
    b"\xed\xa0\x80",
    b"9" * 5000, b"[" * 3000, b"{a: " * 500, b"${", b"${oc.env:HOME}", b"_target_", b"../",
    b"\x80\x04\x95",
)  # fmt: skip

WORDS = (
    "=", ",", "[", "]", "{", "}", "(", ")", "'", '"', "\\", "${", "}", ":", "~", "+", "++", "@",
    ".", "..", "null", "nan", "inf", "-inf", "1e400", "9" * 5000, "true", "range(", "range(0,1e15)",
    "choice(1,2)", "glob(*)", "sort(", "shuffle(range(10000000000))", "int(", "float(x)", "str(",
    "tag(a,", "interval(0,1)", "extend_list(1)", "_target_", "_partial_",
    "oc.env:HOME}", "oc.decode:", "oc.select:",
    "oc.dict.keys:", "\0", "\n", "\t", "\x1b[31m", "é", "\u202e", "\U0001f600", "\udcff", "[" * 400,
    "{a:" * 200, "hydra.run.dir", "hydra:", "now:%Y", "/", " ", "", "#", "%", "0x10", "1_000", "- ",
)  # fmt: skip


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A copy with one to four bits, stretches or tokens changed."""
    value = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(value) + 1)
        size = min(1 << rng.randrange(10), len(value) - at)
        kind = rng.randrange(6)
        if kind == 0 and at < len(value):
            value[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del value[at : at + size]
        elif kind == 2:
            value[at:at] = value[at : at + size]
        elif kind == 3:
            value[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            del value[at:]
        else:
            other = rng.choice(others) if others else data
            start = rng.randrange(len(other) + 1)
            value[at : at + size] = other[start : start + size]
    return bytes(value)


def altered(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one node replaced, dropped, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.randrange(8)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {**value, rng.choice(("", "x", "../x", "_target_")): value[key]}
        return {**value, key: altered(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        kind = rng.randrange(4)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, value[at]]
        return [*value[:at], altered(rng, value[at]), *value[at + 1 :]]
    return rng.choice(STRANGE)


def json_bytes(value: Any) -> bytes:
    """JSON of an altered value; a ``DEEP`` becomes 100,000 brackets."""
    text = json.dumps(value)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).encode()


def words(rng: random.Random, good: Sequence[str]) -> list[str]:
    """One to three overrides, some of them broken."""
    chosen = rng.sample(list(good), rng.randint(1, 3))
    at = rng.randrange(len(chosen))
    text = chosen[at]
    for _ in range(rng.randint(1, 3)):
        kind, where = rng.randrange(5), rng.randrange(len(text) + 1)
        if kind == 0:
            text = text[:where] + rng.choice(WORDS) + text[where:]
        elif kind == 1:
            text = text[:where] + text[where + rng.randint(1, 6) :]
        elif kind == 2:
            text = text.partition("=")[0] + "=" + "".join(rng.choices(WORDS, k=rng.randint(1, 4)))
        elif kind == 3:
            text = text.partition("=")[0] + "=" + rng.choice(good).partition("=")[2]
        else:
            text = text[:where] + chr(rng.randrange(0x300)) + text[where + 1 :]
    chosen[at] = text
    return chosen
