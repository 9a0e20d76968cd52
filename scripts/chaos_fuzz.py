"""Fuzzing every reader of what a person, a disk or the network hands us, from one seed.

A reader may return a value or raise its documented error, of one line. Anything else counts: another
exception, more than two seconds, code run, a connection, a write outside the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chaos_mutate as mutate
from chaos_watch import Watch, outcome
from chaos_workload import Row, workloads

from ffalora_cli.config.errors import ConfigError

Case = Callable[[random.Random], Callable[[], object]]
"""From a generator to one call of a reader on damaged input."""

_TASK = ("text", "label")


def fuzz(count: int, seed: int = 0, readers: tuple[str, ...] = ()) -> Row:
    """``count`` damaged inputs, in turn over all readers."""
    row = Row("fuzzing config, payload, checkpoint and record readers", "no traceback, hang, write")
    with sandbox() as (cases, watch):
        names = readers or tuple(cases)
        tally: Counter[str] = Counter()
        for number in range(count):
            name = names[number % len(names)]
            case, allowed = cases[name]
            said = outcome(case(random.Random(f"{seed} {number}")), watch, allowed)
            tally[f"{name} {said}" if said in ("read", "refused") else f"{name} wrong"] += 1
            good = said in ("read", "refused")
            row.count(None if good else f"{name} {seed} {number}: {said}")
    row.notes += [f"{what} {times}" for what, times in sorted(tally.items())]
    return row
