"""Any file system that fsspec knows, under its own URL: S3, GCS, SFTP, memory and the rest."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import fsspec
from fsspec.utils import get_protocol

from ai4os_data import errors, telemetry
from ai4os_data.http import Patience, Wait, outage_of, waited_out
from ai4os_data.locations import shown
from ai4os_data.machine import PerProcess
from ai4os_data.stores.base import (
    PIECE_BYTES,
    Entry,
    Fetched,
    Listing,
    MakeBody,
    OnBytes,
    Outcome,
    Store,
    Unreadable,
    checked,
    is_safe,
    memory_body,
)
from ai4os_data.stores.fsspec_tree import entry_of, fsspec_error, is_file, may_pass, tree, whole_number, write_error
from ai4os_data.stores.os_errors import Translating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.http import Content
    from ai4os_data.stores.levels import Level

T = TypeVar("T")

_THREADS = 8
_LOCAL_PROTOCOLS = frozenset({"file", "local", "memory"})


def is_known(protocol: str) -> bool:
    """Whether fsspec knows the part of a URL before ``://``."""
    return protocol in fsspec.available_protocols()


class _Opened(NamedTuple):
    """A file system, and the path of the store's root in it."""

    system: fsspec.AbstractFileSystem
    root: str

    def path(self, key: str) -> str:
        """The path of a key; of ``""`` the root."""
        return f"{self.root.rstrip('/')}/{key}" if key else self.root


