"""The listing of a location: made once, kept beside the cache, and fixed by a lock file if a user gives one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from ai4os_data import errors
from ai4os_data.cache import digest
from ai4os_data.http import retries
from ai4os_data.machine import replace_whole
from ai4os_data.stores import ByKey, PackedEntries, Store, Unreadable, folder_token, is_safe
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ai4os_data.cache import Drift
    from ai4os_data.machine import PackedList
    from ai4os_data.stores import Entry, Listing

_SCHEMA = "ai4os-data listing 1"
# The server or the mount cannot give a listing now: it is away, fails, or a proxy answers with a page.
_UNREACHABLE = (errors.ServerError, errors.StorageGoneError)
_NAMED = 5


class Shelf(Protocol):
    """Keeps listings, each under the name of its store."""

    def kept_listing(self, name: str) -> bytes | None:
        """A listing that was kept."""

    def keep_listing(self, name: str, data: bytes) -> None:
        """Keep a listing, if that is possible."""


@dataclass(eq=False, repr=False)
class Index:
    """The files of a location, as they were listed.

    Attributes:
        entries: ordered by key; packed, so that an `Entry` is made on each access.
        location: where, without secrets.
        token: a value of the store that changes with the listing (a folder's ETag on Nextcloud); None if it has none.
        listed_s: when, in seconds since the epoch.
        checked_s: when it was last compared with the storage.
        newer: the files of a lock file that have changed since it was written, by key.
        folders: the folders at the top, those without a file included; None if nobody has asked for them.
        unreadable: what could not be listed; empty for a lock file, which says itself which files there are.
        hollow: the folders in which there was nothing, as far as the store has folders.
    """

    entries: PackedEntries
    location: str
    token: str | None = None
    listed_s: float = field(default_factory=time.time)
    folders: Sequence[str] | None = None
    unreadable: Sequence[Unreadable] = ()
    newer: dict[str, Entry] = field(default_factory=dict)
    hollow: Sequence[str] = ()

    def __post_init__(self) -> None:
        """A new listing counts as compared when it was listed."""
        self.checked_s = self.listed_s

    @classmethod
    def of(cls, listing: Listing, location: str, token: str | None) -> Index:
        """The index of what a store has listed just now."""
        entries = PackedEntries.of(listing.entries)
        return cls(entries, location, token, unreadable=listing.unreadable, hollow=listing.hollow)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.entries)

    def __repr__(self) -> str:
        """A short description for people."""
        return f"Index({self.location!r}, {len(self)} files)"

    @property
    def keys(self) -> PackedList[str]:
        """The keys, in order."""
        return self.entries.keys

    @property
    def by_key(self) -> Mapping[str, Entry]:
        """The entries, to look up."""
        return ByKey(self.entries)

    @property
    def tops(self) -> list[str]:
        """The folders at the top, in order, as far as they are known."""
        return sorted({key.partition("/")[0] for key in self.keys if "/" in key}.union(self.folders or ()))

    @cached_property
    def digest(self) -> str:
        """A sha256 over keys, sizes and versions, which distinguishes this listing from others."""
        hasher = hashlib.sha256()
        for entry in self.entries:
            hasher.update(f"{entry.key}\0{entry.size_bytes}\0{entry.version}\n".encode("utf-8", "surrogateescape"))
        return hasher.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a lock file, to be given as ``index=``: keys, sizes, ETags and a digest, no secrets."""
        whole = {"schema": _SCHEMA, "digest": self.digest, **self._columns()}
        data = json.dumps(whole, ensure_ascii=False, indent=0).encode("utf-8", "surrogateescape")
        replace_whole(path, f"{os.fspath(path)}.{secrets.token_hex(8)}.new", data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """Read a lock file.

        Raises:
            LocationError: there is none, or it is not one.
            IntegrityError: it was changed since it was written.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"index is the path of a lock file, not {path!r}")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                whole = json.load(file)
            if whole["schema"] != _SCHEMA:
                raise KeyError("schema")
            index = cls._from_columns(whole)
        except FileNotFoundError as error:
            message = f"{os.fspath(path)}: no such lock file; dataset.index.save({os.fspath(path)!r}) writes one"
            raise errors.LocationError(message) from error
        except (IsADirectoryError, ValueError, KeyError, TypeError) as error:
            raise errors.LocationError(f"{os.fspath(path)} is not a lock file of ai4os-data") from error
        if index.digest != whole.get("digest"):
            raise errors.IntegrityError(
                f"{os.fspath(path)} was changed after it was written: its digest does not match; write it "
                "again with dataset.index.save(…)"
            )
        return index

    def _columns(self) -> dict[str, object]:
        keys, sizes, etags, modified = self.entries.columns()
        columns = {"keys": keys, "sizes": sizes, "etags": etags}
        columns["modified"] = modified if any(modified) and not all(etags) else None
        about = {"location": self.location, "token": self.token, "listed_s": self.listed_s}
        return {**about, **columns, "folders": self.folders}

    @classmethod
    def _from_columns(cls, columns: dict[str, Any]) -> Index:
        keys, folders = columns["keys"], columns.get("folders")
        for some in (keys, [] if folders is None else folders):
            if not isinstance(some, list) or not all(map(is_safe, some)):
                raise ValueError("keys")
        parts = [keys, columns["sizes"], columns["etags"], columns["modified"] or [None] * len(keys)]
        if not all(isinstance(part, list) and len(part) == len(keys) for part in parts):
            raise ValueError("columns")
        unreadable = [
            Unreadable(key, is_folder, errors.ServerError(reason))
            for key, is_folder, reason in columns.get("unreadable", [])
        ]
        location, token, listed_s = str(columns["location"]), columns["token"], float(columns["listed_s"])
        hollow = list(filter(is_safe, columns.get("hollow", [])))
        return cls(PackedEntries.of_columns(*parts), location, token, listed_s, folders, unreadable, hollow=hollow)

    # --- kept beside the cache

    def to_bytes(self) -> bytes:
        """The listing with a checksum before it."""
        unreadable = [(key, is_folder, str(error)) for key, is_folder, error in self.unreadable]
        whole = {**self._columns(), "unreadable": unreadable, "hollow": list(self.hollow)}
        text = json.dumps(whole, ensure_ascii=False)
        data = text.encode("utf-8", "surrogateescape")
        return f"{xxhash.xxh3_64_hexdigest(data)}\n".encode() + data

    @classmethod
    def from_bytes(cls, data: bytes) -> Index | None:
        """The listing; None if its bytes are damaged."""
        checksum, _, columns = data.partition(b"\n")
        if xxhash.xxh3_64_hexdigest(columns).encode() != checksum:
            return None
        return cls._from_columns(json.loads(columns.decode("utf-8", "surrogateescape")))

    # --- compared

    def differences(self, other: Index, concerns: Callable[[str], bool] = lambda _: True) -> list[str]:
        """The files that another listing of the same location has gained, lost and changed, a phrase for each.

        Args:
            other: the other listing.
            concerns: whether a key matters.
        """
        changed, theirs = self.changed_in(other), dict.fromkeys(other.keys)
        phrases = []
        for key in self.keys:
            if (key in changed or key not in theirs) and concerns(key):
                phrases.append(f"{key!r} {'changed' if key in theirs else 'is gone'}")
            theirs.pop(key, None)
        return phrases + [f"{key!r} is new" for key in theirs if concerns(key)]

    def changed_in(self, other: Index) -> dict[str, Entry]:
        """The files that have another version in another listing, as they are there."""
        theirs = {entry.key: entry for entry in other.entries}
        pairs = ((entry, theirs.get(entry.key)) for entry in self.entries)
        return {one.key: their for one, their in pairs if their is not None and not one.is_same_version(their)}


def open_index(
    store: Store,
    shelf: Shelf | None,
    lock_file: str | os.PathLike[str] | None,
    on_drift: Drift,
    concerns: Callable[[str], bool] = lambda _: True,
) -> Index:
    """The listing of a store: the kept one if the server says that it is still right, else a new one.

    Args:
        store: what is listed.
        shelf: where listings are kept.
        lock_file: what the listing should be.
        on_drift: what to do if it is not.
        concerns: whether a key matters: others may come and go.

    Raises:
        ChangedError: the location is not what the lock file says, under ``on_drift="error"``.
        LocationError: the lock file is of another location.
        StorageError: it cannot be listed, and no listing is kept.
    """
    kept = Index.load(lock_file) if lock_file is not None else kept_index(store, shelf)
    store = store.with_patience(store.patience.hurried(retries.OPENING_S, waits=kept is None))
    try:
        token = folder_token(store)
        if kept is not None and token is not None and token == kept.token and not kept.unreadable:
            return kept
        listed = _listed(store, shelf, token)
    except _UNREACHABLE as error:
        if kept is None:
            raise
        age = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.listed_s))
        why = "gives no listing" if isinstance(error, errors.ProtocolError) else "cannot be reached"
        tell_once(f"{store.location}: the listing of {age} is used, since the storage {why}: {error}")
        return kept
    return listed if lock_file is None or kept is None else _reconciled(kept, listed, on_drift, concerns)


def list_anew(store: Store, shelf: Shelf | None) -> Index:
    """The present listing, which is kept from now on.

    Raises:
        StorageError: it cannot be listed.
    """
    return _listed(store, shelf, folder_token(store))


def _listed(store: Store, shelf: Shelf | None, token: str | None) -> Index:
    """What a store lists now. The token is taken before: if the folder changes then, the next opening lists it anew."""
    listed = Index.of(store.listing(), store.location, token)
    _keep(shelf, store, listed)
    return listed


def find_folders(index: Index, store: Store, shelf: Shelf | None) -> None:
    """Add the folders at the top to a listing, also those without a file, and keep it with them.

    Raises:
        StorageError: the storage can be reached, but not be asked.
    """
    if index.folders is not None or type(store).members is Store.members:  # shows no more than the listing
        return
    try:
        hurried = store.with_patience(store.patience.hurried(retries.OPENING_S, waits=False))
        index.folders = hurried.members("")[1]
    except _UNREACHABLE as error:
        tell_once(
            f"{store.location}: folders without a file are not seen, since the storage cannot be reached: {error}"
        )
        return
    _keep(shelf, store, index)


def _name(store: Store) -> str:
    return digest("listing", store.identity)


def _keep(shelf: Shelf | None, store: Store, listed: Index) -> None:
    if shelf is not None:
        shelf.keep_listing(_name(store), listed.to_bytes())


def kept_index(store: Store, shelf: Shelf | None) -> Index | None:
    """The listing of a store that was kept, even if the location has changed since; None if there is none."""
    data = shelf.kept_listing(_name(store)) if shelf is not None else None
    try:
        return Index.from_bytes(data) if data is not None else None
    except (ValueError, KeyError, TypeError):  # of another version of this library
        return None


def _reconciled(locked: Index, listed: Index, on_drift: Drift, concerns: Callable[[str], bool]) -> Index:
    """The listing to use with a lock file."""
    if on_drift == "refresh":
        return listed
    if locked.digest == listed.digest:
        listed.folders = locked.folders
        return listed
    _check_location(locked, listed, concerns)
    differences = locked.differences(listed, concerns)
    lost = [phrase for phrase in differences if not phrase.endswith("is new")]
    what = f"{listed.location} is not what the lock file says: {enumerated(differences)}"
    if on_drift == "error" and differences:
        raise errors.ChangedError(f"{what}. Write the lock file again, or choose on_drift='warn' or 'refresh'")
    if differences:
        tell_once(f"{what}. The files of the lock file are used{', as they are now' if lost else ''}")
    locked.checked_s = listed.checked_s
    if on_drift == "warn":
        locked.newer = locked.changed_in(listed)
    return locked


def _check_location(locked: Index, listed: Index, concerns: Callable[[str], bool]) -> None:
    """Check that a lock file is of the location; the same files at another address will do.

    Raises:
        LocationError: it is of another one.
    """
    if locked.location != listed.location:
        keys = [key for key in locked.keys if concerns(key)]
        found = listed.entries.positions_of(keys)
        gone = [repr(key) for key, position in zip(keys, found, strict=True) if position is None]
        if gone:
            raise errors.LocationError(
                f"the lock file is of {locked.location}, and not of {listed.location}, where {enumerated(gone)} "
                f"{'is' if len(gone) == 1 else 'are'} not there. Give the location that it was written for, or write "
                "one for this location with dataset.index.save(…)"
            )


def enumerated(phrases: Iterable[str]) -> str:
    """The first few of some phrases, and how many more there are."""
    phrases = list(phrases)
    more = len(phrases) - _NAMED
    return ", ".join(phrases[:_NAMED]) + (f" and {more} more" if more > 0 else "")
