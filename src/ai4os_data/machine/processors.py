"""The processors that this process may use, and threads that use them."""

from __future__ import annotations

import math
import multiprocessing
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

T = TypeVar("T")
R = TypeVar("R")

_QUOTA = "/sys/fs/cgroup/cpu.max"
_WAITING = 2  # items a thread


def usable_processors(quota_file: str = _QUOTA) -> int:
    """How many processors this process may keep busy: those that it may run on, within the quota of its container.

    Args:
        quota_file: where the kernel shows the quota.
    """
    processors = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError), open(quota_file, encoding="ascii") as file:
        quota_us, period_us = map(int, file.read().split())  # "max" is no number
        processors = min(processors, math.ceil(quota_us / period_us))
    return max(processors, 1)


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    """What a function gives for each item, as it is ready, from threads on all processors.

    The caller's thread takes the items, and no more than a few ahead of the results. A daemonic process, such as a
    worker of a ``DataLoader``, is one of many, and does everything in its own thread.
    """
    processors = 1 if multiprocessing.current_process().daemon else usable_processors()
    if processors == 1:
        yield from map(function, items)
        return
    under_way: set[Future[R]] = set()
    pool = ThreadPoolExecutor(processors, "ai4os-data-prepare")
    try:
        for item in items:
            under_way.add(_begun(pool, function, item))
            is_full = len(under_way) >= _WAITING * processors
            ended, under_way = wait(under_way, None if is_full else 0, FIRST_COMPLETED)
            yield from (future.result() for future in ended)
        while under_way:
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(pool: ThreadPoolExecutor, function: Callable[[T], R], item: T) -> Future[R]:
    try:
        return pool.submit(function, item)
    except RuntimeError:  # the interpreter ends, or the system has no more threads
        future: Future[R] = Future()
        future.set_result(function(item))
        return future
