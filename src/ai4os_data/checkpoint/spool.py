"""The spool: checkpoints on the local disk, whole and fsynced, until they are on the server.

Each attempt has a folder of its own with a lock that lives as long as its process. What a dead one has left is taken
over by the next start of the same run: complete checkpoints are sent, incomplete ones removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai4os_data import errors, mounts
from ai4os_data.cache.placement import SMALLEST_BYTES, is_size, parse_size, spool_directory, spool_room
from ai4os_data.checkpoint.levels import LEVELS, reaches
from ai4os_data.checkpoint.manifest import FileFacts, Manifest
from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName, state_file
from ai4os_data.checkpoint.serialisation import sha256_of, write_state
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ai4os_data.stores import Level

_NEW = ".new"
_LOCK = "lock"
_JOURNAL = "journal"


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


class Spool:
    """The checkpoints of one run on this machine.

    Args:
        directory: on a local disk; shared by any number of runs.
        run: what tells the run from others.
        limit_bytes: the most that all runs in the directory may take; None for what is free, less a reserve.
    """

    def __init__(self, directory: Path, run: str, limit_bytes: int | None = None) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.folder = directory / hashlib.sha256(run.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._locks: dict[AttemptName, int] = {}  # the attempts of this process, and those of the dead
        self._entries: dict[CheckpointName, Spooled] = {}
        self._guard = threading.RLock()
        _make_private(self.folder)

    def open_attempt(self, attempt: AttemptName) -> None:
        """Make the folder of an attempt; it is this process's until that ends.

        Raises:
            CheckpointError: the spool cannot be written.
            OutOfSpaceError: the disk is full.
        """
        try:
            try:
                lock = self._opened(attempt)
            except FileNotFoundError:  # another process of the run has ended just now, and left nothing
                lock = self._opened(attempt)
        except OSError as error:
            if _is_full(error):
                raise self._full(os.strerror(errno.ENOSPC)) from error
            raise errors.CheckpointError(f"{self.directory} cannot be used as a spool: {error.strerror}") from error
        with self._guard:
            self._locks[attempt] = lock

    def _opened(self, attempt: AttemptName) -> int:
        _make_private(self.folder)  # somebody may have removed it
        beside = self.folder / f"{attempt}{_NEW}-{secrets.token_hex(4)}"
        beside.mkdir(mode=0o700)
        lock = os.open(beside / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        beside.rename(self.folder / str(attempt))
        _sync_folder(self.folder)
        return lock

    def adopt(self) -> list[Spooled]:
        """Take over what dead attempts have left, and remove what they had only begun; newest last."""
        with self._guard:
            for path in sorted(self.folder.glob("*")):
                if path.name.startswith("restore-") or _NEW in path.name:
                    _remove_if_dead(path)
                elif (attempt := AttemptName.parse(path.name)) and attempt not in self._locks:
                    self._adopt(attempt, path)
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
            return self._entries.get(name)

    def write(self, name: CheckpointName, payload: Any, facts: Callable[[dict[str, FileFacts]], Manifest]) -> Spooled:
        """Serialise a state; when this returns, it survives the end of the process.

        Args:
            name: what it is called; its attempt is open.
            payload: what torch.save takes.
            facts: makes the manifest from the sizes and hashes of the files.

        Raises:
            OutOfSpaceError: the disk is full. What was written of it is gone again.
        """
        final = self.folder / str(name)
        beside = final.with_name(f"{final.name}{_NEW}")
        try:
            beside.mkdir(mode=0o700)
            written = write_state(payload, beside / _NEW)
            file = state_file(written.sha256)
            (beside / _NEW).rename(beside / file)
            self._check_limit(0)
            manifest = facts({file: FileFacts(written.size_bytes, written.sha256)})
            _write_file(beside / MANIFEST, manifest.to_json())
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
        line = json.dumps({"checkpoint": str(spooled.name), "level": level}) + "\n"
        try:
            _append(spooled.folder.parent / _JOURNAL, line.encode())
        except OSError as error:  # a full disk: then the next start looks once more whether it is there
            log.warning("%s: %s", spooled.folder, error.strerror)

    def remove(self, spooled: Spooled) -> None:
        """Remove a checkpoint; the folder of a dead attempt goes with its last one."""
        with self._guard:
            self._entries.pop(spooled.name, None)
            with suppress(FileNotFoundError):
                doomed = spooled.folder.with_name(f"{spooled.folder.name}{_NEW}")
                spooled.folder.rename(doomed)  # from here on it is incomplete
                shutil.rmtree(doomed)

    def drop_sent_of_others(self) -> None:
        """Remove what other runs have left here that is on their stores."""
        for run in self.directory.iterdir():
            attempts = [path for path in run.glob("*") if AttemptName.parse(path.name)]
            for folder in attempts if run != self.folder else []:
                if (lock := _try_lock(folder / _LOCK)) is not None:
                    for name, level in _levels(folder / _JOURNAL).items():
                        if reaches(level, "mount"):
                            shutil.rmtree(run / name, ignore_errors=True)
                    os.close(lock)

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
        free, reserve = spool_room(self.folder)
        if size_bytes + reserve > free:
            raise self._full(f"{free:,} bytes are free on its disk")

    def _check_limit(self, size_bytes: int) -> None:
        if self.limit_bytes is not None and (used := self.used_bytes()) + size_bytes > self.limit_bytes:
            raise self._full(f"{used:,} bytes of {self.limit_bytes:,} are taken")

    def lacking_on_disk(self, size_bytes: int) -> int:
        """How much has to become free on the disk before so much more may be written."""
        free, reserve = spool_room(self.folder)
        return max(0, size_bytes + reserve - free)

    def used_bytes(self) -> int:
        """What all runs take in the directory."""
        total = 0
        for folder, _, files in os.walk(self.directory):
            for file in files:
                with suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(folder, file)).st_blocks * 512
        return total

    def scratch(self) -> Path:
        """A new folder for a download, which the caller removes; that of a dead process goes with the next start."""
        path = self.folder / f"restore-{os.getpid()}-{secrets.token_hex(4)}"
        path.mkdir(mode=0o700, parents=True)
        return path

    def let_go(self) -> None:
        """Close the locks, so that the next start may take over."""
        self.unlock()
        with suppress(OSError):  # something is left in it
            self.folder.rmdir()

    def unlock(self) -> None:
        """Close the locks, and leave the folder of the run, which another object of this process may use."""
        with self._guard:
            for attempt, lock in self._locks.items():
                if not any(name.attempt == attempt for name in self._entries):
                    shutil.rmtree(self.folder / str(attempt), ignore_errors=True)
                os.close(lock)
            self._locks.clear()

    def after_fork(self) -> None:
        """Close a child's copies of the locks, which would outlive the parent; the parent's own stay locked."""
        for lock in self._locks.values():
            os.close(lock)
        self._locks = {}

    def _adopt(self, attempt: AttemptName, path: Path) -> None:
        lock = _try_lock(path / _LOCK)
        if lock is None:
            log.info("%s belongs to another process of this machine that lives: what it holds is left to it", path)
            return
        self._locks[attempt] = lock
        levels = _levels(path / _JOURNAL)
        for folder in sorted(path.iterdir()):
            if folder.name.endswith(_NEW):
                shutil.rmtree(folder, ignore_errors=True)
            elif name := CheckpointName.parse(f"{attempt}/{folder.name}"):
                with suppress(errors.IntegrityError, FileNotFoundError):
                    manifest = Manifest.from_json((folder / MANIFEST).read_bytes(), name)
                    self._entries[name] = Spooled(manifest, folder, levels.get(str(name), "local"))

    def _full(self, why: str) -> errors.OutOfSpaceError:
        return errors.OutOfSpaceError(
            f"no room in the spool {self.directory}: {why}. The checkpoints before are kept, and training goes on; "
            "give StorageCheckpoint a spool on a larger disk, a higher spool_limit, or its cache a lower limit"
        )


def is_intact(spooled: Spooled) -> bool:
    """Whether every byte is as the manifest says."""
    try:
        return all(
            (spooled.folder / file).stat().st_size == facts.size_bytes
            and sha256_of(spooled.folder / file) == facts.sha256
            for file, facts in spooled.manifest.files.items()
        )
    except OSError:
        return False


def default_directory(environ: Mapping[str, str]) -> Path:
    """Where checkpoints are spooled if nobody says: on a local disk, beside where the cache goes."""
    return Path(spool_directory(environ))


def parse_limit(limit: int | str | None) -> int | None:
    """Bytes from a number or a text such as ``"20GiB"``; None for what the disk has.

    Raises:
        ValueError: it is neither.
    """
    if limit is None or limit == "auto":
        return None
    if isinstance(limit, str) and not is_size(limit):
        raise ValueError(f"{limit!r} is not a spool limit: write a number of bytes, '20GiB' or 'auto'")
    try:
        return parse_size(limit)
    except errors.CacheLimitError as error:
        raise ValueError(f"{limit!r} is no spool limit: it has to be at least {SMALLEST_BYTES:,} bytes") from error


def _is_full(error: BaseException) -> bool:
    """Whether the disk says that it is full, and not one of us."""
    is_ours = isinstance(error, errors.StorageError)
    return isinstance(error, OSError) and not is_ours and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _make_private(folder: Path) -> None:
    mount = mounts.mount_of(folder)
    if mount is not None and mount.is_network:
        raise errors.CheckpointError(
            f"{folder.parent} is on {mount.kind} ({mount.source}): a spool belongs on a local disk; give "
            "StorageCheckpoint another"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.CheckpointError(
            f"{folder.parent} cannot be used as a spool: {error.strerror}; give StorageCheckpoint another"
        ) from error


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """The lock of a dead process; None where its owner lives."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # removed just now, by its owner
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _remove_if_dead(path: Path) -> None:
    """Remove what was begun and never became a folder of its own, if nobody is at it."""
    if path.name.startswith("restore-"):
        if not os.path.exists(f"/proc/{path.name.split('-')[1]}"):
            shutil.rmtree(path, ignore_errors=True)
        return
    lock = _try_lock(path / _LOCK)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _levels(journal: Path) -> dict[str, Level]:
    """What a journal says, but for a line that its process died in."""
    levels: dict[str, Level] = {}
    with suppress(FileNotFoundError):
        for line in journal.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                if record["level"] in LEVELS:
                    levels[record["checkpoint"]] = record["level"]
    return levels
