"""The folders of attempts in a spool: a lock says whether their process lives, a journal which levels were reached.

A folder is locked as long as the process lives that made it; the kernel frees the lock. The folder is locked and not a
file in it: services that clean a folder for temporary files remove old files, and leave a locked folder alone
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
DELETED: Deleted = "deleted"  # it had arrived on the storage, and somebody has removed it there
MOST_BYTES = 16 * 1024 * 1024  # of a journal, or a manifest
_BEGUN = re.compile(r"(?P<attempt>[^.]+)\.new-[0-9a-f]{8}")  # an attempt's folder before it is locked
_SCRATCH = re.compile(r"restore-[0-9]+-[0-9a-f]{8}")
_PAUSE_S = 0.02
TURN_S = 10.0
"""How long a run waits at most for another process that looks through its folder."""


@contextmanager
def turn(folder: Path, longest_s: float = 0.0) -> Iterator[bool]:
    """Look through the folder of a run, or add to it, while no other process does. Gives whether this one may.

    A process that cleans up locks each attempt at which it looks; a run that starts at that moment would take such an
    attempt for a living one. It also removes what is not locked yet, and the empty folder itself. After the longest
    wait this process may do it anyway, since a run must be able to start.
    """
    try:
        descriptor = ownership.open_folder(folder)
    except OSError:  # somebody has removed the folder
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
    """Remove an attempt or a download that was only begun, unless a process works on it; nothing with another name."""
    begun = _BEGUN.fullmatch(path.name)
    is_begun = begun is not None and AttemptName.parse(begun["attempt"]) is not None
    if not (is_begun or _SCRATCH.fullmatch(path.name)) or not ownership.is_own_folder(path):
        return
    if (lock := locks.lock_of_the_dead(path, is_folder=True)) is not None:
        shutil.rmtree(path, ignore_errors=True)
        locks.release(lock)


def remove_if_begun(path: Path) -> bool:
    """Remove a checkpoint of a dead attempt if it was only begun, or half removed. Returns whether it was."""
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
    with suppress(OSError):  # it holds something that is not ours
        attempt.rmdir()


def levels_in(attempt: Path) -> dict[CheckpointName, Level | Deleted]:
    """The levels of the checkpoints in an attempt's folder, from its journal.

    Lines about anything else are ignored, and so is a line in which the process died.
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
            if name is None or str(name.attempt) != attempt.name or level not in {*LEVELS, DELETED}:
                continue
            if levels.get(name) != DELETED:  # it stays deleted
                levels[name] = level
    return levels


def note_level(attempt: Path, name: CheckpointName, level: Level | Deleted) -> None:
    """Write into the journal of an attempt's folder which level a checkpoint has reached, or that it was deleted.

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
