"""The record of a copy lies outside of its directory: what was written there, so that nothing else is ever touched.

A line is added before its file appears under its name. After a kill at any point, a file is ours if it is the one that
a line describes, and one that no line describes is somebody else's.
"""

from __future__ import annotations

import json
import os
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.folders.progress import Progress
from ai4os_data.machine import locks, ownership, replace_whole, write_all
from ai4os_data.stores import Entry
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.folders.progress import Show

_POLL_S = 0.1
_STATE = struct.Struct("<5q")
_WORTH_WRITING_ANEW = 1000  # lines that no longer say anything
_NEW_LINE = os.O_CREAT | os.O_WRONLY | os.O_APPEND


class Written(NamedTuple):
    """A file as it was left in the directory.

    Attributes:
        size_bytes: of the file on the store.
        etag: of the file on the store.
        modified: of the file on the store.
        prepared_as: what was made of it; empty for nothing.
        inode: of the local file.
        local_bytes: its length.
        mtime_ns: when it last changed, as was set.
    """

    size_bytes: int
    etag: str | None
    modified: str | None
    prepared_as: str
    inode: int
    local_bytes: int
    mtime_ns: int

    def is_of(self, entry: Entry, prepared_as: str) -> bool:
        """Whether it is what this version gives."""
        mine = Entry(entry.key, self.size_bytes, self.etag, self.modified)
        return self.prepared_as == prepared_as and mine.is_same_version(entry)

    def is_at(self, found: os.stat_result) -> bool:
        """Whether a local file is still as it was left."""
        return (self.inode, self.local_bytes, self.mtime_ns) == (found.st_ino, found.st_size, found.st_mtime_ns)


class Record:
    """What was written into one directory from one location; its lock is held as long as this lives.

    Attributes:
        waited: whether another process had the lock, and has let it go.
    """

    def __init__(self, folder: str, lock: int, *, waited: bool) -> None:
        self.waited = waited
        self._folder = folder
        self._lock = lock
        self._written: dict[str, Written] = {}
        self._before: dict[str, Written] = {}  # what a newer line may not have replaced yet
        self._lines = 0
        self._journal = -1
        self._shown_s = 0.0
        self._read()

    # --- what was written

    def of(self, key: str, found: os.stat_result) -> Written | None:
        """What a file of the directory was written as; None if it is not ours, or was changed since."""
        for written in (self._written.get(key), self._before.get(key)):
            if written is not None and written.is_at(found):
                return written
        return None

    @property
    def keys(self) -> list[str]:
        """The keys of all files that were written."""
        return list(self._written)

    def add(self, key: str, written: Written) -> None:
        """Record what is about to appear under its name."""
        self._append([key, *written])

    def remove(self, key: str) -> None:
        """Record that a file was removed."""
        self._append([key])

    def _append(self, line: list[Any]) -> None:
        if self._journal < 0:
            self._journal = ownership.open_file(f"{self._folder}/written", _NEW_LINE)
        write_all(self._journal, json.dumps(line).encode() + b"\n")
        self._take(line)

    def _take(self, line: list[Any]) -> None:
        self._lines += 1
        key, *rest = line
        before = self._written.pop(key, None)
        if rest:
            self._written[key] = Written(*rest)
            if before is not None:
                self._before[key] = before

    def _read(self) -> None:
        try:
            with open(f"{self._folder}/written", "rb") as file:
                whole, _, torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        try:
            lines = json.loads(b"[%s]" % whole.replace(b"\n", b","))
        except ValueError:  # as a power cut leaves it
            log.warning("%s/written is damaged: the files of that copy are no longer known to be ours", self._folder)
            lines = []
        for line in lines:
            self._take(line)
        if torn:  # a kill in the midst of a line, whose file had not yet appeared
            self._write_anew()

    def _write_anew(self) -> None:
        lines = [json.dumps([key, *written]) for key, written in self._written.items()]
        data = "".join(f"{line}\n" for line in lines).encode()
        replace_whole(f"{self._folder}/written", f"{self._folder}/written.new", data, mode=0o600)
        self._lines, self._before = len(lines), {}
        self._close_journal()

    # --- the listing that the copy is of

    def kept_listing(self, name: str) -> bytes | None:
        """The listing that was kept."""
        with suppress(OSError), open(f"{self._folder}/{name}", "rb") as file:
            return file.read()
        return None

    def keep_listing(self, name: str, data: bytes) -> None:
        """Keep a listing."""
        replace_whole(f"{self._folder}/{name}", f"{self._folder}/{name}.new", data, mode=0o600)

    # --- progress, for those who wait

    def show(self, progress: Progress, *, at_once: bool = False) -> None:
        """Let others see how far it is."""
        now = time.monotonic()
        if at_once or now - self._shown_s > _POLL_S:
            self._shown_s = now
            with suppress(OSError):  # of a full disk: others see an old state
                os.pwrite(self._lock, _STATE.pack(*progress[:4], os.getpid()), 0)

    def finished(self, job: str) -> None:
        """Record that everything that a job wants was there at this moment."""
        replace_whole(
            f"{self._folder}/finished", f"{self._folder}/finished.new", json.dumps([job, time.time()]).encode()
        )
        if self._lines - len(self._written) > _WORTH_WRITING_ANEW:
            self._write_anew()

    def has_finished(self, job: str, since_s: float) -> bool:
        """Whether somebody has finished a job since a moment."""
        with suppress(OSError, ValueError), open(f"{self._folder}/finished", "rb") as file:
            done, when_s = json.load(file)
            return bool(done == job and when_s >= since_s)
        return False

    def close(self) -> None:
        """Let the next one begin."""
        self._close_journal()
        locks.release(self._lock)

    def _close_journal(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


@contextmanager
def opened(folder: str, show: Show) -> Iterator[Record]:
    """The record in a folder, once no other process or thread copies.

    Args:
        folder: of the record; it is made if it is missing.
        show: is called with how far the other one is.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = ownership.open_file(f"{folder}/lock", os.O_CREAT | os.O_RDWR)
    waited = False
    try:
        while not locks.try_lock(lock):
            waited = True
            state = os.pread(lock, _STATE.size, 0)
            if len(state) == _STATE.size:
                show(Progress(*_STATE.unpack(state)))
            time.sleep(_POLL_S)
        record = Record(folder, lock, waited=waited)
        record.show(Progress(), at_once=True)
    except BaseException:
        locks.release(lock)
        raise
    try:
        yield record
    finally:
        record.close()
