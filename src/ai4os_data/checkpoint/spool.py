"""The spool: checkpoints on the local disk, whole and fsynced, until they are on the server.

Each attempt has a folder of its own, on which a lock lies for as long as its process lives. What a dead one has left is
taken over by the next start of the same run: complete checkpoints are sent, incomplete ones removed.

Nothing is removed or read but by the names that this module gives, in folders of this user, through no link.
"""

from __future__ import annotations

import errno
import hashlib
import operator
import os
import secrets
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.cache import SMALLEST_BYTES, spool_room
from ai4os_data.checkpoint import leftovers
from ai4os_data.checkpoint.attempts import (
    DELETED,
    JOURNAL,
    MOST_BYTES,
    NEW,
    deleted_in,
    levels_in,
    note_level,
    read_file,
    remove_if_abandoned,
    remove_if_begun,
    remove_if_empty,
    turn,
)
from ai4os_data.checkpoint.manifest import FileFacts, Manifest
from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName, state_file
from ai4os_data.checkpoint.serialisation import sha256_of, write_state
from ai4os_data.checkpoint.spool_directory import default_directory, make_run_folder, prepared, usable_directory
from ai4os_data.machine import descriptors, disk_bytes, is_at, locks, ownership, parse_size, write_new
from ai4os_data.stores import is_on_the_server
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.stores import Level

__all__ = ["Spool", "Spooled", "default_directory", "is_intact", "parse_limit", "usable_directory"]

_TURN_S = 10.0  # the longest wait for another process that looks through the run's folder
_TRIES = 3

# The folders for downloads of this process, each with the descriptor that has its lock: some are read until it ends.
_scratches: dict[Path, int] = {}


@dataclass
class Spooled:
    """A checkpoint that lies in the spool.

    Attributes:
        manifest: what it consists of.
        folder: where it lies.
        level: how far it had come when somebody last looked; ``"local"`` is not on the server.
    """

    manifest: Manifest
    folder: Path
    level: Level = "local"

    @property
    def name(self) -> CheckpointName:
        """What it is called."""
        return self.manifest.name

    @property
    def is_whole(self) -> bool:
        """Whether its files are all there; what is in them was not looked at."""
        files = (MANIFEST, *self.manifest.files)
        return ownership.is_own_folder(self.folder) and all(
            ownership.is_regular_file(self.folder / file) for file in files
        )


