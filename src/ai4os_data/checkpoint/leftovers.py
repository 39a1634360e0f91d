"""Removal of what closed runs have left in a directory of spools.

Only checkpoints that have arrived on a storage are removed, by age, by share of the disk and by the number of runs. On
the storage they are safe, and the copy here only makes the next restore of the run faster. Attempts of living processes
are left alone, and so is everything under another name. See docs/decisions/2026-11-28-what-closed-runs-leave.md.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.checkpoint.attempts import (
    DELETED,
    JOURNAL,
    levels_in,
    remove_if_abandoned,
    remove_if_empty,
    turn,
)
from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.checkpoint.spool_directory import run_folders
from ai4os_data.machine import disk_bytes, locks, ownership
from ai4os_data.stores import is_on_the_server
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ai4os_data.checkpoint.attempts import Deleted
    from ai4os_data.stores import Level

NEWEST_STAYS_S = 7 * 86400.0  # the newest checkpoint of each run
OTHERS_STAY_S = 86400.0
SHARE_OF_DISK = 0.1
SHARE_OF_LIMIT = 0.5
MOST_RUNS = 4


class _Arrived(NamedTuple):
    """A checkpoint of a closed run that is on its storage too. The first in order is removed first."""

    is_newest: bool
    written_at: float
    size_bytes: int
    run: Path
    name: CheckpointName

    def is_old(self, now: float) -> bool:
        return now - self.written_at > (NEWEST_STAYS_S if self.is_newest else OTHERS_STAY_S)


def drop_all(directory: Path, own: Path) -> None:
    """Remove everything that has arrived, of all runs but one, and what was set aside, because the room is needed."""
    for run in _others(directory, own):
        _remove(run, None)


def sweep(directory: Path, own: Path, limit_bytes: int | None = None) -> None:
    """Remove old checkpoints, and then the oldest ones until the share of the disk and the number of runs are kept.

    It looks at all runs but one.

    Args:
        directory: with the folders of runs.
        own: the folder of the run that sweeps; that run removes its own.
        limit_bytes: the most that the spools may take.
    """
    runs = _others(directory, own)
    doomed = _doomed([arrived for run in runs for arrived in _found(run)], _share_bytes(directory, limit_bytes))
    for run in runs:
        _remove(run, {arrived.name for arrived in doomed if arrived.run == run})


def _others(directory: Path, own: Path) -> list[Path]:
    return [run for run in run_folders(directory) if run != own]


def _doomed(found: Iterable[_Arrived], share_bytes: int) -> list[_Arrived]:
    now = time.time()
    doomed: list[_Arrived] = []
    kept: list[_Arrived] = []
    for arrived in found:
        (doomed if arrived.is_old(now) else kept).append(arrived)
    left_bytes, left_runs = sum(arrived.size_bytes for arrived in kept), len({arrived.run for arrived in kept})
    for arrived in sorted(kept):  # the newest of each run comes last
        if left_bytes > share_bytes or (arrived.is_newest and left_runs > MOST_RUNS):
            doomed.append(arrived)
            left_bytes -= arrived.size_bytes
            left_runs -= arrived.is_newest
    return doomed


def _share_bytes(directory: Path, limit_bytes: int | None) -> int:
    disk = os.statvfs(directory)
    share_bytes = int(SHARE_OF_DISK * disk.f_blocks * disk.f_frsize)
    return share_bytes if limit_bytes is None else min(share_bytes, int(SHARE_OF_LIMIT * limit_bytes))


@contextmanager
def _closed(run: Path) -> Iterator[list[Path]]:
    """The attempts of a run whose processes are dead, locked so that no other process takes them over.

    Raises:
        OSError: the run cannot be looked at, or another process adds to it or looks through it just now.
    """
    with turn(run) as is_ours, ExitStack() as held:
        if not is_ours:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process has its turn", str(run))
        dead: list[Path] = []
        for folder in sorted(run.iterdir()):
            is_attempt = AttemptName.parse(folder.name) is not None and ownership.is_own_folder(folder)
            if is_attempt and (lock := locks.lock_of_the_dead(folder, is_folder=True)) is not None:
                held.callback(locks.release, lock)
                dead.append(folder)
        yield dead


def _found(run: Path) -> list[_Arrived]:
    """The checkpoints of a run that have arrived, and whose processes are dead."""
    facts: dict[CheckpointName, tuple[float, int]] = {}
    with suppress(OSError), _closed(run) as attempts:  # a run that cannot be looked at stays, and delays no start
        for attempt in attempts:
            for name, folder, level in _arrived(attempt):
                # A checkpoint that was removed on the storage has its last copy here for a while.
                if level != DELETED or time.time() - (attempt / JOURNAL).stat().st_mtime >= NEWEST_STAYS_S:
                    facts[name] = folder.stat().st_mtime, sum(map(disk_bytes, folder.iterdir()))
    newest = max(facts, key=lambda name: (name.order, name), default=None)
    return [_Arrived(name == newest, at, size_bytes, run, name) for name, (at, size_bytes) in facts.items()]


def _arrived(attempt: Path) -> Iterator[tuple[CheckpointName, Path, Level | Deleted]]:
    for name, level in levels_in(attempt).items():
        folder = attempt / name.folder
        if (level == DELETED or is_on_the_server(level)) and ownership.is_own_folder(folder):
            yield name, folder, level


def _remove(run: Path, doomed: set[CheckpointName] | None) -> None:
    """Remove some checkpoints, or all, if they may still be removed; also those only begun, and empty folders."""
    with suppress(OSError), _closed(run) as attempts:
        for attempt in attempts:
            for name, folder, _ in _arrived(attempt):
                if doomed is None or name in doomed:
                    shutil.rmtree(folder, ignore_errors=True)
                    log.info("removed %s from the spool: it is on its storage", folder)
            remove_if_empty(attempt)
        for path in run.iterdir():
            remove_if_abandoned(path)
        with suppress(OSError):  # something is left in it
            run.rmdir()
