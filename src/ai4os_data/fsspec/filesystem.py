"""The storage as an fsspec file system: pandas, pyarrow, zarr and the rest read it through the cache.

A whole file is read through the cache; a part of one comes from one version. A file that is written is on the server
whole and verified when its ``close`` returns, or not at all.
"""

# Imports are absolute, so that `import fsspec` means the library.
from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.utils import infer_compression, other_paths

from ai4os_data import errors
from ai4os_data.cache import CachedStore, DiskCache, Files, UncachedStore, cache_for
from ai4os_data.fsspec.files import BufferedFile, NewFile, NewTextFile, opened
from ai4os_data.fsspec.moving import (
    PIECE_BYTES,
    Pairs,
    address,
    apart,
    check_movable,
    copied,
    download,
    part_of,
    remove_copied,
    remove_emptied,
    upload,
)
from ai4os_data.fsspec.paths import Info, Paths, RemotePaths, RootedPaths, file_info, nothing_at, safe_file_at
from ai4os_data.http import OPENING_S, Content, checked_outage_s
from ai4os_data.locations import Remote
from ai4os_data.locations import parsing as locations
from ai4os_data.stores import Entry, Store, checked, is_safe, look_at, open_store

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

T = TypeVar("T")
Cache = DiskCache | str | os.PathLike[str] | None

_THREADS = 8
_OPTIONS_OF_FSSPEC = frozenset(
    (
        *("asynchronous", "batch_size", "loop", "skip_instance_cache"),
        *("listings_expiry_time", "max_paths", "use_listings_cache"),
        *("block_size", "default_block_size", "cache_type", "default_cache_type", "cache_options"),
        *("fo", "target_options", "target_protocol"),  # of a chain of URLs
        *("add_aliases", "add_docs"),  # fsspec itself warns of these
        # Settings of another HTTP client, which `datasets` passes to every file system when it streams; they have no
        # meaning here.
        "client_kwargs",
    )
)


def open_filesystem(
    location: str | os.PathLike[str] | Store,
    remote: str | Remote | None = None,
    cache: Cache = "auto",
    *,
    create: bool = False,
    outage_s: float | None = None,
) -> RootedFileSystem:
    """The file system below a location; its paths begin there.

    Args:
        location: whatever a dataset takes.
        remote: a remote's name, or a `Remote`; by default the credentials are found as rclone finds them.
        cache: a `DiskCache`, a directory, ``"auto"``, or None.
        create: whether the location may not exist yet: then the first file makes the folder. Without ``create`` the
            location is checked here.
        outage_s: how many seconds reads wait for a storage that is away; 10 minutes by default, 0 for a few tries.

    Raises:
        LocationError: the location cannot be understood, or there is nothing at it.
        RemoteError: its remote is not configured.
        StorageError: the storage cannot be asked.

    Example:
        >>> files = open_filesystem("rshare:ai4os-storage/datasets/flowers")
        >>> files.ls("train", detail=False)
        >>> with files.open("notes.txt", "w") as notes:
        ...     notes.write("whole or absent")
    """
    files = RootedFileSystem(location, remote=remote, cache=cache, create=create, outage_s=outage_s)
    if not create:
        files.look()
    return files


class StorageFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """The remotes that rclone knows, as ``ai4os://REMOTE/PATH``.

    No listing is kept: each look asks the server. It can be pickled, and used in forked and spawned processes. It
    carries no credentials; each process finds them anew.

    Args:
        cache: a `DiskCache`, a directory, ``"auto"``, or None.
        outage_s: how many seconds reads wait for a storage that is away; 10 minutes by default, 0 for a few tries.
        storage_options: fsspec's own. ``cache_type``, ``block_size`` and ``cache_options`` are the defaults of
            ``open``: with a ``cache_type``, a file is read through that cache of fsspec, in blocks of this size;
            without one, ``block_size`` has no effect. The others have no effect: no listing is kept, and the settings
            of other HTTP clients (``client_kwargs``) are accepted and ignored.

    Raises:
        TypeError: there is no such option.
    """

    protocol = "ai4os"
    root_marker = ""
    _arguments: tuple[str, ...] = ("cache", "outage_s")

    def __init__(self, cache: Cache = "auto", outage_s: float | None = None, **storage_options: Any) -> None:
        if unknown := sorted(storage_options.keys() - _OPTIONS_OF_FSSPEC):
            raise TypeError(
                f"{type(self).__name__} takes no option {', '.join(map(repr, unknown))}; its own are "
                f"{', '.join(self._arguments)}, beside those of every fsspec file system. A remote is named by the "
                "path, ai4os://REMOTE/PATH, or given to open_filesystem(location, remote)"
            )
        super().__init__(**storage_options)
        self._reading = {
            name: found
            for name in ("cache_type", "block_size", "cache_options")
            if (found := storage_options.get(name, storage_options.get(f"default_{name}"))) is not None
        }
        self._cache = cache
        outage_s = None if outage_s is None else checked_outage_s(outage_s)
        self._paths: Paths = RemotePaths(self._through_cache, outage_s)

    def to_dict(self, *, include_password: bool = True) -> Info:  # noqa: ARG002  there is none in it
        """What it is made from, for JSON.

        Raises:
            TypeError: credentials were passed in, and JSON is no place for them.
        """
        given = dict(zip(self._arguments, self.storage_args, strict=False)) | self.storage_options
        if any(isinstance(value, Remote | Store) or _has_credentials(value) for value in given.values()):
            raise TypeError("credentials were passed to this file system; name a configured remote to have it as JSON")
        made_from = {name: _plain(value) for name, value in given.items() if name != "client_kwargs"}
        kind = type(self)
        return {"cls": f"{kind.__module__}:{kind.__name__}", "protocol": self.protocol, "args": [], **made_from}

    # --- paths

    def _find(self, path: str) -> tuple[Files, str]:
        """The store of a path, and the key in it."""
        return self._paths.find(self._strip_protocol(path))

    def _existing(self, path: str) -> tuple[Files, Entry]:
        """The store of a file that is to be read, and the file."""
        return self._paths.existing(self._strip_protocol(path))

    def _through_cache(self, store: Store) -> Files:
        cache = cache_for(self._cache, local=store.is_local)
        return UncachedStore(store) if cache is None else CachedStore(store, cache)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.strip("/") if isinstance(stripped, str) else stripped

    # --- looking

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The members of a folder; for a file, the file itself."""
        found = self._paths.members(self._strip_protocol(path))
        return found if detail else sorted(info["name"] for info in found)

    def info(self, path: str, **_: Any) -> Info:
        """Name, size and type; for a file also its ETag and the time of its last change, as the server gives them."""
        return self._paths.info(self._strip_protocol(path))

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is anything; an error if the server cannot answer."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether there is a file; an error if the server cannot answer."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether there is a folder; an error if the server cannot answer."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = None, **options: Any
    ) -> Any:
        """Go through the folders; one that cannot be listed raises, instead of looking empty."""
        return super().walk(path, maxdepth, topdown, on_error or _only_missing, **options)

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        """Every file below a folder, in one request if the server allows it."""
        path = self._strip_protocol(path)
        if maxdepth is not None or withdirs or (not path and self._paths.roots() is not None):
            return super().find(path, maxdepth, withdirs, detail, **options)
        cached, key = self._find(path)
        if key and not is_safe(key):
            return {} if detail else []
        entry = safe_file_at(cached.store, key) if key else None
        entries = [entry] if entry is not None else cached.store.list_below(key)
        found = {name: file_info(name, entry) for entry in entries if (name := self._paths.name(path, entry.key))}
        return found if detail else sorted(found)

    def expand_path(self, path: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> list[str]:
        """The paths that a path or pattern means; an existing name with ``*``, ``?`` or ``[`` in it is no pattern."""
        given = [path] if isinstance(path, str | os.PathLike) else path
        paths = [self._strip_protocol(each) for each in given]
        names = [] if options.get("assume_literal") else [each for each in paths if self._is_name(each)]
        found = set(names)
        for name in names if recursive else ():
            found.update(self.find(name, maxdepth=maxdepth, withdirs=True))
        if rest := [each for each in paths if each not in found]:
            found.update(super().expand_path(rest, recursive, maxdepth, **options))
        return sorted(found)

    def _is_name(self, path: str) -> bool:
        """Whether a path that looks like a pattern is an existing name."""
        try:
            return has_magic(path) and self.exists(path)
        except errors.ProtocolError:  # some servers do not take such names
            return False

    def ukey(self, path: str) -> str:
        """A value that changes when the file does."""
        cached, entry = self._existing(path)
        return cached.name(entry)

    def checksum(self, path: str) -> int:
        """A number that changes when the file does."""
        return int(self.ukey(path), 16)

    def modified(self, path: str) -> datetime:
        """When a file was changed, by the server's clock.

        Raises:
            NotImplementedError: the store gives no time that can be parsed.
        """
        modified = self.info(path).get("modified")
        for read in (parsedate_to_datetime, datetime.fromisoformat):
            with suppress(ValueError, TypeError):
                return read(modified or "")
        raise NotImplementedError(f"{path}: the store gives no time of its last change")

    # --- reading

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **options: Any) -> IO[bytes] | NewFile:
        if mode in {"rb", "r"}:
            cached, entry = self._existing(path)
            reading = self._reading | {name: value for name, value in options.items() if value is not None}
            if "cache_type" in reading:
                return BufferedFile(self, path, entry, cached, **reading)
            return opened(self, file_info(path, entry), cached.open(entry))
        if mode not in {"wb", "xb"}:
            raise ValueError(f"mode {mode!r}: a file is read ('rb') or written anew ('wb', 'xb'); WebDAV has no append")
        send = partial(self._store, path, is_new=self._is_new(path, wanted=mode == "xb"))
        return NewFile(self, path, send, mode=mode, compress=options.get("compress"), commit_on_close=autocommit)

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """A file, to be read or to be written anew."""
        path = self._strip_protocol(path)
        if "r" in mode:
            return super().open(path, mode, block_size, cache_options, compression, **options)
        if "b" not in mode:
            text = {name: options.pop(name) for name in ("encoding", "errors", "newline") if name in options}
            raw = self.open(path, mode.replace("t", "") + "b", compression=compression, **options)
            return NewTextFile(raw, **text)
        if compression == "infer":
            compression = infer_compression(path)
        if compression is not None:
            # The new file holds the compressor, since most compressors do not close the file that they write to.
            options["compress"] = lambda file: compr[compression](file, mode="w")
        return super().open(path, mode, block_size, cache_options, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """A whole file through the cache, or a part of one version of it."""
        cached, entry = self._existing(path)
        return part_of(cached, entry, start, end)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any) -> Any:
        """One file, or many at a time."""
        paths = self.expand_path(path, recursive=recursive)
        if len(paths) == 1 and isinstance(path, str) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **options)
        return self._cat_many([name for name in paths if not recursive or not self.isdir(name)], on_error)

    def _cat_many(self, paths: list[str], on_error: str) -> dict[str, Any]:
        found: dict[str, Any] = dict(self._known(paths))
        by_store: dict[Files, dict[str, tuple[str, Entry]]] = {}
        for path, known in found.items():
            if not isinstance(known, Exception):
                by_store.setdefault(known[0], {})[known[1].key] = path, known[1]
        for cached, wanted in by_store.items():
            for read, result in cached.read_many([entry for _, entry in wanted.values()]):
                found[wanted[read.key][0]] = result
        if on_error == "raise":
            _raise_first(found.values())
        return {path: got for path, got in found.items() if on_error != "omit" or not isinstance(got, Exception)}

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, max_gap: Any = None, on_error: str = "return", **_: Any
    ) -> list[Any]:
        """Parts of files, many at a time; those of one file come from one version of it."""
        if max_gap is not None:
            raise NotImplementedError("max_gap: parts are fetched as they are asked for")
        starts, ends = (each if isinstance(each, Iterable) else [each] * len(paths) for each in (starts, ends))
        known = self._known(list(dict.fromkeys(paths)))

        def part(path: str, start: int | None, end: int | None) -> bytes | Exception:
            found = known[path]
            return found if isinstance(found, Exception) else _or_error(part_of, *found, start, end)

        parts = _at_once(part, paths, starts, ends)
        if on_error == "raise":
            _raise_first(parts)
        return parts

    def _known(self, paths: list[str]) -> dict[str, tuple[Files, Entry] | Exception]:
        """Each file with its store, or the error if there is none."""
        return dict(zip(paths, _at_once(partial(_or_error, self._existing), paths), strict=True))

    def get_file(
        self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, outfile: IO[bytes] | None = None, **_: Any
    ) -> None:
        """Download a file: the local one is complete, or unchanged."""
        if self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        cached, entry = self._existing(rpath)
        callback.set_size(entry.size_bytes)
        if outfile is not None or hasattr(lpath, "write"):
            with cached.open(entry) as file:
                shutil.copyfileobj(file, lpath if outfile is None else outfile, PIECE_BYTES)
        else:
            download(cached, entry, os.fspath(lpath))
        callback.relative_update(entry.size_bytes)

    # --- writing

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a whole file."""
        self._store(path, bytes(value), is_new=self._is_new(path, wanted=mode == "create"))

    def put_file(
        self, lpath: Any, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Upload a local file; for a local directory, make a folder."""
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        is_new = self._is_new(rpath, wanted=mode == "create")
        callback.set_size(os.path.getsize(lpath))
        self._store(rpath, Path(lpath), is_new=is_new, on_bytes=callback.relative_update)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Write an empty file; without ``truncate`` only if there is none."""
        if truncate or not self.exists(path):
            self._store(path, b"")

    def _is_new(self, path: str, *, wanted: bool) -> bool:
        """Whether a file must be new: then an existing one is refused."""
        if wanted and self.exists(path):
            raise FileExistsError(errno.EEXIST, "there is such a file already", path)
        return wanted

    def _store(
        self, path: str, content: Content, *, is_new: bool = False, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        """Send a whole file, and make sure that it arrived."""
        cached, key = self._find(path)
        if not key:
            raise IsADirectoryError(errno.EISDIR, "this is a folder", path)
        checked(key)
        store = cached.store.with_patience(replace(cached.store.patience, outage_s=0.0))  # a write waits for no outage
        with self._no_other_kind(path):
            upload(store, key, content, None if is_new else safe_file_at(cached.store, key), on_bytes)
        cached.forget(cached.store.stat(key))
        self.invalidate_cache(path)

    @contextmanager
    def _no_other_kind(self, path: str) -> Iterator[None]:
        """Raise an error that names what is in the way: a folder where a file should be, or the reverse."""
        try:
            yield
        except errors.NameRefusedError:
            raise
        except errors.LocationError as error:
            try:
                found = self._type(path)
            except errors.ProtocolError:  # Apache's answer to a path below a file
                found = None
            if found == "directory":
                raise IsADirectoryError(errno.EISDIR, "there is a folder of this name", path) from error
            if found == "file":
                raise FileExistsError(errno.EEXIST, "there is a file of this name", path) from error
            message = "there is a file where a folder above it belongs"
            raise NotADirectoryError(errno.ENOTDIR, message, path) from error

    # --- copying and moving

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file by way of this machine; it is verified like every written file. For a folder, make a folder."""
        if address(self._find, path1) != address(self._find, path2):
            self._copy(path1, path2)

    def _copy(self, source: str, target: str) -> Entry | None:
        """Copy a file, and return its version; None for a folder, which is made."""
        cached, key = self._find(source)
        entry = safe_file_at(cached.store, key) if key else None
        if entry is not None:
            copied(cached, entry, partial(self._store, target))
        elif self.isdir(source):
            self.makedirs(target, exist_ok=True)
        else:
            raise nothing_at(cached.store, key)
        return entry

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **_: Any,
    ) -> None:
        """Copy files, and folders too if ``recursive``; a file is not copied onto itself.

        Raises:
            OSError: a folder would be copied into itself.
        """
        ignored = (FileNotFoundError,) if (on_error or ("ignore" if recursive else "raise")) == "ignore" else ()
        for source, target in apart(self._find, self._pairs(path1, path2, recursive, maxdepth)):
            with suppress(*ignored):
                self._copy(source, target)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Copy, verify and then remove: no server's rename says what it replaced.

        Nothing is removed before everything was copied, and then only the copied versions. A file moved onto itself
        stays.

        Raises:
            ChangedError: a file was changed after it was copied; it is in both places now.
            OSError: a folder would be moved into itself; or new files appeared in it, which stay.
        """
        pairs = self._pairs(path1, path2, recursive, maxdepth)
        if not pairs:
            raise IsADirectoryError(errno.EISDIR, "this is a folder; say recursive=True to move it whole", path1)
        pairs = apart(self._find, pairs)
        check_movable(self._find, pairs, path1, path2)
        versions = {source: self._copy(source, target) for source, target in pairs}
        for source, entry in versions.items():
            if entry is not None:
                cached, key = self._find(source)
                remove_copied(cached.store, key, entry)
        folders = {source for source, entry in versions.items() if entry is None}
        for folder in sorted(folder for folder in folders if self._parent(folder) not in folders):
            cached, key = self._find(folder)
            remove_emptied(cached.store, key, folder)

    def _pairs(self, path1: Any, path2: Any, recursive: bool, maxdepth: int | None) -> Pairs:
        """Each file and folder with the path that it is copied to, by the rules of fsspec."""
        if isinstance(path1, list) and isinstance(path2, list):
            return list(zip(map(self._strip_protocol, path1), map(self._strip_protocol, path2), strict=True))
        sources = self.expand_path(path1, recursive=recursive, maxdepth=maxdepth)
        is_one = isinstance(path1, str | os.PathLike)
        if is_one and (not recursive or maxdepth is not None):
            sources = [source for source in sources if not self.isdir(source)]
        if not sources:
            return []
        # With a slash before each: otherwise fsspec takes a name at the top for its folder.
        targets = other_paths(
            [f"/{source}" for source in sources],
            path2 if isinstance(path2, list) else f"/{self._strip_protocol(path2)}",
            exists=is_one and self._goes_into(os.fspath(path1), path2, len(sources)),
            flatten=not is_one,
        )
        return [(source, self._strip_protocol(target)) for source, target in zip(sources, targets, strict=True)]

    def _goes_into(self, path1: str, path2: Any, found: int) -> bool:
        """Whether the source keeps its own name, below the target."""
        if has_magic(path1) and not self._is_name(self._strip_protocol(path1)):
            return found == 1
        is_folder = not isinstance(path2, list) and (os.fspath(path2).endswith("/") or self.isdir(path2))
        return is_folder and not path1.endswith("/")

    # --- folders, and removing

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder, which must not be there yet."""
        path = self._strip_protocol(path)
        if not create_parents and not self.isdir(self._parent(path)):
            raise FileNotFoundError(errno.ENOENT, "the folder above it is missing", path)
        self.makedirs(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        found = self._type(path) if not exist_ok else None
        if found is not None:
            raise FileExistsError(errno.EEXIST, f"there is such a {found} already", path)
        cached, key = self._find(path)
        if key:
            checked(key)
            with self._no_other_kind(path):
                cached.store.make_folder(key)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        if self.ls(path):
            raise OSError(errno.ENOTEMPTY, "this folder is not empty", path)
        cached, key = self._find(path)
        if not key:
            raise OSError(errno.EBUSY, "the root of a file system is emptied, and never removed", path)
        cached.store.remove_tree(key)

    def rm_file(self, path: str) -> None:
        """Remove a file, and never a folder."""
        try:
            cached, entry = self._existing(path)
        except IsADirectoryError as error:
            message = "this is a folder; say recursive=True to remove all in it"
            raise IsADirectoryError(errno.EISDIR, message, path) from error
        cached.store.delete(entry.key)

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and if ``recursive`` folders with all that is in them.

        The root of a file system, and of a remote, is emptied and stays. The remotes together are never emptied.

        Raises:
            PermissionError: all remotes were to be emptied.
        """
        if recursive and maxdepth is not None:
            raise NotImplementedError("maxdepth: a folder is removed as a whole")
        removed: list[str] = []
        for each in self.expand_path(path):  # in order, so that a folder comes before its members
            if any(each.startswith(folder) for folder in removed):
                continue
            if recursive and self.isdir(each):
                self._remove_folder(each)
                removed.append(f"{each}/" if each else "")
            else:
                self.rm_file(each)

    def _remove_folder(self, path: str) -> None:
        """Remove a folder and all below it; of a root, all below it."""
        if not path and self._paths.roots() is not None:
            raise PermissionError(errno.EPERM, "these are all remotes; name the one that is to be emptied", path)
        cached, key = self._find(path)
        if key:
            cached.store.remove_tree(key)
            return
        files, folders = cached.store.members("")
        for folder in folders:
            cached.store.remove_tree(folder)
        for entry in files:
            with suppress(errors.NotFoundError):  # somebody else is removing it
                cached.store.delete(entry.key)


class RootedFileSystem(StorageFileSystem):
    """The file system below one location; its paths begin there.

    A pickle carries credentials that the caller passed in, and only the name of a remote that was found.

    Args:
        location: as for `open_filesystem`.
        remote: as for `open_filesystem`.
        cache: as for `open_filesystem`.
        create: as for `open_filesystem`.
        storage_options: fsspec's own.

    Raises:
        TypeError: there is no such option.
    """

    _arguments = ("location", "remote", "cache", "create", "outage_s")
    cachable = False  # fsspec distinguishes instances by the repr of their arguments, which shows no password

    def __init__(
        self,
        location: str | os.PathLike[str] | Store,
        remote: str | Remote | None = None,
        cache: Cache = "auto",
        *,
        create: bool = False,
        outage_s: float | None = None,
        **storage_options: Any,
    ) -> None:
        super().__init__(cache, outage_s, **storage_options)
        self._root = open_store(location, remote, create=create, outage_s=outage_s)
        self._paths = RootedPaths(self._through_cache(self._root))

    def __repr__(self) -> str:
        """A short description for people."""
        return f"{type(self).__name__}({self._root.location!r})"

    def look(self) -> None:
        """Check that the location exists.

        Raises:
            LocationError: there is nothing at it.
        """
        look_at(self._root.with_patience(self._root.patience.hurried(OPENING_S, waits=True)))

    def unstrip_protocol(self, name: str) -> str:
        """The path as a location that a dataset takes."""
        return f"{self._root.location.rstrip('/')}/{self._strip_protocol(name)}"


def _has_credentials(value: object) -> bool:
    return isinstance(value, str) and locations.shown(value) != value


def _plain(value: object) -> object:
    """An argument in a form for JSON: a cache as its directory."""
    value = value.directory if isinstance(value, DiskCache) else value
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _only_missing(error: OSError) -> None:
    """Ignore a folder that is gone; raise any other error, since the folder would look empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _at_once(work: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """The result of some work for each of some arguments, in their order."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="ai4os-data-cat") as pool:
        return list(pool.map(work, *arguments))


def _or_error(read: Callable[..., T], *arguments: Any) -> T | Exception:
    """The result of a read, or its error."""
    try:
        return read(*arguments)
    except (errors.StorageError, IsADirectoryError) as error:
        return error


def _raise_first(results: Iterable[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result
