"""Runs one command, and ends it when the process that asked for it ends, however that ends.

A process of its own, because nothing inside a process outlives its SIGKILL; and not PR_SET_PDEATHSIG,
because that fires when the *thread* that started the command ends. Run as a script, by itself: it
imports little, so that it starts in some 15 ms.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Do what the order on the command line says, until its parent, its command or a SIGTERM ends it."""
    order = json.loads(sys.argv[1])
    _adopt_orphans()
    # From here SIGTERM is an exception, so that what follows is always cleaned up.
    woken = _wake_on_signals()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end us
    command = None
    orphaned = False
    try:
        parent = os.pidfd_open(order["parent"])
        if os.getppid() != order["parent"]:
            return
        try:
            command = subprocess.Popen(
                order["command"], stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
            )
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            return
        sys.stdout.write(f"{command.pid}\n")
        sys.stdout.flush()
        watched = [parent, woken, os.pidfd_open(command.pid)]
        ended, _, _ = select.select(watched, [], [])
        if order["afterwards"] and parent not in ended:
            # A mount whose process died stays dead, to be looked at.
            ended, _, _ = select.select([parent, woken], [], [])
        orphaned = parent in ended
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if command is not None:
            _end_family(command.pid)
        for line in order["afterwards"]:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(line, timeout=10, check=False, stdout=sys.stderr)
        if orphaned:
            import shutil

            shutil.rmtree(order["workspace"], ignore_errors=True)


def _wake_on_signals() -> int:
    """Return what becomes readable with a signal: one that comes just before a select does not interrupt it."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


def _adopt_orphans() -> None:
    """Become the parent of the command's own children when it ends, so that they can be waited for."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_family(leader: int) -> None:
    """Kill the command with its own children, and see all of them gone, with their ports."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _leave(*_: object) -> None:
    raise SystemExit


if __name__ == "__main__":
    main()
