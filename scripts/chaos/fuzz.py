"""Fuzzing every reader of what a person, a disk or the network hands us, from one seed.

A reader may return a value or raise its documented error, of one line. Anything else counts:
another exception, more than two seconds, code run, a connection, a write outside the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ffalora_cli.cli.verbs import show
from ffalora_cli.compose.catalogue import groups, options
from ffalora_cli.compose.jobs import plan, recorded
from ffalora_cli.config.build import leaf_keys
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.load import load_rows
from ffalora_cli.federation.wire.header import PayloadError
from ffalora_cli.federation.wire.payload import pack, unpack
from ffalora_cli.records.checkpoint import DamagedCheckpointError, read_checkpoint
from ffalora_cli.records.reading import read_communication
from scripts.chaos import mutate
from scripts.chaos.watch import Watch, outcome
from scripts.chaos.workload import Row, Workload, cache_in, overrides, tiny_model

Case = Callable[[random.Random], Callable[[], object]]
"""From a generator to one call of a reader on damaged input."""

_JSON = ("manifest.json", "summary.json", "privacy.json")
_SLOW = ("yaml", "records")  # twenty milliseconds each: half as often as the others
_LINES = ("rounds.jsonl", "communication.jsonl")


def fuzz(count: int, seed: int = 0, readers: tuple[str, ...] = ()) -> Row:
    """``count`` damaged inputs, in turn over all readers."""
    row = Row(
        "fuzzing of config, payload, checkpoint and record readers", "no traceback, hang, write"
    )
    tally: Counter[str] = Counter()
    with sandbox() as (cases, watch):
        names = readers or (*cases, *(name for name in cases if name not in _SLOW))
        for number in range(count):
            name = names[number % len(names)]
            case, allowed = cases[name]
            said = outcome(case(random.Random(f"{seed} {number}")), watch, allowed)
            good = said in ("read", "refused")
            tally[f"{name} {said if good else 'wrong'}"] += 1
            row.count(None if good else f"{name} {seed} {number}: {said}")
    row.notes += [f"{what} {times}" for what, times in sorted(tally.items())]
    return row


@contextlib.contextmanager
def sandbox() -> Iterator[tuple[dict[str, tuple[Case, tuple[type[Exception], ...]]], Watch]]:
    """The readers with a way to damage what each reads, and a watch over the folder it lies in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ffalora-fuzz-") as name:
        root = Path(name)
        with cache_in(root):
            load = Workload.build(overrides(tiny_model(root / "model"), "private"))
            load.play(root)
            os.chdir(root)
            try:
                yield _cases(root), Watch(root)
            finally:
                os.chdir(before)


def _cases(root: Path) -> dict[str, tuple[Case, tuple[type[Exception], ...]]]:
    run = root / "run"
    wrong = (ConfigError,)
    return {
        "overrides": (_overrides, wrong),
        "yaml": (_yaml(run), wrong),
        "payload": (_payload(), (PayloadError,)),
        "checkpoint": (_checkpoint(run), (DamagedCheckpointError,)),
        "records": (_records(run), wrong),
        "rows": (_rows(root / "data"), wrong),
    }


def _overrides(rng: random.Random) -> Callable[[], object]:
    typed = mutate.words(rng, _good_words())
    return lambda: plan(typed, sweep=rng.random() < 0.3)


def _good_words() -> list[str]:
    chosen = [f"{group}={name}" for group in groups() for name in options(group)]
    values = ("1", "0.5", "null", "true", "[a,b]", "{a: 1}", "text", "${seed}", "1,2", "range(3)")
    return chosen + [f"{key}={value}" for key in leaf_keys() for value in values]


def _yaml(run: Path) -> Case:
    import yaml

    file = run / "config.yaml"
    good = file.read_bytes()
    value = yaml.safe_load(good)

    def case(rng: random.Random) -> Callable[[], object]:
        if rng.random() < 0.5:
            file.write_bytes(mutate.damaged(rng, good))
        else:
            file.write_bytes(mutate.json_bytes(mutate.altered(rng, value)))
        return _and_after(lambda: recorded(run, []), lambda: file.write_bytes(good))

    return case


def _payload() -> Case:
    import torch

    from ffalora_cli.types import (
        Bits,
        Dense,
        DenseMerge,
        LowRankMerge,
        Rows,
        Scalars,
        Seed,
        Sparse,
    )

    items = [
        Dense("a", "adapter", torch.arange(12.0).reshape(1, 3, 4)),
        Dense("h", "head", torch.ones(1, 5)),
        Seed("s", 7),
        LowRankMerge("m", torch.ones(3, 2), torch.ones(2, 4)),
        DenseMerge("d", torch.ones(2, 2)),
        Rows("r", "adapter", torch.ones(1, 2, 4), torch.tensor([[0, 2]]), (3, 4)),
        Sparse("p", "adapter", torch.ones(1, 2), torch.tensor([[3, 90]]), (10, 10)),
        Bits("b", "head", torch.ones(1, 5, dtype=torch.uint8), torch.ones(1), 3),
        Scalars("n", "adapter", torch.ones(1, 3)),
    ]
    packed = [pack(items, dtype).client_bytes(0) for dtype in ("float32", "bfloat16")]

    def case(rng: random.Random) -> Callable[[], object]:
        good = rng.choice(packed)
        if rng.random() < 0.4:
            data = mutate.damaged(rng, good, packed)
        else:
            size = int.from_bytes(good[6:10], "little")
            text = mutate.json_bytes(mutate.altered(rng, json.loads(good[10 : 10 + size])))
            data = good[:6] + len(text).to_bytes(4, "little") + text + good[10 + size :]
        return lambda: unpack(data)

    return case


