"""The folders of attempts in a spool: a lock says whether their process lives, a journal how far checkpoints have come.

A lock lies on a folder for as long as the process lives that made it; the kernel takes it back. It is on the folder and
not on a file in it: what cleans a folder for temporary files removes old files, and leaves a locked folder alone
(https://www.freedesktop.org/software/systemd/man/tmpfiles.d.html).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName
from ai4os_data.machine import locks, ownership, write_all
from ai4os_data.stores import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.stores import Level

NEW = ".new"
JOURNAL = "journal"
Deleted = Literal["deleted"]
DELETED: Deleted = "deleted"  # somebody has removed it on the storage, where it had arrived
MOST_BYTES = 16 * 1024 * 1024  # of a journal, or a manifest
_BEGUN = re.compile(r"(?P<attempt>[^.]+)\.new-[0-9a-f]{8}")  # an attempt's folder, before its lock is on it
_SCRATCH = re.compile(r"restore-[0-9]+-[0-9a-f]{8}")
_PAUSE_S = 0.02
TURN_S = 10.0
"""The longest wait of a run for another process that looks through its folder."""


@contextmanager
def turn(folder: Path, longest_s: float = 0.0) -> Iterator[bool]:
    """Look through the folder of a run, or add to it, while no other process does; whether this one may.

    Whoever looks for what can go locks each attempt that it looks at, and a run that starts meanwhile would take it for
    one that lives; it also removes what is not locked yet, and the empty folder itself. After the longest wait, this
    process may all the same: a run has to start.
    """
    try:
        descriptor = ownership.open_folder(folder)
    except OSError:  # somebody has removed it
        yield longest_s > 0
        return
    try:
        until = time.monotonic() + longest_s
        while not (is_ours := locks.try_lock(descriptor)) and time.monotonic() < until:
            time.sleep(_PAUSE_S)
        yield is_ours or longest_s > 0
    finally:
        locks.release(descriptor)


def remove_if_abandoned(path: Path) -> None:
    """Remove what an attempt or a download has only begun, if nobody is at it; nothing that is called otherwise."""
    begun = _BEGUN.fullmatch(path.name)
    is_begun = begun is not None and AttemptName.parse(begun["attempt"]) is not None
    if not (is_begun or _SCRATCH.fullmatch(path.name)) or not ownership.is_own_folder(path):
        return
    if (lock := locks.lock_of_the_dead(path, is_folder=True)) is not None:
        shutil.rmtree(path, ignore_errors=True)
        locks.release(lock)


def remove_if_begun(path: Path) -> bool:
    """Remove a checkpoint of a dead attempt if it was only begun, or half removed; whether it was."""
    name = CheckpointName.parse(f"{path.parent.name}/{path.name.removesuffix(NEW)}")
    is_begun = path.name.endswith(NEW) or not os.path.lexists(path / MANIFEST)
    if name is None or not is_begun or not ownership.is_own_folder(path):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


def remove_if_empty(attempt: Path) -> None:
    """Remove the folder of an attempt that has no checkpoint any more; it stays if it holds something else."""
    left = [path for path in attempt.iterdir() if not remove_if_begun(path)]
    if any(CheckpointName.parse(f"{attempt.name}/{path.name}") for path in left):
        return
    with suppress(FileNotFoundError):
        (attempt / JOURNAL).unlink()
    with suppress(OSError):  # there is something that is none of ours
        attempt.rmdir()


def levels_in(attempt: Path) -> dict[CheckpointName, Level | Deleted]:
    """How far the checkpoints of an attempt's folder have come, as its journal says.

    What it says of anything else than these is passed over, and so is a line that its process died in.
    """
    levels: dict[CheckpointName, Level | Deleted] = {}
    try:
        data = read_file(attempt / JOURNAL, MOST_BYTES)
    except OSError:  # none was written, or it is something else
        return levels
    for line in data.splitlines():
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            record = json.loads(line)
            name, level = CheckpointName.parse(str(record["checkpoint"])), record["level"]
            is_of_attempt = name is not None and str(name.attempt) == attempt.name
            if name is not None and is_of_attempt and level in {*LEVELS, DELETED} and levels.get(name) != DELETED:
                levels[name] = level
    return levels


def note_level(attempt: Path, name: CheckpointName, level: Level | Deleted) -> None:
    """Write into the journal of an attempt's folder how far a checkpoint has come, or that it is to be left alone.

    Raises:
        OSError: it cannot be written.
    """
    line = json.dumps({"checkpoint": str(name), "level": level}) + "\n"
    descriptor = ownership.open_file(attempt / JOURNAL, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        write_all(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, most_bytes: int) -> bytes:
    """The first bytes of a regular file."""
    with open(ownership.open_file(path, os.O_RDONLY), "rb") as file:
        return file.read(most_bytes)
