"""Disks of a size that a test chooses, and an eye on what they hold."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from tests.support.servers import need
from tests.support.servers.children import find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

_CAP_SYS_ADMIN = 21


def missing_mount(program: str = "mount") -> str | None:
    """Return why no disk can be mounted here, or None."""
    if os.geteuid() != 0:
        return "only root may mount a disk of its own"
    if not _effective_capabilities() >> _CAP_SYS_ADMIN & 1:
        return "root may not mount here: in a container, docker run --cap-add SYS_ADMIN"
    if find_program(program) is None:
        return f"no {program}: apt-get install e2fsprogs mount"
    return None


@contextlib.contextmanager
def tmpfs(point: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system in memory of just this size, in whole pages."""
    need(missing_mount())
    with _mounted(point, ["-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs"]):
        yield point


@contextlib.contextmanager
def ext4(point: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of this size in blocks of 4 KiB, from an image beside the point."""
    need(missing_mount("mkfs.ext4"))
    image = point.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    try:
        _run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", str(image)])
        with _loop_mounted(point, image):
            yield point
    finally:
        image.unlink()


@contextlib.contextmanager
def _loop_mounted(point: Path, image: Path) -> Iterator[None]:
    try:
        with _mounted(point, ["-o", "loop", str(image)]):
            yield
    except subprocess.CalledProcessError as error:
        need(f"no loop device can be mounted here: {error.stderr}")


@contextlib.contextmanager
def _mounted(point: Path, arguments: list[str]) -> Iterator[None]:
    point.mkdir()
    _run(["mount", *arguments, str(point)])
    try:
        yield
    finally:
        _run(["umount", "--lazy", str(point)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def make_read_only(point: Path) -> None:
    """Let nothing be written to a mounted disk from now on."""
    try:
        _run(["mount", "-o", "remount,ro", str(point)])
    except subprocess.CalledProcessError as error:
        need(f"a disk cannot be mounted read-only here: {error.stderr}")


def resize(point: Path, size_bytes: int) -> None:
    """Let a file system in memory be larger or smaller from now on."""
    _run(["mount", "-o", f"remount,size={size_bytes}", str(point)])


def used_bytes(point: Path) -> int:
    """Return what a whole file system holds, in one look."""
    disk = os.statvfs(point)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def allocated_bytes(directory: Path) -> int | None:
    """Return what ``du`` says of a directory; None where files came and went while it was walked."""
    total = 0
    seen: list[str] = []
    folders = [str(directory)]
    try:
        while folders:
            folder = folders.pop()
            total += os.lstat(folder).st_blocks * 512
            with os.scandir(folder) as items:
                for item in items:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
                    else:
                        total += item.stat(follow_symlinks=False).st_blocks * 512
                        seen.append(item.path)
        for path in seen:  # one that is gone may have made room for one that was counted after it
            os.lstat(path)
    except FileNotFoundError:
        return None
    return total


def cached_files(directory: Path) -> set[str]:
    """Return the names of the entries that lie in a cache directory, whole or not."""
    return {path.name for path in (directory / "objects").rglob("*-*") if path.is_file()}


def indexed_files(directory: Path) -> set[str]:
    """Return the names of the entries that its index knows."""
    with contextlib.closing(sqlite3.connect(directory / "index" / "cache.db")) as database:
        return {os.path.basename(name) for (name,) in database.execute("SELECT filename FROM Cache")}


class Peak:
    """The highest of many looks at a number, taken by a thread while the ``with`` lasts.

    Attributes:
        value: The highest.
        looks: How many looks there were.
    """

    def __init__(self, look: Callable[[], int | None], pause_s: float = 0.0005) -> None:
        self.value = 0
        self.looks = 0
        self._look = look
        self._pause_s = pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.is_set():
            found = self._look()
            if found is not None:
                self.value = max(self.value, found)
                self.looks += 1
            time.sleep(self._pause_s)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


def _effective_capabilities() -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
