"""What was written into a directory, a line each, added before the file appears under its name.

After a kill at any point a file is ours if it is the one that a line describes, and one that no line describes is
somebody else's. A line may describe a file that never came to its place; so the lines before it still count until the
file itself has been looked at.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.folders.room import translated
from ai4os_data.machine import ownership, replace_whole, write_all
from ai4os_data.stores import Entry
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = os.O_CREAT | os.O_WRONLY | os.O_APPEND
_IS_FOLDER = 1
_WORTH_WRITING_ANEW = 1000  # lines that no longer say anything


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
        """Whether a local file is still as it was left; a power cut may have left less of it, which is ours too."""
        is_it = self.inode == found.st_ino and self.mtime_ns == found.st_mtime_ns
        return is_it and found.st_size <= self.local_bytes


class Journal:
    """The files and folders that were written into one directory from one location.

    Args:
        path: of the journal; it need not be there yet.

    Attributes:
        files: what was written, by key: the newest line of each, or the one that is known to hold.
        folders: the folders that were made.
    """

    def __init__(self, path: str) -> None:
        self.files: dict[str, Written] = {}
        self.folders: set[str] = set()
        self._path = path
        self._folder = os.path.dirname(path)
        self._earlier: dict[str, list[Written]] = {}  # what the newest line may not have replaced
        self._lines = 0
        self._descriptor = -1
        self._end = 0
        self._read()

    def settle(self, key: str, found: os.stat_result) -> Written | None:
        """Find what a file of the directory was written as; other lines about it no longer count.

        Returns:
            None if it is not ours, or was changed since.
        """
        newest = self.files.get(key)
        if newest is None:
            return None
        earlier = self._earlier.get(key, ())
        holds = next((written for written in (newest, *reversed(earlier)) if written.is_at(found)), None)
        if holds is not None and earlier:
            self.files[key] = holds
            del self._earlier[key]
        return holds

    def add(self, key: str, written: Written) -> None:
        """Record what is about to appear under its name."""
        self._append([key, *written])

    def add_folder(self, key: str) -> None:
        """Record a folder that is about to be made."""
        self._append([key, _IS_FOLDER])

    def remove(self, key: str) -> None:
        """Record that a file or a folder was removed."""
        self._append([key])

    def _append(self, line: list[Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        with translated(self._folder, recording):
            if self._descriptor < 0:
                self._descriptor = ownership.open_file(self._path, _FLAGS)
                self._end = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, data)
            except BaseException:  # a part of a line would spoil the next one
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                raise
        self._end += len(data)
        self._take(line)

    def _take(self, line: list[Any]) -> None:
        self._lines += 1
        key, *rest = line
        if len(rest) > 1:
            if (before := self.files.get(key)) is not None:
                self._earlier.setdefault(key, []).append(before)
            self.files[key] = Written(*rest)
            return
        self.files.pop(key, None)
        self._earlier.pop(key, None)
        if rest:
            self.folders.add(key)
        else:
            self.folders.discard(key)

    # --- the file

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                whole, newline, torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        for line in _lines(whole, self._path):
            self._take(line)
        if torn:  # a kill in the midst of a line, whose file had not yet appeared
            os.truncate(self._path, len(whole) + len(newline))

    def tidy(self) -> None:
        """Make the file on the disk sure, and write it anew if most of its lines say nothing any more."""
        told = len(self.files) + len(self.folders) + sum(map(len, self._earlier.values()))
        if self._lines - told > _WORTH_WRITING_ANEW:
            self.close()
            data = "".join(f"{json.dumps(line)}\n" for line in self._all_lines()).encode()
            replace_whole(self._path, f"{self._path}.new", data, mode=0o600)
            self._lines = told
        elif self._descriptor >= 0:
            os.fdatasync(self._descriptor)

    def _all_lines(self) -> Iterator[list[Any]]:
        yield from ([key, _IS_FOLDER] for key in self.folders)
        for key, written in self.files.items():
            yield from ([key, *one] for one in chain(self._earlier.get(key, ()), (written,)))

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def recording() -> str:
    """What it is for, as a message shows it."""
    return "what is copied is recorded (AI4OS_DATA_COPIES names another folder for records)"


def _lines(whole: bytes, path: str) -> list[list[Any]]:
    """The lines of a journal; one that is damaged, as a power cut may leave it, is left out."""
    try:
        lines: list[list[Any]] = json.loads(b"[%s]" % whole.replace(b"\n", b","))
        if all(_is_line(line) for line in lines):
            return lines
    except ValueError:
        pass
    lines, damaged = [], 0
    for text in whole.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if _is_line(line):
            lines.append(line)
        else:
            damaged += 1
    log.warning("%s: %d lines are damaged: the files that they describe are no longer known to be ours", path, damaged)
    return lines


def _is_line(line: Any) -> bool:
    return isinstance(line, list) and len(line) in _LENGTHS and isinstance(line[0], str)


_LENGTHS = (1, 2, 1 + len(Written._fields))
