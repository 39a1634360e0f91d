"""Any file system that fsspec knows, under its own URL: S3, GCS, SFTP, memory and the rest."""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec
from fsspec.utils import get_protocol

from ai4os_data import errors, telemetry
from ai4os_data.http import Patience, Wait, outage_of, waited_out
from ai4os_data.locations import shown
from ai4os_data.machine import PerProcess
from ai4os_data.stores.base import (
    PIECE_BYTES,
    Entries,
    Entry,
    Fetched,
    Listing,
    MakeBody,
    OnBytes,
    Outcome,
    Store,
    Unreadable,
    Unreadables,
    checked,
    is_safe,
    memory_body,
)
from ai4os_data.stores.fsspec_tree import Tree, is_file, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.http import Content
    from ai4os_data.stores.levels import Level

T = TypeVar("T")

_THREADS = 8
_AWAY = (errors.ServerUnavailableError, errors.DeadlineError, errors.ThrottledError)
_UNREACHABLE = frozenset(
    (
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
        *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN),
    )
)
_IN_THE_WAY = (FileExistsError, IsADirectoryError, NotADirectoryError)
_LOCAL_PROTOCOLS = frozenset({"file", "local", "memory"})


def is_known(protocol: str) -> bool:
    """Whether fsspec knows the part of a URL before ``://``."""
    return protocol in fsspec.available_protocols()


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
        self._system: PerProcess[tuple[fsspec.AbstractFileSystem, str]] = PerProcess(self._open)
        self._system.get()  # an unknown protocol, or one whose package is missing, shows here

    def __getstate__(self) -> dict[str, object]:
        """Pickle what it was made from."""
        return {"url": self._url, "counters": self.counters, "patience": self.patience, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it anew."""
        common = {"counters": state["counters"], "patience": state["patience"]}
        self.__init__(state["url"], **common, **state["options"])  # type: ignore[misc]

    def _waited_out(self, work: Callable[[], T]) -> T:
        """What some reading gives, when the storage is there."""
        if self.is_local or not self.patience.outage_s:
            return work()
        return waited_out(work, _may_pass, Wait(outage_of(self.location), self.patience))

    def list_below(self, folder: str) -> Entries:
        """Every file below a folder, as the file system has it now, whatever it has listed before."""
        self._system.get()[0].invalidate_cache()
        return super().list_below(folder)

    def _listed(self, folder: str) -> Listing | None:
        return self._waited_out(lambda: self._find(folder))

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder; where there are no folders, whether a file lies below."""
        system, root = self._system.get()
        system.invalidate_cache()
        try:
            return bool(system.isdir(_join(root, checked(key))))
        except OSError as error:
            raise self._translated(key, error) from error

    def remove_tree(self, key: str) -> None:
        """Remove the files below a folder, one by one, and then the folders.

        Not fsspec's own removal of trees, which takes the ``*`` and ``[`` of a name for a pattern.
        """
        system, root = self._system.get()
        super().remove_tree(key)
        try:
            below = system.find(_join(root, key), withdirs=True, detail=True)
        except OSError as error:
            raise self._translated(key, error) from error
        folders = [path for path, info in below.items() if info.get("type") == "directory"]
        for path in sorted({_join(root, key), *folders}, key=len, reverse=True):
            with suppress(OSError, NotImplementedError):  # there may be no folders, or somebody put a file there
                system.rmdir(path)

    def _find(self, folder: str) -> Listing | None:
        """The files below a folder; None where there is nothing."""
        system, root = self._system.get()
        top = _join(root, folder) if folder else root
        try:
            if not system.exists(top):
                return None
            found = tree(system, top)
        except OSError as error:
            raise self._translated("the listing", error) from error
        if top in found.files:
            what = f"{self.location}: {folder!r}" if folder else self.location
            raise errors.LocationError(f"{what} is a file; give the directory that it lies in")
        return self._listing(found, root)

    def _listing(self, found: Tree, root: str) -> Listing:
        prefix = root.rstrip("/") + "/"

        def key_of(path: str) -> str:
            return path[len(prefix) :] if path.startswith(prefix) else path.lstrip("/")

        entries: Entries = []
        unreadable: Unreadables = [
            Unreadable(key_of(path), is_folder=None, error=self._translated(key_of(path), error))
            for path, error in found.failures.items()
        ]
        for path, info in found.files.items():
            key = key_of(path)
            try:
                entries.append(self._entry(key, info))
            except errors.StorageError as error:
                unreadable.append(Unreadable(key, is_folder=False, error=error))
        return Listing(sorted(entries), unreadable)

    def _entry(self, key: str, info: dict[str, Any]) -> Entry:
        """A file as it was listed; one of which the listing tells no size is asked for by itself.

        Raises:
            ProtocolError: it has no name or no size that can be used.
        """
        where = f"{self.location}: {key!r}"
        if not is_safe(key):
            raise errors.ProtocolError(f"{where}: a name with an empty part, or one of dots; rename it on the storage")
        system, root = self._system.get()
        size = info.get("size")
        if size is None:
            try:
                size = system.info(_join(root, key)).get("size")
            except OSError as error:
                raise self._translated(key, error) from error
        size_bytes = _whole_number(size)
        if size_bytes is None:
            raise errors.ProtocolError(f"{where}: it is listed with {size!r} as its size")
        return _entry(key, size_bytes, info)

    def stat(self, key: str) -> Entry:
        """One file."""
        return self._waited_out(lambda: self._stat(key))

    def _stat(self, key: str) -> Entry:
        system, root = self._system.get()
        try:
            info = system.info(_join(root, checked(key)))
        except OSError as error:
            raise self._translated(key, error) from error
        if not is_file(system, _join(root, key), info):
            message = f"{self.location}: {key!r} is not a file"
            raise errors.NotFoundError(message)
        return self._entry(key, info)

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, some at a time."""
        make = body or memory_body
        source = iter(entries)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="ai4os-data-fsspec") as pool:
            running: list[tuple[Entry, Future[Fetched | errors.StorageError]]] = []
            while True:
                running += [
                    (entry, pool.submit(self._read, entry, make))
                    for entry in islice(source, 2 * _THREADS - len(running))
                ]
                if not running:
                    return
                entry, future = running.pop(0)
                outcome = future.result()
                if isinstance(outcome, _AWAY) and self.patience.outage_s:
                    outcome = self._read_waiting(entry, make)  # in this thread, which an interrupt reaches
                yield entry, outcome

    def _read_waiting(self, entry: Entry, make: MakeBody) -> Fetched | errors.StorageError:
        """Read a file when the storage is there."""

        def read() -> Fetched:
            outcome = self._read(entry, make)
            if isinstance(outcome, errors.StorageError):
                raise outcome
            return outcome

        try:
            return self._waited_out(read)
        except errors.StorageError as error:
            return error

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file."""
        return self._waited_out(lambda: self._read_part(entry, start, stop))

    def _read_part(self, entry: Entry, start: int, stop: int) -> bytes:
        stop = min(stop, entry.size_bytes)
        system, root = self._system.get()
        if not entry.is_same_version(self._stat(entry.key)):
            raise errors.ChangedError(f"{self.location}: {entry.key!r} changed since it was opened; open it again")
        if start >= stop:
            return b""
        try:
            data: bytes = system.cat_file(_join(root, entry.key), start=start, end=stop)
        except OSError as error:
            raise self._translated(entry.key, error) from error
        if len(data) != max(0, stop - start):
            message = f"{self.location}: {entry.key!r}: {len(data):,} bytes came for the range {start}-{stop}"
            raise errors.IntegrityError(message)
        return data

    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file."""
        system, root = self._system.get()
        path = _join(root, checked(key))
        try:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(content, Path):
                system.put_file(os.fspath(content), path)
            else:
                system.pipe_file(path, bytes(content))
        except _IN_THE_WAY as error:
            raise self._in_the_way(key) from error
        except OSError as error:
            raise self._translated(key, error) from error
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

    def delete(self, key: str) -> None:
        """Remove a file."""
        system, root = self._system.get()
        try:
            system.rm_file(_join(root, checked(key)))
        except OSError as error:
            raise self._translated(key, error) from error

    def make_folder(self, key: str) -> bool:
        """Make a folder, where the file system has any."""
        system, root = self._system.get()
        try:
            system.makedirs(_join(root, checked(key)), exist_ok=True)
        except _IN_THE_WAY as error:
            raise self._in_the_way(key) from error
        except OSError as error:
            raise self._translated(key, error) from error
        return False

    def _in_the_way(self, key: str) -> errors.LocationError:
        return errors.LocationError(f"{self.location}: {key!r}: a file and a folder cannot have the same name")

    def _open(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            system, root = fsspec.core.url_to_fs(self._url, **self._options)
        except (ValueError, ImportError) as error:
            message = f"{self.location}: fsspec cannot open this: {error}"
            raise errors.LocationError(message) from error
        return system, root

    def _read(self, entry: Entry, make: MakeBody) -> Fetched | errors.StorageError:
        system, root = self._system.get()
        body = make(entry)
        try:
            with system.open(_join(root, entry.key), "rb", block_size=4 * PIECE_BYTES) as file:
                while piece := file.read(PIECE_BYTES):
                    body.write(piece)
            served = self._stat(entry.key)
        except errors.StorageError as error:
            return error
        except OSError as error:
            return self._translated(entry.key, error)
        if body.length != served.size_bytes:
            return errors.ChangedError(f"{self.location}: {entry.key!r} changed while it was read")
        if not self.is_local:
            self.counters.row[telemetry.BYTES_FROM_NETWORK] += body.length
        return Fetched(served, body)

    def _translated(self, key: str, error: OSError) -> errors.StorageError:
        if isinstance(error, errors.StorageError):
            return error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return errors.OutOfSpaceError(f"{self.location}: {key!r}: {error}")
        kinds: dict[type[OSError], type[errors.StorageError]] = {
            FileNotFoundError: errors.NotFoundError,
            NotADirectoryError: errors.NotFoundError,
            IsADirectoryError: errors.NotFoundError,
            PermissionError: errors.PermissionDeniedError,
            TimeoutError: errors.DeadlineError,
            ConnectionError: errors.ServerUnavailableError,
        }
        if error.errno in _UNREACHABLE:
            return errors.ServerUnavailableError(f"{self.location}: {key!r}: {error}")
        kind = next((ours for theirs, ours in kinds.items() if isinstance(error, theirs)), errors.ServerError)
        return kind(f"{self.location}: {key!r}: {error}")


def _may_pass(error: errors.StorageError) -> bool:
    return isinstance(error, _AWAY)


def _join(root: str, key: str) -> str:
    return f"{root.rstrip('/')}/{key}"


def _whole_number(value: Any) -> int | None:
    """A size, in whatever type a file system gives it; None where it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 and (isinstance(value, str) or number == value) else None


def _entry(key: str, size_bytes: int, info: dict[str, Any]) -> Entry:
    etag = next((str(info[name]) for name in ("ETag", "etag", "md5", "md5Hash", "checksum") if info.get(name)), None)
    changed = next(
        (
            _moment(info[name])
            for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
            if info.get(name)
        ),
        None,
    )
    return Entry(key, size_bytes, etag.strip('"') if etag else None, changed)


def _moment(value: object) -> str:
    """A moment, spelt alike whether it comes from a listing or of one file: fsspec's memory gives it in two types."""
    return str(value.timestamp() if isinstance(value, datetime) else value)
