"""The spool: checkpoints on the local disk, whole and fsynced, until they are on the server.

What a dead process has left is taken over by the next start of the same run: complete checkpoints are sent, incomplete
ones removed. Files are removed and read only under names that this room gives, in folders of this user, and never
through a link.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.checkpoint.attempts import (
    DELETED,
    JOURNAL,
    MOST_BYTES,
    NEW,
    TURN_S,
    levels_in,
    note_level,
    read_file,
    remove_if_abandoned,
    remove_if_begun,
    turn,
)
from ai4os_data.checkpoint.leftovers import NEWEST_STAYS_S
from ai4os_data.checkpoint.manifest import Manifest
from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName, state_file
from ai4os_data.checkpoint.run_folder import RunFolder
from ai4os_data.checkpoint.space import Space
from ai4os_data.machine import descriptors, ownership, sha256_of, sync_folder, write_new
from ai4os_data.stores import is_on_the_server
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.stores import Level


@dataclass
class Spooled:
    """A checkpoint in the spool.

    Attributes:
        manifest: what it consists of.
        folder: its folder.
        level: the level that it had reached at the last look; ``"local"`` is not on the server.
    """

    manifest: Manifest
    folder: Path
    level: Level = "local"

    @property
    def name(self) -> CheckpointName:
        """The name of the checkpoint."""
        return self.manifest.name

    @property
    def is_whole(self) -> bool:
        """Whether all of its files are there; their content is not checked."""
        files = (MANIFEST, *self.manifest.files)
        return ownership.is_own_folder(self.folder) and all(
            ownership.is_regular_file(self.folder / file) for file in files
        )

    def is_intact(self) -> bool:
        """Whether every byte is as the manifest says."""
        try:
            return self.is_whole and all(
                (self.folder / file).stat().st_size == facts.size_bytes
                and sha256_of(self.folder / file) == facts.sha256
                for file, facts in self.manifest.files.items()
            )
        except OSError:
            return False


class Spool:
    """The checkpoints of one run on this machine.

    Args:
        directory: on a local disk; shared by any number of runs.
        run: identifies the run among all others.
        limit_bytes: the most that all runs in the directory may take; None for what is free, less a reserve.

    Attributes:
        folder: of the run.
        space: says how much may be written.
        reading: a lock, held while a checkpoint is read, and while superseded ones are removed.
    """

    def __init__(self, directory: Path, run: str, limit_bytes: int | None = None) -> None:
        self._run = RunFolder(directory, run)
        self.directory = self._run.directory
        self.folder = self._run.path
        self.space = Space(self.directory, limit_bytes)
        self.reading = threading.Lock()
        self._is_read = False
        self._entries: dict[CheckpointName, Spooled] = {}
        self._aside: dict[CheckpointName, Path] = {}  # removed on the storage, and kept here for a while
        self._guard = threading.RLock()

    def open_attempt(self, attempt: AttemptName) -> None:
        """Make the folder of an attempt; it is this process's until that ends.

        Raises:
            CheckpointError: the spool cannot be written.
            OutOfSpaceError: the disk is full.
        """
        try:
            with self._guard, self.space.translated():
                self._run.open(attempt)
        except OSError as error:
            if isinstance(error, errors.StorageError):
                raise
            raise errors.CheckpointError(f"{self.directory} cannot be used as a spool: {error.strerror}") from error

    def adopt(self) -> list[Spooled]:
        """Take over the checkpoints of dead attempts, newest last, and remove those that they had only begun."""
        with self._guard, turn(self.folder, TURN_S):
            for path in sorted(self.folder.glob("*")):
                if (attempt := AttemptName.parse(path.name)) and attempt not in self._run.locks:
                    self._adopt(attempt, path)
                else:
                    remove_if_abandoned(path)
            return self.entries()

    def entries(self) -> list[Spooled]:
        """Complete checkpoints, of this process and of dead ones; newest last."""
        with self._guard:
            return sorted(self._entries.values(), key=lambda spooled: (spooled.name.order, spooled.name))

    def has(self, name: CheckpointName) -> bool:
        """Whether a checkpoint is one of the entries."""
        with self._guard:
            return name in self._entries

    def attempts(self) -> list[AttemptName]:
        """Every attempt that has a folder here, living ones of other processes included."""
        return self._run.attempts()

    def write(self, draft: Manifest, payload: Any) -> Spooled:
        """Serialise a state; when this returns, it survives the end of the process.

        Args:
            draft: its manifest, still without files; its attempt is open.
            payload: what torch.save takes.

        Raises:
            OutOfSpaceError: the disk is full. The part that was written is removed.
        """
        with self.space.translated(f" while step {draft.name.step} was written"):
            spooled = self._run.tried(lambda: self._written(draft, payload))
        with self._guard:
            self._entries[spooled.name] = spooled
        return spooled

    def note(self, spooled: Spooled, level: Level) -> None:
        """Record in the journal that a checkpoint has reached a level on the server."""
        spooled.level = level
        try:
            note_level(spooled.folder.parent, spooled.name, level)
        except FileNotFoundError:  # somebody has removed the folder
            log.debug("%s is gone", spooled.folder.parent)
        except OSError as error:  # on a full disk the next start asks the store again
            log.warning("%s: cannot note that it has arrived: %s", spooled.folder, error.strerror)

    def remove(self, spooled: Spooled) -> None:
        """Remove a checkpoint, and with the last one the folder of a dead attempt."""
        with self._guard:
            self._entries.pop(spooled.name, None)
            with suppress(FileNotFoundError):
                # From here on it is incomplete. A rename would fail for a folder that came with a container's image.
                (spooled.folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(spooled.folder)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Let nothing be removed while a checkpoint is read."""
        with self.reading:
            self._is_read = True
            try:
                yield
            finally:
                self._is_read = False

    def drop_sent(self) -> None:
        """Remove checkpoints that are on the store too, where a restore finds them, and those that were set aside."""
        for spooled in self.entries():
            if is_on_the_server(spooled.level) and not self._is_read:
                self.remove(spooled)
        with self._guard:
            for folder in self._aside.values():
                shutil.rmtree(folder, ignore_errors=True)
            self._aside.clear()

    def set_aside(self, spooled: Spooled) -> None:
        """Set aside a checkpoint that somebody has removed on the storage: it no longer belongs to the run."""
        with self._guard:
            self._aside[spooled.name] = spooled.folder
            self._entries.pop(spooled.name, None)
            with suppress(OSError):  # on a full disk the next start finds it again
                note_level(spooled.folder.parent, spooled.name, DELETED)

    def scratch(self) -> Path:
        """A new folder for a download, which the caller removes; the next start removes that of a dead process."""
        self._make_anew()
        return self._run.scratch()

    def unlock(self) -> None:
        """Close the locks, and leave the folder of the run, which another object of this process may use."""
        with self._guard:
            self._run.unlock({name.attempt for name in (*self._entries, *self._aside)})

    def let_go(self) -> None:
        """Close the locks, so that the next start may take over."""
        self.unlock()
        with suppress(OSError):  # it is not empty
            self.folder.rmdir()

    def _make_anew(self) -> None:
        """Make the folders again that somebody has removed, and log what was lost with them."""
        with self._guard:
            # A run without anything here misses nothing: the last process to close removes the empty folder.
            misses_something = self._run.attempt is not None or bool(self._entries)
            if self._run.make_anew() and misses_something:
                self._forget_removed()

    def _forget_removed(self) -> None:
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

    def _written(self, draft: Manifest, payload: Any) -> Spooled:
        from ai4os_data.checkpoint.serialisation import write_state  # takes torch, which who only looks does not need

        self._make_anew()
        final = self.folder / str(draft.name)
        beside = final.with_name(f"{final.name}{NEW}")
        try:
            beside.mkdir(mode=0o700)
            written = write_state(payload, beside / NEW)
            file = state_file(written.sha256)
            (beside / NEW).rename(beside / file)
            self.space.check_limit(0)
            manifest = replace(draft, files={file: written})
            write_new(beside / MANIFEST, manifest.to_json())
            sync_folder(beside)
            beside.rename(final)
            sync_folder(final.parent)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        return Spooled(manifest, final)

    def _adopt(self, attempt: AttemptName, path: Path) -> None:
        if not ownership.is_own_folder(path):
            log.warning("%s is no folder of %s, and is left alone", path, ownership.user(os.geteuid()))
            return
        if not self._run.take_over(attempt):
            log.info("%s is in use by another StorageCheckpoint, of this process or another, and left to it", path)
            return
        levels = levels_in(path)
        for folder in sorted(path.iterdir()):
            name = CheckpointName.parse(f"{attempt}/{folder.name}")
            if remove_if_begun(folder) or name is None or not ownership.is_own_folder(folder):
                continue
            if (level := levels.get(name, "local")) == DELETED:
                self._keep_aside(name, folder)
            elif (manifest := _manifest_in(folder, name)) is not None:
                self._entries[name] = Spooled(manifest, folder, level)

    def _keep_aside(self, name: CheckpointName, folder: Path) -> None:
        """Keep a checkpoint that an earlier start has set aside, until its time is over."""
        if time.time() - (folder.parent / JOURNAL).stat().st_mtime > NEWEST_STAYS_S:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._aside[name] = folder


def _manifest_in(folder: Path, name: CheckpointName) -> Manifest | None:
    """The manifest of a checkpoint; None if it is damaged or cannot be read, and the checkpoint is left alone.

    Raises:
        OpenFilesError: this process can open no more files, which says nothing about the manifest.
    """
    try:
        return Manifest.from_json(read_file(folder / MANIFEST, MOST_BYTES), name)
    except (errors.IntegrityError, OSError) as error:
        if isinstance(error, OSError) and (exhausted := descriptors.exhausted(error)) is not None:
            raise exhausted from error
        log.warning("%s cannot be used, and is left alone: %s", folder, error)
        return None
