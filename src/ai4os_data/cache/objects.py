"""The files of a cache's entries: each is staged, appears by one rename, is checked when it is read, and is evicted."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import xxhash

from ai4os_data.cache import placement
from ai4os_data.cache.entries import Held, full_name, held_at
from ai4os_data.cache.known import Known
from ai4os_data.cache.pins import pins_in
from ai4os_data.cache.staged import Spares, Staged, is_staged, read_whole
from ai4os_data.machine import disk_bytes, locks, ownership

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

_PART = re.compile(r"[0-9a-f]")
_READ_BYTES = 1 << 30
_LONG_READ_BYTES = 1024 * 1024
_TRIES, _PAUSE_S = 5, 0.001


class Objects:
    """The ``objects`` folder of a cache directory, as one process has it.

    Args:
        directory: the cache's.

    Attributes:
        known: the entries that this process knows of.
        removed: digests of files that this process found damaged, and has not stored again.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.root = f"{directory}/objects"
        self.known = Known(directory)
        self.removed: set[str] = set()
        self._pins = pins_in(directory)

    def is_there(self, held: Held) -> bool:
        """Whether a file that was found is still there."""
        if os.path.exists(held.path):
            self.known.remember(held)
            return True
        self.known.forget(held.name)
        return False

    # --- all of them

    def scan_all(self) -> dict[str, Held]:
        """Every file that is there now, found by its own name."""
        return {held.name: held for held in self.files()}

    def files(self) -> Iterator[Held]:
        """The files that are there now, one after the other."""
        for item in self._items():
            if (held := held_at(item.path)) is not None and item.is_file(follow_symlinks=False):
                yield held

    def rewrite_names(self) -> None:
        """Write the file of names anew, with each file that is there and no other. The caller has the ledger."""
        self.known.rewrite(lambda: (os.path.basename(held.path) for held in self.files()))

    def staged(self) -> list[str]:
        """The paths of files that are being filled, or were when their process died."""
        return [item.path for item in self._items() if is_staged(item.name)]

    def folders_bytes(self) -> int:
        """The disk space of the folders."""
        return sum(map(disk_bytes, (self.root, *self._parts())))

    def _items(self) -> Iterator[os.DirEntry[str]]:
        for folder in self._parts():
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as items:
                yield from items

    def _parts(self) -> list[str]:
        try:
            return [f"{self.root}/{name}" for name in os.listdir(self.root) if _PART.fullmatch(name)]
        except FileNotFoundError:
            return []

    # --- writing

    def stage(self, name: str) -> Staged:
        """A new file to fill, beside where it will appear.

        Raises:
            OSError: the directory cannot be written.
        """
        folder = f"{self.root}/{name[:1]}"
        try:
            return Staged.create(folder)
        except FileNotFoundError:
            placement.make(self._directory)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            return Staged.create(folder)

    def publish(self, name: str, staged: Staged, size_bytes: int, checksum: int, key: str) -> Held:
        """Let a finished file appear, by one rename.

        Raises:
            FileNotFoundError: somebody has removed it.
        """
        file_name = full_name(name, size_bytes, checksum, key)
        held = Held(f"{self.root}/{name[:1]}/{file_name}", size_bytes, checksum, name)
        staged.cut(size_bytes)
        self._appear(staged.path, held.path)
        position = self.known.names.append(file_name)
        staged.let_go()
        self.known.remember(held, position)
        self.removed.discard(name)
        return held

    def _appear(self, staged_path: str, path: str) -> None:
        try:
            os.rename(staged_path, path)
        except FileNotFoundError:  # an overwritten file whose new folder has not been made yet
            placement.make(self._directory)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.rename(staged_path, path)

    # --- evicting and reading

    def evict(self, held: Held, spares: Spares | None = None) -> bool:
        """Remove a file, or keep it as a spare; False if somebody uses it, or it cannot be removed.

        Raises:
            FileNotFoundError: it is not there.
        """
        path = held.path
        try:
            descriptor = ownership.open_file(path, os.O_RDWR)
        except FileNotFoundError:
            raise
        except OSError:  # not ours
            return True
        kept = False
        try:
            # Locked while the file is removed: a process that opens or pins it from now on sees that it is gone.
            if not locks.try_lock(descriptor):
                return False
            with self._pins.none(held.name) as is_free:
                if not is_free:
                    return False
                if spares is not None and spares.wants(held.size_bytes):
                    spares.add(Staged.retire(path, descriptor, held.size_bytes))
                    kept = True
                    return True
                os.unlink(path)
            os.ftruncate(descriptor, 0)  # a process that is reading it would keep its blocks
        except FileNotFoundError:
            return True  # a reader has just found it damaged
        except OSError:
            return False
        finally:
            if not kept:
                os.close(descriptor)
        return True

    def load(self, held: Held) -> bytes | None:
        """The bytes of a cached file; None if it is damaged: then it is removed.

        Raises:
            FileNotFoundError: it was evicted.
        """
        path, size_bytes, checksum, _ = held
        try:
            descriptor = os.open(path, READ_FLAGS)
        except FileNotFoundError:
            self.known.forget(held.name)
            raise
        except OSError:
            self.discard(held)
            return None
        try:
            if size_bytes > _LONG_READ_BYTES:
                share(descriptor, path)  # otherwise an eviction now would not free its room
            # One byte more than it should hold, to notice a longer file.
            data = os.read(descriptor, size_bytes + 1) if size_bytes < _READ_BYTES else read_whole(descriptor)
        except BlockingIOError:
            self.known.forget(held.name)
            raise FileNotFoundError(path) from None  # it is being evicted
        except OSError:  # a directory in its place, a broken disk
            size_bytes, data = -1, b""
        finally:
            os.close(descriptor)
        if len(data) == size_bytes and xxhash.xxh3_64_intdigest(data) == checksum:
            return data
        if not os.path.exists(path):  # evicted while it was read
            self.known.forget(held.name)
            raise FileNotFoundError(path)
        self.discard(held)
        return None

    def discard(self, held: Held) -> None:
        """Remove a damaged file, as far as it can be removed."""
        self.known.forget(held.name)
        self.removed.add(held.name)
        with suppress(OSError):
            os.unlink(held.path)


def share(descriptor: int, path: str) -> None:
    """Keep a file from eviction while it is open.

    Raises:
        BlockingIOError: it is being evicted.
    """
    for _ in range(_TRIES):
        if locks.try_lock(descriptor, shared=True):
            return
        if not os.path.exists(path):
            break
        time.sleep(_PAUSE_S)  # it has just appeared, and its process is about to unlock it
    raise BlockingIOError(path)