class FsspecStore(Store):
    """The files below an fsspec URL. The file system is opened anew in each process.

    Args:
        url: such as ``s3://bucket/path`` or ``memory://data``.
        counters: where bytes are counted.
        patience: how long reads wait for a storage that is away.
        options: the file system's own, such as ``key`` and ``secret``. A pickle carries them.
    """

    def __init__(
        self,
        url: str,
        *,
        counters: telemetry.Counters | None = None,
        patience: Patience | None = None,
        **options: Any,
    ) -> None:
        self._url = url
        self.patience = patience or Patience()
        self._options = options
        self.counters = counters or telemetry.Counters()
        self.location = shown(url)
        self.identity = f"fsspec {self.location}"
        self.is_local = get_protocol(url) in _LOCAL_PROTOCOLS
        self._opened: PerProcess[_Opened] = PerProcess(self._open)
        self._opened.get()  # an unknown protocol, or one whose package is missing, shows here

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it was made from."""
        return partial(FsspecStore, counters=self.counters, patience=self.patience, **self._options), (self._url,)

    def _open(self) -> _Opened:
        try:
            return _Opened(*fsspec.core.url_to_fs(self._url, **self._options))
        except (ValueError, ImportError) as error:
            raise errors.LocationError(f"{self.location}: fsspec cannot open this: {error}") from error

    def _waited_out(self, work: Callable[[], T]) -> T:
        """The result of a read, repeated while the storage is away."""
        if self.is_local:
            return work()
        return waited_out(work, may_pass, Wait(outage_of(self.location), self.patience))

    # --- looking

    def _listed(self, folder: str) -> Listing | None:
        return self._waited_out(partial(self._walk, folder))

    def _walk(self, folder: str) -> Listing | None:
        opened = self._opened.get()
        opened.system.invalidate_cache()  # it may have listed it before
        top = opened.path(folder)
        with Translating(self.location, "the listing", fsspec_error):
            if not opened.system.exists(top):
                return None
            found = tree(opened.system, top)
        if top in found.files:
            what = f"{self.location}: {folder!r}" if folder else self.location
            raise errors.LocationError(f"{what} is a file; give the directory that it lies in")
        prefix = opened.path("").rstrip("/") + "/"
        listing = Listing([], [])

        def key_of(path: str) -> str:
            return path[len(prefix) :] if path.startswith(prefix) else path.lstrip("/")

        for path, failure in found.failures.items():
            error = fsspec_error(self.location, key_of(path), failure)
            listing.unreadable.append(Unreadable(key_of(path), is_folder=None, error=error))
        for path, info in found.files.items():
            try:
                listing.entries.append(self._entry(key_of(path), info))
            except errors.StorageError as error:
                listing.unreadable.append(Unreadable(key_of(path), is_folder=False, error=error))
        return listing._replace(hollow=sorted(key for key in map(key_of, found.hollow) if is_safe(key)))

    def _entry(self, key: str, info: dict[str, Any]) -> Entry:
        """A file as it was listed; if the listing has no size of it, the file is asked for by itself.

        Raises:
            ProtocolError: it has no name or no size that can be used.
        """
        where = f"{self.location}: {key!r}"
        if not is_safe(key):
            raise errors.ProtocolError(f"{where}: a name with an empty part, or one of dots; rename it on the storage")
        size = info.get("size")
        if size is None:
            opened = self._opened.get()
            with Translating(self.location, key, fsspec_error):
                size = opened.system.info(opened.path(key)).get("size")
        if (size_bytes := whole_number(size)) is None:
            raise errors.ProtocolError(f"{where}: it is listed with {size!r} as its size")
        return entry_of(key, size_bytes, info)

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder; if the file system has no folders, whether a file lies below."""
        opened = self._opened.get()
        opened.system.invalidate_cache()
        with Translating(self.location, key, fsspec_error):
            return bool(opened.system.isdir(opened.path(checked(key))))

    def stat(self, key: str) -> Entry:
        """One file."""
        return self._waited_out(partial(self._stat, key))

    def _stat(self, key: str) -> Entry:
        opened = self._opened.get()
        path = opened.path(checked(key))
        with Translating(self.location, key, fsspec_error):
            info = opened.system.info(path)
        if not is_file(opened.system, path, info):
            raise errors.NotFoundError(f"{self.location}: {key!r} is not a file")
        return self._entry(key, info)

    # --- reading

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, some at a time."""
        make = body or memory_body
        source = iter(entries)
        running: deque[tuple[Entry, Future[Fetched]]] = deque()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="ai4os-data-fsspec") as pool:
            while True:
                more = islice(source, 2 * _THREADS - len(running))
                running.extend((entry, pool.submit(self._read, entry, make)) for entry in more)
                if not running:
                    return
                entry, future = running.popleft()
                # The pool makes the first try, and this thread the others, since an interrupt reaches only this thread.
                tries = chain([future.result], repeat(partial(self._read, entry, make)))
                try:
                    yield entry, self._waited_out(lambda tries=tries: next(tries)())  # type: ignore[misc]
                except errors.StorageError as error:
                    yield entry, error

    def _read(self, entry: Entry, make: MakeBody) -> Fetched:
        opened = self._opened.get()
        body = make(entry)
        with Translating(self.location, entry.key, fsspec_error):
            with opened.system.open(opened.path(entry.key), "rb", block_size=4 * PIECE_BYTES) as file:
                while piece := file.read(PIECE_BYTES):
                    body.write(piece)
            served = self._stat(entry.key)
        if body.length != served.size_bytes:
            raise errors.ChangedError(f"{self.location}: {entry.key!r} changed while it was read")
        if not self.is_local:
            self.counters.row[telemetry.BYTES_FROM_NETWORK] += body.length
        return Fetched(served, body)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file."""
        stop = min(stop, entry.size_bytes)

        def read() -> bytes:
            opened = self._opened.get()
            if not entry.is_same_version(self._stat(entry.key)):
                raise errors.ChangedError(f"{self.location}: {entry.key!r} changed since it was opened; open it again")
            if start >= stop:
                return b""
            with Translating(self.location, entry.key, fsspec_error):
                data: bytes = opened.system.cat_file(opened.path(entry.key), start=start, end=stop)
            return data

        data = self._waited_out(read)
        if len(data) != max(0, stop - start):
            raise errors.IntegrityError(
                f"{self.location}: {entry.key!r}: {len(data):,} bytes came for the range {start}-{stop}"
            )
        return data

    # --- writing

    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file."""
        opened = self._opened.get()
        path = opened.path(checked(key))
        self._make(path.rpartition("/")[0], key)
        with Translating(self.location, key, write_error):
            if isinstance(content, Path):
                opened.system.put_file(os.fspath(content), path)
            else:
                opened.system.pipe_file(path, bytes(content))
        return self.stat(key)

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """Write a whole new file and read it back; a part that was written before the disk was full is removed."""
        try:
            return super().write_confirmed(key, content, sha256, on_bytes=on_bytes)
        except errors.OutOfSpaceError:
            with suppress(errors.StorageError):
                self.delete(key)
            raise

    def make_folder(self, key: str) -> bool:
        """Make a folder, if the file system has any."""
        self._make(self._opened.get().path(checked(key)), key)
        return False

    def _make(self, path: str, key: str) -> None:
        with Translating(self.location, key, write_error):
            self._opened.get().system.makedirs(path, exist_ok=True)

    def delete(self, key: str) -> None:
        """Remove a file."""
        opened = self._opened.get()
        with Translating(self.location, key, fsspec_error):
            opened.system.rm_file(opened.path(checked(key)))

    def remove_tree(self, key: str) -> None:
        """Remove the files below a folder, one by one, and then the folders.

        Not fsspec's own removal of trees, which takes the ``*`` and ``[`` of a name for a pattern.
        """
        opened = self._opened.get()
        super().remove_tree(key)
        with Translating(self.location, key, fsspec_error):
            below = opened.system.find(opened.path(key), withdirs=True, detail=True)
        folders = [path for path, info in below.items() if info.get("type") == "directory"]
        for path in sorted({opened.path(key), *folders}, key=len, reverse=True):
            with suppress(OSError, NotImplementedError):  # there may be no folders, or somebody put a file there
                opened.system.rmdir(path)
