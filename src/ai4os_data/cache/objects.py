"""The cached files themselves: plain files, whose names tell what they hold.

``objects/a/<digest>-<size>-<xxh3><suffix>``: the digest stands for store, key and version; size and checksum are
those of the content. So an entry appears whole, by one rename, and can be checked without asking anyone.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from ai4os_data.cache import placement
from ai4os_data.cache.names import Names
from ai4os_data.cache.pins import Pin, Receipt, pins_in
from ai4os_data.cache.staged import STAGED_SUFFIX, Spares, Staged, is_staged, read_whole
from ai4os_data.cache.told import Told
from ai4os_data.machine import disk_bytes, is_at, locks, ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]+)-([0-9a-f]{16})((?:\.[a-z0-9_+-]+)*)")
_PART = re.compile(r"[0-9a-f]")
_SUFFIX = re.compile(r"(?:\.[a-z][a-z0-9_+-]{0,31}){0,3}\.[a-z0-9][a-z0-9_+-]{0,31}\Z")
_LONGEST_SUFFIX = 64
DIGEST_DIGITS = 32
MOST_KNOWN = 10_000
_NEWER = ">"  # after a digest in the file of names: what follows is no size, but another digest
_LINE_END = 10
_MANY_BYTES = 16 * 1024  # of news
_SHORTEST_NAME = 52  # digest, size and checksum, and a line end
_READ_BYTES = 1 << 30
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONG_READ_BYTES = 1024 * 1024
_TRIES, _PAUSE_S = 5, 0.001


class Held(NamedTuple):
    """A cached file: where it is, its size, its checksum (xxh3, 64 bit) and the digest it is found by."""

    path: str
    size_bytes: int
    checksum: int
    name: str


def digest(*parts: str) -> str:
    """The name for what these parts describe, 32 hex digits."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class Objects:
    """The ``objects`` folder of a cache directory, as one process knows it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.root = f"{directory}/objects"
        self.known: dict[str, Held] = {}  # those that were used last, and are likely to be there
        self.newer: dict[str, str] = {}  # digests of what files had become when they were fetched
        self.removed: set[str] = set()  # found damaged by this process, and not stored again
        self.names = Names(f"{directory}/names")
        self._told = Told(self.names.line_at)
        self._pins = pins_in(directory)
        self._threads = threading.Lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Wait for no thread of the parent."""
        self._threads = threading.Lock()

    def __contains__(self, name: object) -> bool:
        """Whether there was a cached file for a digest, as far as this process has heard."""
        return name in self.known or (isinstance(name, str) and self._told.line(name) is not None)

    def find(self, name: str) -> Held | None:
        """The cached file for a digest, whoever put it there; it may have been evicted since."""
        held = self.known.get(name)
        if held is not None:
            return held
        with self._threads:  # one that looked without it, while another was still reading the news, would miss them
            self._hear()
            line = self._told.line(name)
            if line is not None and (held := _held(f"{self.root}/{line[:1]}/{line}")) is not None:
                self._remember(held)
            return held

    def _hear(self) -> None:
        """Read what others have told."""
        is_all, begin, data = self.names.news()
        if is_all:  # what was evicted since the last time is forgotten
            self._told.clear()
            self.known.clear()
            self.newer.clear()
        if data:
            self._take(begin, data)

    def _take(self, begin: int, data: bytes) -> None:
        """Sort out lines of the file of names."""
        if len(data) > _MANY_BYTES:
            self._take_many(begin, data)
            return
        for line in data.decode("ascii", "replace").splitlines(keepends=True):
            self._take_line(line.rstrip(), begin)
            begin += len(line)

    def _take_line(self, line: str, place: int) -> None:
        name, mark, newer = line[:DIGEST_DIGITS], line[DIGEST_DIGITS : DIGEST_DIGITS + 1], line[DIGEST_DIGITS + 1 :]
        if mark == _NEWER:
            self.newer[name] = newer
        elif mark:
            self._told.add(name, place)

    def _take_many(self, begin: int, data: bytes) -> None:
        characters = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(characters == _LINE_END)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
        is_long = ends - starts > DIGEST_DIGITS  # another one is damaged, or the head
        starts, ends = starts[is_long], ends[is_long]
        is_newer = characters[starts + DIGEST_DIGITS] == ord(_NEWER)
        for start, end in zip(starts[is_newer].tolist(), ends[is_newer].tolist(), strict=True):
            self._take_line(data[start:end].decode("ascii", "replace"), begin + start)
        self._told.add_all(data, begin, starts[~is_newer])

    def _remember(self, held: Held) -> None:
        """Keep a file at hand, and not too many: each takes half a KB, in every process."""
        if len(self.known) >= MOST_KNOWN:
            for name in list(islice(self.known, MOST_KNOWN // 2)):
                self.known.pop(name, None)
        self.known[held.name] = held

    def _forget(self, name: str) -> None:
        """Record that a file is gone."""
        self.known.pop(name, None)
        with self._threads:
            self._told.remove(name)

    def tell_newer(self, link: str, newer: str) -> None:
        """Tell every process the digest of what a file had become when it was fetched.

        Args:
            link: stands for the listed file and its listing.
            newer: the digest.
        """
        if self.newer.get(link) != newer:
            self.newer[link] = newer
            self.names.tell(f"{link}{_NEWER}{newer}")

    def find_claimed(self, name: str) -> Held | None:
        """The cached file for a digest that is claimed, and so neither being filled nor about to appear."""
        held = self.find(name)
        return held if held is not None and self.is_there(held) else None

    def is_there(self, held: Held) -> bool:
        """Whether a file that was found has not been evicted since."""
        if os.path.exists(held.path):
            self._remember(held)
            return True
        self._forget(held.name)
        return False

    def scan_all(self) -> dict[str, Held]:
        """Every file that is there now, found by its own name."""
        return {held.name: held for held in self.files()}

    def files(self) -> Iterator[Held]:
        """The files that are there now, one after the other."""
        for item in self._items():
            if (held := _held(item.path)) is not None and item.is_file(follow_symlinks=False):
                yield held

    def retell(self) -> None:
        """Tell every process of each file that is there, and of nothing else. The caller has the ledger."""

        def lines() -> Iterator[str]:
            here = {held.name: os.path.basename(held.path) for held in self.files()}
            yield from here.values()
            yield from (f"{name}{_NEWER}{newer}" for name, newer in list(self.newer.items()) if newer in here)

        with self._threads:
            self._hear()
        self.names.rewrite(lines)

    def all_told(self, here: Mapping[str, Held]) -> bool:
        """Whether the others can know of these files, by their number alone."""
        return self.names.size_bytes >= len(here) * _SHORTEST_NAME

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

    def stage(self, name: str) -> Staged:
        """A new file to fill, beside where it will appear.

        Raises:
            OSError: the directory cannot be written.
        """
        folder = f"{self.root}/{name[:1]}"
        try:
            return Staged.create(folder)
        except FileNotFoundError:
            self.prepare()
            self.make_root()
            os.makedirs(folder, mode=0o700, exist_ok=True)
            return Staged.create(folder)

    def make_root(self) -> None:
        """Make the folder of folders."""
        if not os.path.isdir(self.root):
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            placement.spread_below(self.root)

    def prepare(self) -> None:
        """Make the cache's directory, marked as such before anything is in it.

        Raises:
            OSError: it cannot be made, or another user has made one in its place.
        """
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        if (reason := placement.refusal(self._directory)) is not None:
            raise PermissionError(errno.EACCES, f"it was removed, and now it {reason}", self._directory)
        placement.mark(self._directory)

    def publish(self, name: str, staged: Staged, size_bytes: int, checksum: int, key: str) -> Held:
        """Let a finished file appear, by one rename.

        Raises:
            FileNotFoundError: somebody has removed it.
        """
        full_name = f"{name}-{size_bytes:x}-{checksum:016x}{suffix_of(key)}"
        path = f"{self.root}/{name[:1]}/{full_name}"
        staged.cut(size_bytes)
        self._appear(staged.path, path)
        place = self.names.tell(full_name)
        staged.let_go()
        held = Held(path, size_bytes, checksum, name)
        self._remember(held)
        if place is not None:
            with self._threads:
                self._told.add(name, place)
        self.removed.discard(name)
        return held

    def _appear(self, staged_path: str, path: str) -> None:
        try:
            os.rename(staged_path, path)
        except FileNotFoundError:  # an evicted file, written over, for a folder that nothing was in yet
            self.prepare()
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.rename(staged_path, path)

    def evict(self, held: Held, spares: Spares | None = None) -> bool:
        """Remove a file, or put it with the spares; False where somebody uses it, or it cannot be removed.

        Raises:
            FileNotFoundError: it is not there.
        """
        path = held.path
        try:
            descriptor = ownership.open_file(path, os.O_RDWR)
        except FileNotFoundError:
            raise
        except OSError:  # nothing of ours
            return True
        kept = False
        try:
            # Held while the file is removed: who opens or pins it from now on sees that it is gone.
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
            os.ftruncate(descriptor, 0)  # who is reading it just now would keep its blocks
        except FileNotFoundError:
            return True  # found damaged by a reader just now
        except OSError:
            return False
        finally:
            if not kept:
                os.close(descriptor)
        return True

    def load(self, held: Held) -> bytes | None:
        """The bytes of a cached file; None, and the file is gone, where it is damaged.

        Raises:
            FileNotFoundError: it was evicted.
        """
        path, size_bytes, checksum, _ = held
        try:
            descriptor = os.open(path, _READ_FLAGS)
        except FileNotFoundError:
            self._forget(held.name)
            raise
        except OSError:
            self.discard(held)
            return None
        try:
            if size_bytes > _LONG_READ_BYTES:
                share(descriptor, path)  # evicted now, it would keep its room meanwhile
            # One more than it holds, so that a longer file shows.
            data = os.read(descriptor, size_bytes + 1) if size_bytes < _READ_BYTES else read_whole(descriptor)
        except BlockingIOError:
            self._forget(held.name)
            raise FileNotFoundError(path) from None  # it is being evicted
        except OSError:  # a directory in its place, a broken disk
            size_bytes, data = -1, b""
        finally:
            os.close(descriptor)
        if len(data) == size_bytes and xxhash.xxh3_64_intdigest(data) == checksum:
            return data
        if not os.path.exists(path):  # evicted in the midst of it
            self._forget(held.name)
            raise FileNotFoundError(path)
        self.discard(held)
        return None

    def discard(self, held: Held) -> None:
        """Remove a damaged file, as far as it can be removed."""
        self._forget(held.name)
        self.removed.add(held.name)
        with suppress(OSError):
            os.unlink(held.path)

    def named(self, relative: str) -> Held:
        """The file of an indexed name.

        Raises:
            FileNotFoundError: it is not one of ours.
        """
        path = f"{self.root}/{relative}"
        held = self.known.get(relative[2 : 2 + DIGEST_DIGITS])
        if held is not None and held.path == path:
            return held
        held = _held(path) if relative[1:2] == "/" else None
        if held is None or held.name[0] != relative[0]:
            raise FileNotFoundError(relative)
        return held


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
        time.sleep(_PAUSE_S)  # it has appeared just now, and its process is about to unlock it
    raise BlockingIOError(path)


def suffix_of(key: str) -> str:
    """The suffix that a key gives its file, for readers that go by it, in lower case; none if it is of an odd kind.

    It is all of ``.nii.gz`` and ``.ome.tiff``; of ``day.2026.jpg`` it is ``.jpg``, since ``.2026`` is no suffix.
    """
    name = key[key.rfind("/") + 1 :].lstrip(".").lower()
    match = _SUFFIX.search(name, max(0, len(name) - _LONGEST_SUFFIX))
    suffix = match[0] if match is not None and match.start() > 0 else ""
    return "" if suffix.endswith(STAGED_SUFFIX) else suffix


def _held(path: str) -> Held | None:
    """What a path tells by its name; None where it is not that of an entry."""
    match = _NAME.fullmatch(path, path.rindex("/") + 1)
    return Held(path, int(match[2], 16), int(match[3], 16), match[1]) if match is not None else None


def relative_name(held: Held) -> str:
    """A file's name below ``objects``, as the index keeps it."""
    return "/".join(held.path.rsplit("/", 2)[1:])


def intact(held: Held) -> bool:
    """Whether a file is what its name says, read piece by piece."""
    hasher = xxhash.xxh3_64()
    length = 0
    try:
        with open(held.path, "rb", buffering=0) as file:
            while piece := file.read(1 << 22):
                hasher.update(piece)
                length += len(piece)
    except OSError:
        return False
    return length == held.size_bytes and hasher.intdigest() == held.checksum


class LocalPath(str):
    """The path of a local file that stays while this object lives.

    In the cache, a pin keeps it from eviction. Sent to another process, it is pinned again there; the sender keeps its
    own pin until then.
    """

    __slots__ = ("_pin",)
    _pin: Pin | _Temporary | None

    @classmethod
    def in_place(cls, path: str) -> LocalPath:
        """A user's own file, where it is: it stays as long as the user keeps it."""
        local = cls(path)
        local._pin = None
        return local

    @classmethod
    def in_cache(cls, path: str, receipt: Receipt | None = None) -> LocalPath:
        """A cached file, pinned; with a receipt for the process that has sent it.

        Raises:
            FileNotFoundError: it is not there any more.
        """
        local = cls(path)
        local._pin = Pin(path, receipt)
        return local

    @classmethod
    def temporary(cls, path: str) -> LocalPath:
        """A file of its own, removed with its last user."""
        local = cls(path)
        local._pin = _Temporary(path)
        return local

    def __copy__(self) -> LocalPath:
        """A path is a value."""
        return self

    def __deepcopy__(self, _memo: object) -> LocalPath:
        """A path is a value."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pin it in the process that it is sent to."""
        if self._pin is None:
            return LocalPath.in_place, (str(self),)
        if isinstance(self._pin, Pin):
            return LocalPath.in_cache, (str(self), self._pin.sent())
        self._pin.sent()
        return LocalPath.temporary, (str(self),)


class _Shared:
    """A shared lock on a file, which is open for as long."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        descriptor = os.open(path, _READ_FLAGS)
        try:
            share(descriptor, path)
            if not is_at(descriptor, path):
                raise FileNotFoundError(path)
        except BlockingIOError:
            os.close(descriptor)
            raise FileNotFoundError(path) from None  # swept up since we opened it
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class _Temporary:
    """A file outside the cache, removed by the process that has it last; a shared lock tells that it is in use."""

    def __init__(self, path: str) -> None:
        self._path: str | None = path
        self._owner = os.getpid()
        self._shared = _Shared(path)

    def sent(self) -> None:
        self._path = None  # the receiver removes it

    def __del__(self) -> None:
        if self._path is not None and self._owner == os.getpid():
            with suppress(OSError):
                os.unlink(self._path)
