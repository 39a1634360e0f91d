"""Every step that a process takes towards the disk or the server, counted, so that it can be killed at each of them.

The steps are not chosen by hand: they are all calls of the operating system that write, sync, make, rename or remove,
every piece that an upload reads, and every request before it is sent. A write dies half-way.
"""

from __future__ import annotations

import os
import threading
import traceback
from typing import TYPE_CHECKING, Any

import torch

from ai4os_data import bodies, transport
from ai4os_data.stores import directory

if TYPE_CHECKING:
    from collections.abc import Callable

KILLED = 77
_CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "open")


class Failpoints:
    """A count of steps, which ends the process at one of them.

    Args:
        fatal: the number of the step, from 1; 0 for none.
    """

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self._fatal = fatal
        self._lock = threading.Lock()

    def step(self, before_death: Callable[[], object] | None = None) -> None:
        """Take a step, or die."""
        with self._lock:
            self.count += 1
            if self.count == self._fatal:
                if before_death is not None:
                    before_death()
                os._exit(KILLED)

    def install(self) -> None:
        """Count from here on, in this process."""
        for name in _CALLS:
            self._wrap(os, name)
        self._wrap(transport._Lane, "_begin")
        self._wrap(bodies._FileReader, "read")
        write, whole = os.write, bodies.write_whole

        def half_write(descriptor: int, data: Any, /) -> int:
            self.step(lambda: write(descriptor, memoryview(data)[: len(data) // 2]))
            return write(descriptor, data)

        def half_whole(file: Any, data: Any) -> None:
            self.step(lambda: whole(file, memoryview(data)[: len(data) // 2]))
            whole(file, data)

        os.write = half_write
        vars(directory)["write_whole"] = half_whole

    def _wrap(self, owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:  # only those that make a file
                self.step()
            return plain(*arguments, **options)

        setattr(owner, name, counted)


def run_until(fatal: int, work: Callable[[], None]) -> int | None:
    """Do some work in a child that dies at a step; None where it died there, else how many steps there were."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        torch.set_num_threads(1)
        points = Failpoints(fatal)
        try:
            points.install()
            work()
            count = points.count
            points._fatal = 0
            os.write(writing, str(count).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001  the parent shows it
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, KILLED}, f"the child ended with {code}"
    return int(told) if code == 0 else None
