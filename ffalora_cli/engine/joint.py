"""Several jobs in one pass: a job is just more clients in the stack.

A pass knows clients, not jobs: every tensor that two jobs do not share has a client axis, and every
example is clipped to its own client's bound. Noise, divisor and optimiser stay each job's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ffalora_cli.data.batches import StepBatches
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob


def fit(one: LocalJob, other: LocalJob) -> bool:
    """Whether two jobs of one frozen model can share a pass.

    They can if they train the same tensors under one clip rule; a job without privacy goes with any
    rule but ``automatic``, which has no bound that leaves gradients as they are. Dropout masks are
    keyed job by job.
    """
    kinds = {None if job.privacy is None else job.privacy.clip for job in (one, other)}
    return (
        one.trainable == other.trainable
        and _shapes(one) == _shapes(other)
        and (len(kinds) == 1 or (len(kinds) == 2 and None in kinds and "automatic" not in kinds))
        and one.dropout == other.dropout == 0
    )


def join(jobs: Sequence[LocalJob]) -> LocalJob:
    """The pass of jobs that fit: all of them as one, clients in the jobs' order.

    Its optimiser and noise mean nothing: those stay with the jobs.
    """
    first = jobs[0]
    if len(jobs) == 1:
        return first
    same = {
        name: value
        for name, value in first.common.items()
        if all(name in job.common and torch.equal(job.common[name], value) for job in jobs[1:])
    }
    apart = [name for name in (*first.start, *first.common) if name not in same]
    return replace(
        first,
        clients=np.concatenate([job.clients for job in jobs]),
        batches=_side_by_side(jobs),
        start={name: torch.cat([_stacked(job, name) for job in jobs]) for name in apart},
        common=same,
        privacy=_bounds(jobs),
    )


def places(jobs: Sequence[LocalJob]) -> list[slice]:
    """Where each job's clients are in the stack."""
    ends = np.cumsum([len(job.clients) for job in jobs]).tolist()
    return [slice(end - len(job.clients), end) for end, job in zip(ends, jobs, strict=True)]


def _shapes(job: LocalJob) -> dict[str, tuple[int, ...]]:
    """Of one client's tensors, whether the job's clients share them or not."""
    return {n: tuple(v.shape[1:]) for n, v in job.start.items()} | {
        n: tuple(v.shape) for n, v in job.common.items()
    }


def _stacked(job: LocalJob, name: str) -> torch.Tensor:
    """``[clients, ...]`` of a tensor, whether the job's clients share it or not."""
    if name in job.start:
        return job.start[name]
    return job.common[name].expand(len(job.clients), *job.common[name].shape)


def _side_by_side(jobs: Sequence[LocalJob]) -> list[StepBatches]:
    """The steps of the longest job; one that has no steps left has no rows in it."""
    steps = []
    for step in range(max(len(job.batches) for job in jobs)):
        going = [
            (place.start, job.batches[step])
            for place, job in zip(places(jobs), jobs, strict=True)
            if step < len(job.batches)
        ]
        slots = np.concatenate([start + pairs.slots for start, pairs in going])
        rows = np.concatenate([pairs.rows for _, pairs in going])
        steps.append(StepBatches(slots, rows, _units([pairs for _, pairs in going])))
    return steps


def _units(parts: Sequence[StepBatches]) -> np.ndarray | None:
    """Units of several jobs' pairs end to end, all different; None where every row is its own."""
    if all(part.units is None for part in parts):
        return None
    numbers, count = [], 0
    for part in parts:
        own = np.arange(len(part.rows)) if part.units is None else part.units
        numbers.append(count + own)
        count += int(own.max(initial=-1)) + 1
    return np.concatenate(numbers)


def _bounds(jobs: Sequence[LocalJob]) -> ExamplePrivacy | None:
    """The clip of every client, infinite where there is no privacy; None where there is none."""
    private = next((job.privacy for job in jobs if job.privacy is not None), None)
    if private is None:
        return None
    bounds = [
        np.full(len(job.clients), np.inf if job.privacy is None else job.privacy.max_grad_norm)
        for job in jobs
    ]
    return replace(private, bounds=np.concatenate(bounds))
