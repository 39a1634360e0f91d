"""Some functions, each run by several processes at once, as a launcher starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def run_by_ranks(function: Callable[..., Any], *args: Any, ranks: int = 2, timeout_s: float = 120) -> list[Any]:
    """Return what a function of a module gives in each of several processes, by rank."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    port = _free_port()
    processes = [
        context.Process(target=_be_a_rank, args=(rank, ranks, port, answers, function, args)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=timeout_s) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    traces = [answer.trace for answer in found.values() if isinstance(answer, _Failed)]
    assert not traces, "\n".join(traces)
    return [found[rank] for rank in range(ranks)]


class _Failed:
    """What a rank ended with."""

    def __init__(self, trace: str) -> None:
        self.trace = trace


def _be_a_rank(  # noqa: PLR0917  as a process takes them
    rank: int, ranks: int, port: int, answers: Any, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """Have the environment of a rank under torchrun, and answer."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    try:
        answer = function(*args)
    except BaseException:  # noqa: BLE001  whatever it is, the test shows it
        answer = _Failed(traceback.format_exc())
    answers.put((rank, answer))


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port