def _checkpoint(run: Path) -> Case:
    """Half of the damaged ones carry hashes that hold, as a forger's would."""
    folder = max((run / "ckpt").glob("round-*"))
    state, manifest = folder / "state.safetensors", folder / "manifest.jsonl"
    good = {file: file.read_bytes() for file in (state, manifest)}
    content = json.loads(good[manifest].splitlines()[0])

    def case(rng: random.Random) -> Callable[[], object]:
        tensors, facts = good[state], content
        if rng.random() < 0.5:
            tensors = _damaged_tensors(rng, good[state])
        else:
            facts = mutate.altered(rng, content)
        files = facts.get("files") if isinstance(facts, dict) else None
        if isinstance(files, dict) and state.name in files:
            digest = hashlib.sha256(tensors).hexdigest()
            facts = {**facts, "files": {**files, state.name: digest}}
        body = mutate.json_bytes(facts) + b"\n"
        sealed = body + f'"{hashlib.sha256(body).hexdigest()}"\n'.encode()
        state.write_bytes(tensors)
        manifest.write_bytes(sealed if rng.random() < 0.9 else mutate.damaged(rng, sealed))
        return lambda: read_checkpoint(folder)

    return case


def _damaged_tensors(rng: random.Random, good: bytes) -> bytes:
    """A safetensors file with a changed header, or with changed bytes anywhere."""
    if rng.random() < 0.3:
        return mutate.damaged(rng, good)
    size = int.from_bytes(good[:8], "little")
    header = mutate.json_bytes(mutate.altered(rng, json.loads(good[8 : 8 + size])))
    claimed = rng.choice((len(header), len(header), len(header), 2**60, 0, 2**64 - 1))
    return claimed.to_bytes(8, "little") + header + good[8 + size :]


def _records(run: Path) -> Case:
    good = {name: (run / name).read_bytes() for name in (*_JSON, *_LINES)}

    def read() -> None:
        read_communication(run)
        for flags in ([], ["--json"], ["--privacy"]):
            with contextlib.redirect_stdout(io.StringIO()):
                show.main([str(run), *flags])

    def case(rng: random.Random) -> Callable[[], object]:
        name = rng.choice(tuple(good))
        data = good[name]
        if rng.random() < 0.3:
            data = mutate.damaged(rng, data, tuple(good.values()))
        elif name in _JSON:
            data = mutate.json_bytes(mutate.altered(rng, json.loads(data)))
        else:
            lines = data.splitlines(keepends=True)
            at = rng.randrange(len(lines))
            lines[at] = mutate.json_bytes(mutate.altered(rng, json.loads(lines[at]))) + b"\n"
            data = b"".join(lines)
        (run / name).write_bytes(data)
        return _and_after(read, lambda: (run / name).write_bytes(good[name]))

    return case


def _rows(root: Path) -> Case:
    """Rows of a task, as JSON lines, CSV and Parquet."""
    import pyarrow
    import pyarrow.parquet

    folder = root / "pets"
    folder.mkdir(parents=True)
    rows = [{"text": f"row {i}", "label": ("cat", "dog")[i % 2], "who": i % 3} for i in range(6)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    parquet = (folder / "train.parquet").read_bytes()
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    text = "text,label,who\n" + "".join(f"{r['text']},{r['label']},{r['who']}\n" for r in rows)
    task = _pets()

    def case(rng: random.Random) -> Callable[[], object]:
        for file in folder.iterdir():
            file.unlink()
        kind = rng.choice(("parquet", "jsonl", "jsonl", "csv"))
        good = {"parquet": parquet, "jsonl": lines, "csv": text.encode()}[kind]
        data = mutate.damaged(rng, good, (lines, text.encode()))
        if kind == "jsonl" and rng.random() < 0.7:
            row: Any = mutate.altered(rng, rng.choice(rows))
            data = lines + mutate.json_bytes(row) + b"\n"
        (folder / f"train.{kind}").write_bytes(data)
        return lambda: load_rows(task, str(root), "train")

    return case


def _pets() -> TaskConfig:
    return TaskConfig(
        name="pets",
        version=1,
        text_columns=("text",),
        label_column="label",
        classes=("cat", "dog"),
        metrics=("accuracy",),
        splits={"train": "train"},
        eval_split="holdout",
        tune_split="holdout",
        client_column="who",
    )


def _and_after(call: Callable[[], object], restore: Callable[[], object]) -> Callable[[], object]:
    def both() -> object:
        try:
            return call()
        finally:
            restore()

    return both
