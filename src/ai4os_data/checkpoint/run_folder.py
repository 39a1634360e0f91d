"""The folder of a run in a directory of spools, and this process's locks on the folders in it.

Each attempt has a folder, which is locked as long as its process lives. New folders are made and locked while this
process has its turn, so that no other one takes them for abandoned. Folders that somebody removes during the run are
made again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors
from ai4os_data.checkpoint.attempts import NEW, TURN_S, remove_if_empty, turn
from ai4os_data.checkpoint.names import AttemptName
from ai4os_data.checkpoint.spool_directory import make_run_folder, prepared
from ai4os_data.machine import is_at, locks, ownership, sync_folder, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

T = TypeVar("T")

_TRIES = 3  # at least
_TRIED_S = 10.0  # at least: other processes that start remove empty folders, and may do so before this one has its turn

# This process's folders for downloads, with the descriptors of their locks: some are read until the process ends.
_scratches: dict[Path, int] = {}


def folder_of_run(directory: Path, run: str) -> Path:
    """The folder of a run in a directory of spools, by what the run is known by."""
    return directory / hashlib.sha256(run.encode("utf-8", "surrogateescape")).hexdigest()[:24]


class RunFolder:
    """The folder of one run on this machine.

    Args:
        directory: of spools, on a local disk.
        run: identifies the run among all others.

    Attributes:
        attempt: the one that this process saves under; None before its first save.
        locks: of the attempts of this process, and of those of dead ones that it has taken over.
    """

    def __init__(self, directory: Path, run: str) -> None:
        self.directory = prepared(directory)
        self.path = folder_of_run(self.directory, run)
        self.attempt: AttemptName | None = None
        self.locks: dict[AttemptName, int] = {}
        make_run_folder(self.path)
        tell_after_fork(self)

    def open(self, attempt: AttemptName) -> None:
        """Make the folder of an attempt; it is this process's until that ends."""
        self.locks[attempt] = self.tried(lambda: self._opened(attempt))
        self.attempt = attempt

    def tried(self, work: Callable[[], T]) -> T:
        """The result of some work, which is repeated if somebody removes the folders during it.

        Raises:
            CheckpointError: they are removed again and again.
        """
        tries, until = 0, time.monotonic() + _TRIED_S
        while True:
            tries += 1
            try:
                return work()
            except FileNotFoundError as error:
                if tries >= _TRIES and time.monotonic() >= until:
                    raise errors.CheckpointError(
                        f"{self.path} is removed as often as it is made, so that nothing can be saved there; give "
                        "StorageCheckpoint another spool, as spool= or AI4OS_DATA_SPOOL"
                    ) from error

    def make_anew(self) -> bool:
        """Make the folders of the run and of its attempt if they are missing. Returns whether one was.

        Raises:
            CheckpointError: there is something else in their place.
            OSError: they cannot be made.
        """
        is_there = self.path.exists()
        make_run_folder(self.path)
        lock = self.locks.get(self.attempt) if self.attempt is not None else None
        if self.attempt is not None and lock is not None and not is_at(lock, self.path / str(self.attempt)):
            is_there = False
            self.locks[self.attempt] = self._opened(self.attempt)
            os.close(lock)
        return not is_there

    def attempts(self) -> list[AttemptName]:
        """Every attempt that has a folder here, living ones of other processes included."""
        return [name for path in self.path.glob("*") if (name := AttemptName.parse(path.name))]

    def take_over(self, attempt: AttemptName) -> bool:
        """Lock the folder of an attempt whose process is dead; False if it lives."""
        lock = locks.lock_of_the_dead(self.path / str(attempt), is_folder=True)
        if lock is not None:
            self.locks[attempt] = lock
        return lock is not None

    def scratch(self) -> Path:
        """A new folder for a download, which the caller removes; the next start removes that of a dead process."""
        for path, descriptor in list(_scratches.items()):
            if not is_at(descriptor, path):
                os.close(_scratches.pop(path))
        return self.tried(self._new_scratch)

    def unlock(self, used: Collection[AttemptName]) -> None:
        """Close the locks, so that the next start may take over; folders of unused attempts are removed."""
        for attempt, lock in self.locks.items():
            folder = self.path / str(attempt)
            if attempt not in used and is_at(lock, folder):
                with suppress(OSError):  # the next start removes it
                    remove_if_empty(folder)
            os.close(lock)
        self.locks.clear()

    def after_fork(self) -> None:
        """Close a child's copies of the locks, which would outlive the parent; the parent's own stay locked."""
        for lock in self.locks.values():
            os.close(lock)
        self.locks = {}

    def _opened(self, attempt: AttemptName) -> int:
        beside = self.path / f"{attempt}{NEW}-{secrets.token_hex(4)}"
        lock = self._new_folder(beside)
        try:
            beside.rename(self.path / str(attempt))
        except BaseException:
            os.close(lock)
            raise
        sync_folder(self.path)
        return lock

    def _new_scratch(self) -> Path:
        path = self.path / f"restore-{os.getpid()}-{secrets.token_hex(4)}"
        _scratches[path] = self._new_folder(path)
        return path

    def _new_folder(self, path: Path) -> int:
        """Make a folder in that of the run. Returns its lock.

        Raises:
            FileNotFoundError: somebody has removed the run's folder again.
        """
        make_run_folder(self.path)
        with turn(self.path, TURN_S):
            path.mkdir(mode=0o700)
            lock = ownership.open_folder(path)
            locks.lock(lock)
        return lock
