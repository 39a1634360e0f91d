"""Processes that end with this one, however this one ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_GUARD = Path(__file__).with_name("guard.py")
_START_TIMEOUT_S = 20.0  # generous, for a machine that runs other things too
_ABSENT = "could not be run"
_ENDED = "ended instead of answering"
_SILENT = f"did not answer within {_START_TIMEOUT_S:.0f} s"


class ServerFailedError(RuntimeError):
    """A server or a mount did not come up."""

    def __init__(self, program: str, what: str, said: str = "") -> None:
        super().__init__(f"{program} {what}: {said or '(it said nothing)'}")


class Child:
    """A command that runs from now on, until ``stop`` or the end of this process.

    Args:
        command: What to run. Its own children end with it.
        workspace: The folder of its files, with ``output.log`` for its stdout and stderr. It is removed
            if this process is killed before it can do that itself.
        environ: Its whole environment.
        afterwards: Commands to run when all is over, also after a SIGKILL of this process. With them,
            a command that ends by itself is left as it is until then.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        workspace: Path,
        environ: Mapping[str, str] | None = None,
        afterwards: Sequence[Sequence[str]] = (),
    ) -> None:
        self._command = list(command)
        self._afterwards = [list(line) for line in afterwards]
        self._output = workspace / "output.log"
        order = {
            "parent": os.getpid(),
            "command": self._command,
            "workspace": str(workspace),
            "afterwards": self._afterwards,
        }
        with self._output.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as told:
            line = told.readline()
        if not line:
            raise self._failure(_ABSENT)
        self.pid = int(line)
        self._handle = os.pidfd_open(self.pid)

    def ended(self) -> bool:
        """Whether the command has ended."""
        return bool(select.select([self._handle], [], [], 0)[0])

    def kill(self) -> None:
        """Send SIGKILL to the command, and see it end, with its own children."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        select.select([self._handle], [], [])
        if not self._afterwards:
            self._guard.wait()

    def stop(self) -> None:
        """End the command, its children and its guard, and run what comes afterwards."""
        self._guard.terminate()
        self._guard.wait()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return as soon as ``ready()``, or raise ``ServerFailedError`` with what the command said."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ready():
            if self.ended():
                raise self._failure(_ENDED)
            if time.monotonic() > deadline:
                raise self._failure(_SILENT)
            time.sleep(0.005)

    def _failure(self, what: str) -> ServerFailedError:
        said = self._output.read_text(errors="replace")[-2000:].strip()
        return ServerFailedError(self._command[0], what, said)


def serve_in_python(module: str, order: Mapping[str, object], workspace: Path) -> tuple[Child, int]:
    """Run ``module.main()`` in an interpreter of its own, and return it with the port that it published.

    It finds the order, with the workspace in it, by ``read_order``.
    """
    published = workspace / "port"
    published.unlink(missing_ok=True)
    child = Child(
        [
            sys.executable,
            "-c",
            f"from {module} import main; main()",
            json.dumps({**order, "workspace": str(workspace)}),
        ],
        workspace=workspace,
        environ={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with stopping(child):
        child.wait_until(published.exists)
    return child, int(published.read_text())


def read_order() -> tuple[dict[str, Any], Path]:
    """Return what ``serve_in_python`` ordered, and the workspace."""
    order = json.loads(sys.argv[1])
    return order, Path(order.pop("workspace"))


def publish_port(workspace: Path, port: int) -> None:
    """Tell ``serve_in_python`` that the server answers at that port."""
    unfinished = workspace / "port.new"
    unfinished.write_text(str(port))
    unfinished.rename(workspace / "port")


def accepts(port: int) -> bool:
    """Whether something on 127.0.0.1 takes connections at that port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def stopping(child: Child) -> Iterator[None]:
    """Stop the child when the block fails."""
    try:
        yield
    except BaseException:
        child.stop()
        raise


def find_program(name: str, *directories: str) -> str | None:
    """Return the path of a program beside the interpreter, on PATH, or in one of the directories."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), *directories]
    return shutil.which(name, path=os.pathsep.join(places))
