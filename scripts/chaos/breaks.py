"""Breaking small runs in forked children: crash points, full disks, bit flips, or nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np

from scripts.chaos.workload import (
    VARIANTS,
    Row,
    Workload,
    count_calls,
    kill_at,
    result,
    rounds_on_disk,
    workloads,
)


def crashpoints(count: int, seed: int = 0, names: tuple[str, ...] = tuple(VARIANTS)) -> Row:
    """Die at ``count`` system calls out of all of all variants; go on; compare."""
    row = Row("injected crash points", "resume bit-identical, at most one round lost")
    with workloads(list(names)) as (built, root):
        wanted = {name: unbroken(load, root / name) for name, load in built.items()}
        points = [
            (n, call) for n, load in built.items() for call in range(1, calls(load, root) + 1)
        ]
        for name, call in _pick(points, count, seed):
            row.count(crash(built[name], root / "trial", call, wanted[name]))
        row.notes.append(f"{len(points)} different points in {len(built)} kinds of run")
    return row


def crash(load: Workload, folder: Path, call: int, wanted: str) -> str | None:
    """One crash and the resume after it; says what is wrong."""
    fresh(folder)
    run = folder / "run"
    code, said = load.trial(folder, kill_at(call))
    charged, before = _charged_rounds(run), rounds_on_disk(run)
    if code != -9:
        return f"call {call}: ended with {code} ({said}) instead of being killed"
    if load.parts.plan is not None and charged < before - 1:
        return f"call {call}: {before - 1} rounds on disk, {charged} charged"
    code, said = load.trial(folder)
    if code or result(run) != wanted:
        return f"call {call}, {before} records: then {code} {said[:200]}"
    lost = [line for line in said.splitlines() if line.startswith("continuing after round")]
    if lost and int(lost[0].split()[3]) + 1 < before:
        return f"call {call}: {before} records, but {lost[0]}"
    return None


def diskfull(count: int, seed: int = 0) -> Row:
    """The disk is full after a random number of bytes; then there is room again."""
    row = Row("full disk at random byte counts", "previous checkpoint intact, one line")
    with workloads(["private"]) as (built, root):
        load = built["private"]
        wanted = unbroken(load, root)
        size = sum(f.stat().st_size for f in (root / "whole").rglob("*") if f.is_file())
        for room in _pick(list(range(1, size + size // 2)), count, seed):
            row.count(_full(load, root / "trial", room, wanted))
    return row


def _full(load: Workload, folder: Path, room: int, wanted: str) -> str | None:
    fresh(folder)
    code, said = load.trial(folder, disk_of(room))
    if code == 0:
        return None if result(folder / "run") == wanted else f"{room} bytes: another result"
    if ("No space left" not in said and "no space" not in said) or "\n" in said:
        return f"{room} bytes: {said[:200]}"
    code, said = load.trial(folder)
    if "damaged" in said:
        return f"{room} bytes: {said[:200]}"
    if code or result(folder / "run") != wanted:
        return f"{room} bytes: then {code} {said[:200]}"
    return None


def disk_of(room: int) -> Callable[[], None]:
    """For ``Workload.trial``: writes fail once ``room`` bytes were written; the last is cut."""
    original, left = os.write, [room]

    def write(handle: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = original(handle, bytes(data)[: left[0]])
        left[0] -= written
        return written

    def arm() -> None:
        os.write = write  # type: ignore[assignment]

    return arm


def corruption(count: int, seed: int = 0) -> Row:
    """Flip a bit, cut or delete a file of the newest checkpoint of an interrupted run; go on."""
    row = Row("bit flips, truncations, deletions", "detected, none loaded silently")
    with workloads(["private"]) as (built, root):
        load = built["private"]
        wanted = unbroken(load, root)
        fresh(root / "stopped")
        # Killed while the summary is written: three checkpoints, nothing else missing.
        load.trial(root / "stopped", kill_at(calls(load, root) - 6))
        generator = random.Random(seed)
        for _ in range(count):
            shutil.rmtree(root / "trial", ignore_errors=True)
            shutil.copytree(root / "stopped", root / "trial")
            what = damage(root / "trial" / "run" / "ckpt" / "round-000003", generator)
            code, said = load.trial(root / "trial")
            detected = "round-000003 is damaged" in said and "after round 2 of 3" in said
            good = code == 0 and detected and result(root / "trial" / "run") == wanted
            row.count(None if good else f"{what}: {code} {said[:200]}")
    return row


def damage(checkpoint: Path, generator: random.Random) -> str:
    """Damage one file of a checkpoint; says how."""
    file = generator.choice(sorted(checkpoint.iterdir()))
    content = bytearray(file.read_bytes())
    kind = generator.choice(("flip", "cut", "delete"))
    if kind == "delete":
        file.unlink()
        return f"{file.name} deleted"
    if kind == "cut":
        length = generator.randrange(len(content))
        file.write_bytes(content[:length])
        return f"{file.name} cut to {length} bytes"
    bit = generator.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"{file.name} bit {bit} flipped"


def determinism(count: int, seed: int = 0) -> Row:
    """Side by side, on threads, in client orders, with interruptions: one hash for all."""
    row = Row("determinism: side by side x threads x client orders x resumes", "one hash")
    grid = list(product((1, 2, 4), (1, 2), (0, 1, 2), (0, 1, 5)))
    with workloads(["server_adam"], rounds=6) as (built, root):
        load = built["server_adam"]  # without noise, which would hide differences in rounding
        wanted, total = unbroken(load, root), calls(load, root)
        for case in _pick(grid, min(count, len(grid)), seed):
            beside, threads, order, resumes = case

            def one(number: int, threads=threads, order=order, resumes=resumes) -> str | None:
                folder = root / f"trial-{number}"
                fresh(folder)
                arm = in_order(order, threads)
                for _ in range(resumes):
                    load.trial(folder, lambda: (arm(), kill_at(total // 5)()))
                code, said = load.trial(folder, arm)
                good = code == 0 and result(folder / "run") == wanted
                return (
                    None if good else f"{threads} threads, order {order}, {resumes} resumes: {said}"
                )

            with ThreadPoolExecutor(beside) as pool:
                wrong = [text for text in pool.map(one, range(beside)) if text]
            row.count(wrong[0] if wrong else None)
    return row


def in_order(order: int, threads: int) -> Callable[[], None]:
    """For ``Workload.trial``: cohorts come as drawn, backwards or rotated; so many threads."""

    def arm() -> None:
        import torch

        from ffalora_cli.federation.cohort import cohort

        torch.set_num_threads(threads)
        drawn = cohort.sample
        turned = (lambda ids: ids, lambda ids: ids[::-1].copy(), lambda ids: np.roll(ids, 1))
        cohort.sample = lambda *args: turned[order](drawn(*args))

    return arm


def unbroken(load: Workload, folder: Path) -> str:
    """The result of a run that nobody disturbs, left in ``folder/whole``."""
    fresh(folder / "whole")
    code, said = load.trial(folder / "whole")
    if code:
        raise RuntimeError(f"the run fails by itself: {said}")
    return result(folder / "whole" / "run")


def calls(load: Workload, folder: Path) -> int:
    """System calls of an undisturbed run that a crash point can be put at."""
    fresh(folder / "counted")
    load.trial(folder / "counted")  # a first run writes caches; those that are broken do not
    fresh(folder / "counted")
    tally = folder / "tally"
    tally.write_bytes(b"")
    handle = os.open(tally, os.O_WRONLY | os.O_APPEND)
    write = os.write
    load.trial(folder / "counted", lambda: count_calls(lambda *_: write(handle, b".")))
    os.close(handle)
    return tally.stat().st_size


def fresh(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _pick(cases: list, count: int, seed: int) -> list:
    """``count`` cases, each at most once more often than any other."""
    generator, picked = random.Random(seed), []
    while len(picked) < count:
        picked += generator.sample(cases, min(len(cases), count - len(picked)))
    return picked


def _charged_rounds(run: Path) -> int:
    ledger = run / "privacy_ledger.jsonl"
    return max(0, ledger.read_bytes().count(b"\n") - 1) if ledger.exists() else 0