class Spool:
    """The checkpoints of one run on this machine.

    Args:
        directory: on a local disk; shared by any number of runs.
        run: what tells the run from others.
        limit_bytes: the most that all runs in the directory may take; None for what is free, less a reserve.
    """

    def __init__(self, directory: Path, run: str, limit_bytes: int | None = None) -> None:
        self.directory = prepared(directory)
        self.limit_bytes = limit_bytes
        self.folder = self.directory / hashlib.sha256(run.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._locks: dict[AttemptName, int] = {}  # the attempts of this process, and those of the dead
        self._current: AttemptName | None = None  # the one that this process saves under
        self._entries: dict[CheckpointName, Spooled] = {}
        self._aside: dict[CheckpointName, Path] = {}  # removed on the storage, and kept for a while all the same
        self._guard = threading.RLock()
        self.reading = threading.Lock()  # held while one is read, and while what newer ones supersede is removed
        self._is_read = False
        make_run_folder(self.folder)

    def open_attempt(self, attempt: AttemptName) -> None:
        """Make the folder of an attempt; it is this process's until that ends.

        Raises:
            CheckpointError: the spool cannot be written.
            OutOfSpaceError: the disk is full.
        """
        try:
            lock = self._opened_at_last(attempt)
        except OSError as error:
            if _is_full(error):
                raise self._full(os.strerror(errno.ENOSPC)) from error
            raise errors.CheckpointError(f"{self.directory} cannot be used as a spool: {error.strerror}") from error
        with self._guard:
            self._locks[attempt] = lock
            self._current = attempt

    def _opened_at_last(self, attempt: AttemptName) -> int:
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):  # another process has begun or ended just now, and removed what is empty
                return self._opened(attempt)
        return self._opened(attempt)

    def _opened(self, attempt: AttemptName) -> int:
        make_run_folder(self.folder)  # somebody may have removed it
        beside = self.folder / f"{attempt}{NEW}-{secrets.token_hex(4)}"
        beside.mkdir(mode=0o700)
        lock = ownership.open_folder(beside)
        try:
            locks.lock(lock)
            beside.rename(self.folder / str(attempt))
        except BaseException:
            os.close(lock)
            raise
        _sync_folder(self.folder)
        return lock

    def _make_anew(self) -> None:
        """Make sure that the folders of the run and of its attempt are there, also after somebody has removed them.

        Raises:
            CheckpointError: there is something else in their place.
            OSError: they cannot be made.
        """
        with self._guard:
            # A run that has nothing here yet misses nothing: who closes last removes the empty folder.
            is_there = self.folder.exists() or (self._current is None and not self._entries)
            make_run_folder(self.folder)
            attempt = self._current
            lock = self._locks.get(attempt) if attempt is not None else None
            if attempt is not None and lock is not None and not is_at(lock, self.folder / str(attempt)):
                is_there = False
                self._locks[attempt] = self._opened(attempt)
                os.close(lock)
            if not is_there:
                self._tell_removed()

    def _tell_removed(self) -> None:
        gone = [spooled for spooled in self._entries.values() if not spooled.is_whole]
        for spooled in gone:
            del self._entries[spooled.name]
        lost = [str(spooled.name.step) for spooled in gone if not is_on_the_server(spooled.level)]
        log.warning(
            "%s was removed while the run goes on, and is made anew; saving goes on. %sIf something cleans that place, "
            "give StorageCheckpoint another, as spool= or AI4OS_DATA_SPOOL",
            self.folder,
            f"What was not on the storage yet is lost: step {', '.join(lost)}. " if lost else "",
        )

    def adopt(self) -> list[Spooled]:
        """Take over what dead attempts have left, and remove what they had only begun; newest last."""
        with self._guard, turn(self.folder, _TURN_S):
            for path in sorted(self.folder.glob("*")):
                if (attempt := AttemptName.parse(path.name)) and attempt not in self._locks:
                    self._adopt(attempt, path)
                else:
                    remove_if_abandoned(path)
            return self.entries()

    def entries(self) -> list[Spooled]:
        """What is complete, of this process and of the dead; newest last."""
        with self._guard:
            return sorted(self._entries.values(), key=lambda spooled: (spooled.name.order, spooled.name))

    def attempts(self) -> list[AttemptName]:
        """Every attempt that has a folder here, living ones of other processes included."""
        return [name for path in self.folder.glob("*") if (name := AttemptName.parse(path.name))]

    def find(self, name: CheckpointName) -> Spooled | None:
        """A checkpoint, if it lies here."""
        with self._guard:
            spooled = self._entries.get(name)
            return spooled if spooled is not None and spooled.folder.exists() else None

    def write(self, name: CheckpointName, payload: Any, facts: Callable[[dict[str, FileFacts]], Manifest]) -> Spooled:
        """Serialise a state; when this returns, it survives the end of the process.

        Args:
            name: what it is called; its attempt is open.
            payload: what torch.save takes.
            facts: makes the manifest from the sizes and hashes of the files.

        Raises:
            OutOfSpaceError: the disk is full. What was written of it is gone again.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                self._make_anew()
                return self._written(name, payload, facts)
            except FileNotFoundError as error:  # somebody removes it just now
                if not tries_left:
                    raise self._always_removed() from error
        raise AssertionError

    def _written(
        self, name: CheckpointName, payload: Any, facts: Callable[[dict[str, FileFacts]], Manifest]
    ) -> Spooled:
        final = self.folder / str(name)
        beside = final.with_name(f"{final.name}{NEW}")
        try:
            beside.mkdir(mode=0o700)
            written = write_state(payload, beside / NEW)
            file = state_file(written.sha256)
            (beside / NEW).rename(beside / file)
            self._check_limit(0)
            manifest = facts({file: FileFacts(written.size_bytes, written.sha256)})
            write_new(beside / MANIFEST, manifest.to_json())
            _sync_folder(beside)
            beside.rename(final)
            _sync_folder(final.parent)
        except BaseException as error:
            shutil.rmtree(beside, ignore_errors=True)
            if _is_full(error):
                raise self._full(f"{os.strerror(errno.ENOSPC)} while step {name.step} was written") from error
            raise
        with self._guard:
            self._entries[name] = spooled = Spooled(manifest, final)
        return spooled

    def note(self, spooled: Spooled, level: Level) -> None:
        """Write down that a checkpoint has reached a level on the server."""
        spooled.level = level
        try:
            note_level(spooled.folder.parent, spooled.name, level)
        except FileNotFoundError:  # somebody has removed all of it
            log.debug("%s is gone", spooled.folder.parent)
        except OSError as error:  # a full disk: then the next start looks once more whether it is there
            log.warning("%s: cannot note that it has arrived: %s", spooled.folder, error.strerror)

    def remove(self, spooled: Spooled) -> None:
        """Remove a checkpoint; the folder of a dead attempt goes with its last one."""
        with self._guard:
            self._entries.pop(spooled.name, None)
            with suppress(FileNotFoundError):
                # From here on it is incomplete. No rename: of a folder that came with a container's image, it fails.
                (spooled.folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(spooled.folder)

    def set_aside(self, spooled: Spooled) -> None:
        """Leave alone what somebody has removed on the storage: from now on it is no checkpoint of the run."""
        with self._guard:
            self._aside[spooled.name] = spooled.folder
            self._entries.pop(spooled.name, None)
            with suppress(OSError):  # a full disk: then the next start finds it out once more
                note_level(spooled.folder.parent, spooled.name, DELETED)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Remove nothing while a checkpoint is read."""
        with self.reading:
            self._is_read = True
            try:
                yield
            finally:
                self._is_read = False

    def drop_sent(self) -> None:
        """Remove what is on the store already, where a restore finds it too, and what was set aside."""
        for spooled in self.entries():
            if is_on_the_server(spooled.level) and not self._is_read:
                self.remove(spooled)
        with self._guard:
            for folder in self._aside.values():
                shutil.rmtree(folder, ignore_errors=True)
            self._aside.clear()

    def check_room(self, size_bytes: int) -> None:
        """Make sure that so much more may be written.

        Raises:
            OutOfSpaceError: it may not.
        """
        self._check_limit(size_bytes)
        self.check_disk(size_bytes)

    def check_disk(self, size_bytes: int) -> None:
        """The same for what does not stay, and which the limit does not bind.

        Raises:
            OutOfSpaceError: the disk has too little.
        """
        free, reserve = self._room()
        if size_bytes + reserve > free:
            raise self._full(f"{free:,} bytes are free on its disk")

    def _check_limit(self, size_bytes: int) -> None:
        if self.limit_bytes is not None and (used := self.used_bytes()) + size_bytes > self.limit_bytes:
            raise self._full(f"{used:,} bytes of {self.limit_bytes:,} are taken")

    def _room(self) -> tuple[int, int]:
        """What is free on the disk, and what of it is to stay so."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._make_anew()
                return spool_room(self.folder)
            except FileNotFoundError as error:  # somebody removes it just now
                if not tries_left:
                    raise self._always_removed() from error
        raise AssertionError

    def lacking_on_disk(self, size_bytes: int) -> int:
        """How much has to become free on the disk before so much more may be written."""
        free, reserve = self._room()
        return max(0, size_bytes + reserve - free)

    def used_bytes(self) -> int:
        """What all runs take in the directory."""
        below = os.walk(self.directory)
        return sum(disk_bytes(os.path.join(folder, file)) for folder, _, files in below for file in files)

    def scratch(self) -> Path:
        """A new folder for a download, which the caller removes; that of a dead process goes with the next start."""
        self._make_anew()
        _close_gone()
        while True:
            path = self.folder / f"restore-{os.getpid()}-{secrets.token_hex(4)}"
            path.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # taken for abandoned before it was locked
                descriptor = ownership.open_folder(path)
                locks.lock(descriptor)
                if is_at(descriptor, path):
                    _scratches[path] = descriptor
                    return path
                os.close(descriptor)

    def let_go(self) -> None:
        """Close the locks, so that the next start may take over."""
        self.unlock()
        with suppress(OSError):  # something is left in it
            self.folder.rmdir()

    def unlock(self) -> None:
        """Close the locks, and leave the folder of the run, which another object of this process may use."""
        with self._guard:
            for attempt, lock in self._locks.items():
                is_empty = not any(name.attempt == attempt for name in (*self._entries, *self._aside))
                if is_empty and is_at(lock, self.folder / str(attempt)):
                    with suppress(OSError):  # then the next start does it
                        remove_if_empty(self.folder / str(attempt))
                os.close(lock)
            self._locks.clear()

    def after_fork(self) -> None:
        """Close a child's copies of the locks, which would outlive the parent; the parent's own stay locked."""
        for lock in self._locks.values():
            os.close(lock)
        self._locks = {}

    def _adopt(self, attempt: AttemptName, path: Path) -> None:
        if not ownership.is_own_folder(path):
            log.warning("%s is no folder of %s, and is left alone", path, ownership.user(os.geteuid()))
            return
        lock = locks.lock_of_the_dead(path, is_folder=True)
        if lock is None:
            log.info("%s is in use by another StorageCheckpoint, of this process or another, and left to it", path)
            return
        self._locks[attempt] = lock
        levels, deleted = levels_in(path), deleted_in(path)
        for folder in sorted(path.iterdir()):
            name = CheckpointName.parse(f"{attempt}/{folder.name}")
            if remove_if_begun(folder) or name is None or not ownership.is_own_folder(folder):
                continue
            if name in deleted:
                self._keep_aside(name, folder)
            elif (manifest := _manifest_in(folder, name)) is not None:
                self._entries[name] = Spooled(manifest, folder, levels.get(name, "local"))

    def _keep_aside(self, name: CheckpointName, folder: Path) -> None:
        """Leave alone what an earlier start has set aside, until its time is over."""
        if time.time() - (folder.parent / JOURNAL).stat().st_mtime > leftovers.NEWEST_STAYS_S:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._aside[name] = folder

    def _always_removed(self) -> errors.CheckpointError:
        return errors.CheckpointError(
            f"{self.folder} is removed as often as it is made, so that nothing can be saved there; give "
            "StorageCheckpoint another spool, as spool= or AI4OS_DATA_SPOOL"
        )

    def _full(self, why: str) -> errors.OutOfSpaceError:
        return errors.OutOfSpaceError(
            f"no room in the spool {self.directory}: {why}. The checkpoints before are kept, and training goes on; "
            "give StorageCheckpoint a spool on a larger disk, a higher spool_limit, or its cache a lower limit"
        )


def _manifest_in(folder: Path, name: CheckpointName) -> Manifest | None:
    """The manifest of a checkpoint; None where it is damaged or cannot be read, and the checkpoint is left alone.

    Raises:
        OpenFilesError: this process can open no more files: that tells nothing of it.
    """
    try:
        return Manifest.from_json(read_file(folder / MANIFEST, MOST_BYTES), name)
    except (errors.IntegrityError, OSError) as error:
        if isinstance(error, OSError) and (exhausted := descriptors.exhausted(error)) is not None:
            raise exhausted from error
        log.warning("%s cannot be used, and is left alone: %s", folder, error)
        return None


def is_intact(spooled: Spooled) -> bool:
    """Whether every byte is as the manifest says."""
    try:
        return spooled.is_whole and all(
            (spooled.folder / file).stat().st_size == facts.size_bytes
            and sha256_of(spooled.folder / file) == facts.sha256
            for file, facts in spooled.manifest.files.items()
        )
    except OSError:
        return False


def parse_limit(limit: int | str | None) -> int | None:
    """Bytes from a number or a text such as ``"20GiB"``; None for what the disk has.

    Raises:
        ValueError: it is neither.
    """
    if limit is None or limit == "auto":
        return None
    try:
        size_bytes = parse_size(limit) if isinstance(limit, str) else operator.index(limit)
    except (TypeError, ValueError):
        message = f"{limit!r} is not a spool limit: write a number of bytes, '20GiB' or 'auto'"
        raise ValueError(message) from None
    if size_bytes < SMALLEST_BYTES:
        raise ValueError(f"{limit!r} is no spool limit: it has to be at least {SMALLEST_BYTES:,} bytes")
    return size_bytes


def _is_full(error: BaseException) -> bool:
    """Whether the disk says that it is full, and not one of us."""
    is_ours = isinstance(error, errors.StorageError)
    return isinstance(error, OSError) and not is_ours and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _sync_folder(folder: Path) -> None:
    descriptor = ownership.open_folder(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close_gone() -> None:
    """Let go of the downloads that were removed."""
    for path, descriptor in list(_scratches.items()):
        if not is_at(descriptor, path):
            os.close(_scratches.pop(path))
