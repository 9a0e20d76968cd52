"""Two processes of one run, forked from the test: gloo on this machine, no import paid twice."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from ffalora_cli.engine.ranks import Ranks

_FORK = multiprocessing.get_context("fork")


def on_two_ranks(work: Callable[[Ranks], Any]) -> list[Any]:
    """What ``work`` returned on each rank, None of one that died; an exception is raised here."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ends, children = [], []
    for rank in range(2):
        here, there = _FORK.Pipe(duplex=False)
        child = _FORK.Process(target=_child, args=(rank, port, work, there))
        child.start()
        there.close()
        ends.append(here)
        children.append(child)
    try:
        found = [_received(end) for end in ends]
    finally:
        for child in children:
            child.kill()
            child.join()
    for value in found:
        if isinstance(value, Exception):
            raise value
    return found


def _received(end: Any) -> Any:
    try:
        return end.recv()
    except EOFError:
        return None


def _child(rank: int, port: int, work: Callable[[Ranks], Any], end: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    try:
        ranks = Ranks.join(on_gpu=False)
        end.send(work(ranks))
        ranks.leave()
    except Exception as error:
        end.send(error)
