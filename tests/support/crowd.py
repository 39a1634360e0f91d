"""Several processes that use one cache at the same time, and what each has to report."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ai4os_data import errors
from ai4os_data.cache import CachedStore, DiskCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

Method = Literal["fork", "spawn", "forkserver"]
_LONGEST_S = 150.0


class Warnings(logging.Handler):
    """Keeps the warnings of the library in this process during a block."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.messages.append(record.getMessage())

    def __enter__(self) -> list[str]:
        """Begin."""
        logging.getLogger("ai4os_data").addHandler(self)
        return self.messages

    def __exit__(self, *_: object) -> None:
        """End."""
        logging.getLogger("ai4os_data").removeHandler(self)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one process of a crowd does: read every file, in an order of its own, several times.

    Attributes:
        store: Whose files, with their right bytes in ``files``.
        directory: The cache.
        size_limit: Its limit.
        policy: Its policy.
        seed: Gives the order.
        rounds: How many times.
        batch: How many at once.
        together: Whether the files belong to one dataset, as the policy "auto" sees it.
    """

    store: Any
    directory: str
    size_limit: int | str
    policy: Literal["auto", "lru"] = "lru"
    seed: int = 0
    rounds: int = 1
    batch: int = 16
    together: bool = True

    def __call__(self) -> Report:
        """Do it."""
        with Warnings() as warnings:
            cache = DiskCache(self.directory, self.size_limit, self.policy)
            cached = CachedStore(self.store, cache)
            report = read_all(cached, self)
            cache.close()
            return Report(report.wrong, warnings, cached.counters.totals())


@dataclass(frozen=True)
class Report:
    """What one process has seen.

    Attributes:
        wrong: The keys whose bytes were not right, or did not come.
        warnings: What the library warned of.
        totals: What it counted.
    """

    wrong: list[str]
    warnings: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)


def read_all(cached: CachedStore, reading: Reading) -> Report:
    """Read every file through a cached store that is open, as a `Reading` says."""
    store = reading.store
    entries = store.list()
    if reading.together:
        cached.keep_together(entries)
    chance = random.Random(reading.seed)
    wrong = []
    for _ in range(reading.rounds):
        chance.shuffle(entries)
        for begin in range(0, len(entries), reading.batch):
            wrong += wrong_keys(cached, store, entries[begin : begin + reading.batch])
    return Report(wrong)


def wrong_keys(cached: CachedStore, store: Any, entries: Sequence[Any]) -> list[str]:
    """The keys of entries that were read wrongly, or not exactly once."""
    left = {entry.key for entry in entries}
    wrong = []
    for entry, result in cached.read_many(entries):
        left.discard(entry.key)
        if isinstance(result, errors.StorageError) or result != store.files[entry.key]:
            wrong.append(entry.key)
    return wrong + sorted(left)


class Worker:
    """One process of a crowd.

    Args:
        task: What it does; it must pickle, and so must what it returns.
        method: How the process is begun.
        daemon: Whether it ends with this process; a daemon cannot have workers of its own.
    """

    def __init__(self, task: Callable[[], Any], method: Method = "fork", *, daemon: bool = True) -> None:
        context = multiprocessing.get_context(method)
        self._receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(task, sender), daemon=daemon)  # type: ignore[attr-defined]
        self.process.start()
        sender.close()

    def result(self) -> Any:
        """Wait for what the task returns; raise what it raised."""
        if not self._receiver.poll(_LONGEST_S):
            self.kill()
            raise TimeoutError("a worker did not come to its end")
        returned, value = self._receiver.recv()
        self.process.join(_LONGEST_S)
        self._receiver.close()
        if not returned:
            raise AssertionError(f"a worker failed:\n{value}")
        return value

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        wait_for(lambda: self.process.exitcode is not None)  # not join, which waits for its children too
        self._receiver.close()


def _work(task: Callable[[], Any], sender: Connection) -> None:
    try:
        sender.send((True, task()))
    except BaseException:
        sender.send((False, traceback.format_exc()))
        raise


def together(tasks: Sequence[Callable[[], Any]], method: Method = "fork", *, daemon: bool = True) -> list[Any]:
    """Do tasks at the same time, each in a process of its own, and return what they return."""
    workers = [Worker(task, method, daemon=daemon) for task in tasks]
    try:
        return [worker.result() for worker in workers]
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.kill()


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"it did not come to be within {timeout_s} s")
        time.sleep(0.002)
