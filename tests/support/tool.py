"""The command ``ai4os-data`` in a process of its own, as a shell starts it: into pipes, or at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_CODE = "import sys; from ai4os_data.cli.main import main; sys.exit(main())"


def command(*arguments: str | Path) -> list[str]:
    """What a shell would start."""
    return [sys.executable, "-c", _CODE, *map(str, arguments)]


def tool(
    *arguments: str | Path,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[str] | int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Args:
        arguments: what is typed after ``ai4os-data``.
        environ: what is set beside the variables of this process.
        cwd: where it is typed.
        stdout: where its output goes.
    """
    return subprocess.run(
        command(*arguments),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
        cwd=cwd,
    )


class Ended(NamedTuple):
    """What a command at a terminal has come to."""

    returncode: int
    stdout: str
    screen: str


def at_terminal(
    *arguments: str | Path,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    columns: int = 80,
    interrupted_when: Callable[[], bool] | None = None,
) -> Ended:
    """Run a command as ``$(…)`` at a terminal does: the output goes into a pipe, the rest to the terminal.

    Args:
        arguments: what is typed after ``ai4os-data``.
        environ: what is set beside the variables of this process.
        cwd: where it is typed.
        columns: how wide the terminal is.
        interrupted_when: says when Ctrl-C is pressed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command(*arguments),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", **(environ or {})},
        cwd=cwd,
    )
    os.close(theirs)
    shown: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, shown))
    reader.start()
    if interrupted_when is not None:
        interrupt(process, interrupted_when)
    stdout, _ = process.communicate(timeout=120)
    reader.join()
    os.close(ours)
    return Ended(process.returncode, stdout, b"".join(shown).decode())


def _read_all(terminal: int, shown: list[bytes]) -> None:
    try:
        while data := os.read(terminal, 65536):
            shown.append(data)
    except OSError:  # EIO: the last process that had it open has ended
        return


def interrupt(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    """Press Ctrl-C once something is so; the process must not have ended by itself before."""
    until = time.monotonic() + 60
    while not when() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be interrupted"
    process.send_signal(signal.SIGINT)
