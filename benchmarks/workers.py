"""Worker processes that begin at the same moment, once all are ready."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import TracebackType

    from typing_extensions import Self

T = TypeVar("T")
_LONGEST_S = 600.0


class Workers(Generic[T]):
    """Forked processes that live until the ``with`` ends.

    Args:
        number: how many.
        prepare: called in each with its number; returns the function to measure.
        daemon: whether they end with this process, and start none themselves.
    """

    def __init__(self, number: int, prepare: Callable[[int], Callable[[], T]], *, daemon: bool = True) -> None:
        self._number = number
        self._prepare = prepare
        self._daemon = daemon

    def __enter__(self) -> Self:
        """Start them, and wait until each is ready."""
        context = multiprocessing.get_context("fork")
        self._pipes, theirs = zip(*(context.Pipe() for _ in range(self._number)), strict=True)
        self._processes = [
            context.Process(target=_work, args=(pipe, self._prepare, index), daemon=self._daemon)
            for index, pipe in enumerate(theirs)
        ]
        for process in self._processes:
            process.start()
        for pipe in theirs:
            pipe.close()
        self._collect()
        return self

    def run(self, times: int = 1) -> tuple[float, list[T]]:
        """Run all workers; returns the seconds until the last has finished, and the last result of each."""
        begun = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(times)
        results = self._collect()
        return time.perf_counter() - begun, results

    def _collect(self) -> list[T]:
        answers = []
        for pipe in self._pipes:
            if not pipe.poll(_LONGEST_S):
                message = "a worker does not answer"
                raise RuntimeError(message)
            answers.append(pipe.recv())
        for failure, _ in answers:
            if failure:
                message = f"a worker failed:\n{failure}"
                raise RuntimeError(message)
        return [result for _, result in answers]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End them."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # it has failed already
                pipe.send(0)
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.kill()
            process.join()


def _work(pipe: Connection, prepare: Callable[[int], Callable[[], object]], index: int) -> None:
    try:
        work = prepare(index)
        pipe.send((None, None))
        while times := pipe.recv():
            for _ in range(times):
                result = work()
            pipe.send((None, result))
    except EOFError:
        pass  # the end
    except BaseException:  # noqa: BLE001  it is raised again in the parent
        pipe.send((traceback.format_exc(), None))
