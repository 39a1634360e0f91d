"""Every step that a process takes towards the disk or the server, counted, so that it can be killed at each of them.

The steps are not chosen by hand: they are all calls of the operating system that write, sync, make, rename or remove,
every piece that an upload reads, and every request, whatever its method, before it is sent. A write dies half-way.
A process that is killed when the server has done what it asked, and before it reads the answer, leaves what one leaves
that is killed before its next step: nothing changes in between.
"""

from __future__ import annotations

import json
import os
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import torch

from ai4os_data.http import bodies, curl

if TYPE_CHECKING:
    from collections.abc import Callable

KILLED = 77
_CALLS = ("fsync", "rename", "replace", "link", "unlink", "rmdir", "mkdir", "open", "utime")


class Failpoints:
    """A count of steps, which ends the process at one of them.

    Args:
        fatal: the number of the step, from 1; 0 for none.
    """

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self.kinds: Counter[str] = Counter()
        self._fatal = fatal
        self._lock = threading.Lock()

    def step(self, kind: str, before_death: Callable[[], object] | None = None) -> None:
        """Take a step, or die."""
        with self._lock:
            self.count += 1
            self.kinds[kind] += 1
            if self.count == self._fatal:
                if before_death is not None:
                    before_death()
                os._exit(KILLED)

    def install(self) -> None:
        """Count from here on, in this process."""
        for name in _CALLS:
            self._wrap(os, name)
        self._wrap(curl.Lane, "begin", lambda _, transfer, *__: transfer.request.method)
        self._wrap(httpx.HTTPTransport, "handle_request", lambda _, request: request.method)
        self._wrap(bodies.SourceReader, "read")
        write = os.write

        def half_write(descriptor: int, data: Any, /) -> int:
            self.step("write", lambda: write(descriptor, memoryview(data)[: len(data) // 2]))
            return write(descriptor, data)

        os.write = half_write

    def _wrap(self, owner: Any, name: str, kind: Callable[..., str] | None = None) -> None:
        plain = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:  # only those that make a file
                self.step(kind(*arguments) if kind else name)
            return plain(*arguments, **options)

        setattr(owner, name, counted)


@dataclass
class Trial:
    """What came of some work that was to die at a step.

    Attributes:
        steps: how many of each kind there were; None where it died.
        noted: the last number that it noted under each name before that.
    """

    steps: Counter[str] | None = None
    noted: dict[str, int] = field(default_factory=dict)


def run_until(fatal: int, work: Callable[[Callable[[str, int], None]], object]) -> Trial:
    """Do some work in a child that dies at a step; it is given what notes how far it has come, which is no step."""
    reading, writing = os.pipe()
    plain = os.write
    child = os.fork()
    if child == 0:
        os.close(reading)
        torch.set_num_threads(1)
        points = Failpoints(fatal)
        try:
            points.install()
            work(lambda name, number: _note(plain, writing, [name, number]))
            points._fatal = 0
            _note(plain, writing, ["steps", points.kinds])
            os._exit(0)
        except BaseException:  # noqa: BLE001  the parent shows it
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        noted = dict(json.loads(line) for line in pipe)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, KILLED}, f"the child ended with {code}"
    steps = noted.pop("steps", None)
    assert (steps is None) == (code == KILLED)
    return Trial(None if steps is None else Counter(steps), noted)


def _note(write: Callable[[int, bytes], int], pipe: int, record: list[Any]) -> None:
    """Write a line at once: short ones arrive whole or not at all."""
    write(pipe, json.dumps(record).encode() + b"\n")
