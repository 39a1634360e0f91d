"""The doctor: whether storage is linked, mounted and fresh, who answers there and how fast, and what to do about it.

It is gentle: some twenty small requests, and one probe of 1 MiB that is removed again, with the folders that it took.
Each look has a deadline.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import DiskCache, caches_on_disk_of, placement, report, spool_candidates, spool_room
from ai4os_data.cli.advice import about_missing_root, advice_for
from ai4os_data.cli.finding import Finding
from ai4os_data.cli.folder import folder_of
from ai4os_data.cli.output import say
from ai4os_data.cli.trash import trash_of
from ai4os_data.cli.visits import visiting
from ai4os_data.http import MemoryBody, Patience, Request
from ai4os_data.locations import LINKED, Remote, main_name
from ai4os_data.machine import mounts, ownership, shown_size
from ai4os_data.stores import (
    STORAGE,
    NextcloudStore,
    NotMultistatusError,
    Store,
    WebDAVStore,
    nearest,
    open_store,
    resources,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ai4os_data.stores import DavAnswer

_PROBE = ".ai4os-data-doctor-"
_PROBE_BYTES = 2**20
_ROUND_TRIPS = 5
_FEW_BYTES = 2**30
_BLOCK_BYTES = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}
_QUOTA = (
    b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:quota-available-bytes/><d:quota-used-bytes/>'
    b"</d:prop></d:propfind>"
)


@dataclass(frozen=True)
class Options:
    """What is looked at; the names are those of the command line, and the last two are for the tests."""

    location: str | None = None
    deadline_s: float = 20.0
    writes: bool = True
    storage: str = STORAGE
    table: Path = mounts.MOUNT_TABLE


def run(options: Options) -> int:
    """Look at everything; the exit code is 1 if something does not work."""
    states = {}
    for finding in examine(options, os.environ):
        say(finding)
        states[finding.what] = finding.state
    is_well = "bad" not in states.values()
    say(f"\n{_verdict(is_well=is_well, writes=options.writes, has_folder=states.get('folder') == 'good')}")
    return 0 if is_well else 1


def _verdict(*, is_well: bool, writes: bool, has_folder: bool) -> str:
    if not is_well:
        return "Something does not work: see what FAILs."
    if not writes:
        return "The storage answers, and shows what it has. Nothing was written, and no file was read (--read-only)."
    return (
        "Training can read and write here." if has_folder else "Training can write here; there is nothing to read yet."
    )


def examine(options: Options, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is found, one after the other."""
    yield _cache(environ)
    yield _spool(environ)
    mount = mounts.mount_of(options.storage, options.table)
    location = options.location or _linked(mount, environ)
    yield _mounted(options, mount, has_remote=main_name(environ) is not None)
    if location is None:
        yield Finding(
            "bad",
            "linked",
            "no remote is configured",
            "link a storage to the deployment, run `rclone config`, or name a location: ai4os-data doctor LOCATION",
        )
        return
    try:
        store = within(options.deadline_s, lambda: _open(location, environ, options), _late(location))
    except errors.StorageError as error:
        yield Finding("bad", "linked", str(error), advice_for(error, None, environ))
        return
    yield Finding("good", "linked", f"{store.location}{_account(store)}")
    yield from _store(store, options, environ)
    if isinstance(store, WebDAVStore) and options.location is None and mount is not None and mount.is_rclone:
        yield _fresh(store, options)


def _cache(environ: Mapping[str, str]) -> Finding:
    elsewhere = "free some space, or say where: AI4OS_DATA_CACHE=/directory, on a local disk"
    try:
        cache = DiskCache()
    except errors.CacheError as error:
        return Finding("bad", "cache", _full_place(environ) or str(error), elsewhere)
    first = next(placement.candidates(environ))
    is_elsewhere = os.path.realpath(first) != os.path.realpath(cache.directory)
    if is_elsewhere and (full := _full_place(environ)) is not None:
        return Finding("bad", "cache", f"{full}; until there is room it goes to {cache.directory}", elsewhere)
    free = shutil.disk_usage(cache.directory).free
    told = f"{shown_size(free)} free; the cache in {cache.directory} takes up to {shown_size(cache.size_limit)}"
    few = "little room: what does not fit is read over the network in every epoch" if free < _FEW_BYTES else ""
    return Finding("fair" if few else "good", "cache", told, few)


def _full_place(environ: Mapping[str, str]) -> str | None:
    """What is to be said of the place where the cache would go, if it were not full; None if it is not."""
    first = next(placement.candidates(environ))
    try:
        placement.auto_limit(placement.usable(first, memory_too=False), 0)
    except errors.CacheLimitError as error:
        return str(error)
    except errors.CacheError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            return _full_disk(first)
    return None


def _full_disk(directory: str) -> str:
    free = shutil.disk_usage(nearest(os.path.abspath(directory))).free
    return f"the disk of {directory} is full: {free >> 20:,} MiB free"


def _spool(environ: Mapping[str, str]) -> Finding:
    """Whether checkpoints can wait on the local disk; caches on it give way to them, and so count as free."""
    directory = _spool_directory(environ)
    elsewhere = "free some space, or say where: AI4OS_DATA_SPOOL=/directory, on a local disk"
    mount = mounts.mount_of(directory)
    if mount is not None and mount.is_network:
        told = f"{directory} is on {mount.kind} ({mount.source}), and a spool belongs on a local disk"
        return Finding("bad", "spool", told, elsewhere)
    if (reason := _refusal_of_spool(directory)) is not None:
        return Finding("bad", "spool", f"{directory} {reason}; no checkpoint can be saved", elsewhere)
    try:
        top = nearest(os.path.abspath(directory))
        free, reserve = spool_room(top)
        with tempfile.TemporaryFile(dir=top, buffering=0) as file:  # it has no name, and leaves nothing
            file.write(bytes(_BLOCK_BYTES))
    except OSError as error:
        told = f"{directory} cannot be written: {error.strerror}"
        if error.errno in _FULL:
            told = _full_disk(directory)
        return Finding("bad", "spool", f"{told}; no checkpoint can be saved", elsewhere)
    free += sum(_cached_bytes(cache) for cache in caches_on_disk_of(top))
    if free <= reserve:
        told = f"{free >> 20:,} MiB free for {directory}, of which {reserve >> 20:,} MiB are kept free"
        return Finding("bad", "spool", f"{told}; no checkpoint can be saved", elsewhere)
    few = "little room: it takes two to three checkpoints; delete what is not needed" if free < _FEW_BYTES else ""
    return Finding(
        "fair" if few else "good", "spool", f"{shown_size(free - reserve)} for checkpoints in {directory}", few
    )


def _spool_directory(environ: Mapping[str, str]) -> str:
    """Where checkpoints will wait: the first place that can be used, or the first of all if none can."""
    places = [*spool_candidates(environ)]
    usable = (place for place in places if _refusal_of_spool(place) is None and _may_write(place))
    return next(usable, places[0])


def _refusal_of_spool(directory: str) -> str | None:
    if not os.path.lexists(directory):
        return None
    path = os.path.abspath(directory)
    try:
        return ownership.refusal(path, is_fallback=path == os.path.abspath(placement.fallback("spool")))
    except OSError as error:  # a link to nothing
        return f"cannot be used: {error.strerror}"


def _may_write(directory: str) -> bool:
    return os.access(nearest(os.path.abspath(directory)), os.W_OK | os.X_OK)


def _cached_bytes(cache: DiskCache) -> int:
    return report(cache.directory).entries_bytes


def _linked(mount: mounts.Mount | None, environ: Mapping[str, str]) -> str | None:
    """The location of the storage that is linked: the mount's own remote, else ``rshare``, else the only one."""
    place = mount.remote_path() if mount is not None else None
    names = [remote.name for remote in Remote.known(environ) if remote.name]
    if place is not None and place[0] in names:
        return f"{place[0]}:{place[1]}"
    name = LINKED if LINKED in names else next(iter(names), None) or main_name(environ)  # this one says what is wrong
    return f"{name}:" if name else None


def _mounted(options: Options, mount: mounts.Mount | None, *, has_remote: bool) -> Finding:
    storage = options.storage
    if mount is None or not mount.is_network:
        if not os.path.isdir(storage):
            return Finding("fair", "mounted", f"there is no {storage}", "nothing to do: WebDAV needs no mount")
        return Finding(
            "fair",
            "mounted",
            f"{storage} is a plain directory: nothing that is written there is kept",
            "link a storage to the deployment, or read and write 'rshare:path'; never write to this directory",
        )
    try:
        names = within(options.deadline_s, lambda: os.listdir(storage), f"{storage} does not answer")
    except (OSError, errors.StorageError) as error:
        told = f"{storage} is a mount of {mount.source}, and dead ({error})"
        if has_remote:
            return Finding(
                "fair", "mounted", told, "restart the deployment to have it back; 'rshare:path' works without it"
            )
        return Finding(
            "bad",
            "mounted",
            told,
            "restart the deployment: it does not come back by itself; with the credentials of the remote, which "
            "`rclone config` can set, 'rshare:path' works without it",
        )
    return Finding("good", "mounted", f"{storage} shows {mount.source} ({mount.kind}), {len(names)} names at its top")


def _open(location: str, environ: Mapping[str, str], options: Options) -> Store:
    deadline_s = options.deadline_s
    patience = Patience(
        tries=2,
        first_pause_s=0.2,
        longest_pause_s=1.0,
        connect_s=min(5.0, deadline_s),
        stall_s=max(1, int(deadline_s / 2)),
        total_s=deadline_s,
    )
    return open_store(location, environ=environ, patience=patience, create=options.writes)


def _account(store: Store) -> str:
    return f" at {store.remote.origin}, as {store.remote.user or 'nobody'}" if isinstance(store, WebDAVStore) else ""


def _store(store: Store, options: Options, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Who answers, how fast, how much room there is; where nobody does, no more is asked."""
    if isinstance(store, WebDAVStore):
        try:
            answer = within(options.deadline_s, lambda: _ask(store), _late(store.location))
            seconds = within(options.deadline_s, lambda: _round_trips(store), _late(store.location))
        except errors.StorageError as error:
            yield _unanswered(error, store, environ)
            return
        yield Finding("good", "credentials", "the server accepts them")
        yield _server(store, answer)
        trip_ms = statistics.median(seconds) * 1000
        slow = "each small file costs one: let StorageDataLoader look ahead, and train.warm()" if trip_ms > 200 else ""
        yield Finding("fair" if slow else "good", "round trip", f"{trip_ms:.0f} ms (median of {_ROUND_TRIPS})", slow)
        yield _quota(store, answer)
        if isinstance(store, NextcloudStore) and (trash := trash_of(store)) is not None:
            yield trash
    elif os.path.isdir(path := getattr(store, "root", "")):
        yield Finding("good", "space there", f"{shown_size(shutil.disk_usage(path).free)} free")
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("folder", lambda: folder_of(store, writes=options.writes)),
        ("write, read", lambda: _bandwidth(store)),
    ]
    for what, look in looks if options.writes else looks[:1]:
        try:
            # Not in a thread where requests have deadlines of their own: Ctrl-C has to reach what removes the probe.
            is_bounded = isinstance(store, WebDAVStore)
            finding = look() if is_bounded else within(options.deadline_s * 2, look, _late(store.location))
        except (errors.StorageError, OSError) as error:
            yield Finding("bad", what, str(error), advice_for(error, store, environ))
            if isinstance(error, errors.LocationError):  # a file, in which no probe can lie
                return
        else:
            yield finding


def _ask(store: WebDAVStore) -> DavAnswer:
    """One small question, whose answer has to be WebDAV's; where the folder is missing, the remote itself answers."""
    headers = {"Depth": "0", "Content-Type": "application/xml"}
    try:
        response = store.dav.send("PROPFIND", f"{store.address.base_url}/", headers, _QUOTA)
    except (errors.NotFoundError, errors.ProtocolError):
        # It is missing, or a file: a slash after one is a bad request to some servers.
        if not store.address.path:
            raise
        response = store.dav.send("PROPFIND", f"{store.remote.url}/", headers, _QUOTA)
    try:
        resources(response.body)
    except NotMultistatusError as error:
        raise errors.ProtocolError(
            f"{store.remote.url} answers with {response.headers.get('content-type', 'something')}, not as WebDAV does "
            f"({response.status}; {error}): a page to log in, or another address?"
        ) from error
    return response


def _round_trips(store: WebDAVStore) -> list[float]:
    return [_timed(lambda: _ask(store)) for _ in range(_ROUND_TRIPS)]


def _unanswered(error: errors.StorageError, store: WebDAVStore, environ: Mapping[str, str]) -> Finding:
    if isinstance(error, errors.NotFoundError):
        return Finding("bad", "server", f"{store.remote.url}: there is nothing (404)", about_missing_root(store.remote))
    is_known = isinstance(error, errors.AuthenticationError | errors.PermissionDeniedError)
    return Finding("bad", "credentials" if is_known else "server", str(error), advice_for(error, store, environ))


def _server(store: WebDAVStore, answer: DavAnswer) -> Finding:
    if not isinstance(store, NextcloudStore):
        name = answer.headers.get("server", "a WebDAV server that does not tell its name")
        return Finding(
            "good", "server", f"{name}: files one by one, many at a time; what is written is verified by reading it"
        )
    version = _nextcloud_version(store)
    if version is None:
        return Finding("fair", "server", "Nextcloud of an unknown version", "nothing to do: what it can is found out")
    has_archives = int(version.partition(".")[0]) >= 31
    abilities = "archives of many files, uploads in chunks" if has_archives else "uploads in chunks, no archives"
    old = "" if has_archives else "small files are read one by one; from Nextcloud 31 on they come as archives"
    return Finding("good" if has_archives else "fair", "server", f"Nextcloud {version}: {abilities}", old)


def _nextcloud_version(store: NextcloudStore) -> str | None:
    body = MemoryBody()
    with suppress(errors.StorageError):
        store.transport.send(Request(f"{store.remote.url.partition('/remote.php')[0]}/status.php", body))
        if (match := re.search(rb'"versionstring":"(\d+[\d.]*)', body.getvalue())) is not None:
            return match[1].decode()
    return None


def _quota(store: WebDAVStore, answer: DavAnswer) -> Finding:
    found = {
        name: int(match[1])
        for name in ("available", "used")
        if (match := re.search(rf"quota-{name}-bytes[^>]*>(-?\d+)<".encode(), answer.body)) is not None
    }
    free = found.get("available", -1)
    of_folder = " by this folder" if store.address.path and isinstance(store, NextcloudStore) else ""
    used = f", {shown_size(found['used'])} used{of_folder}" if "used" in found else ""
    stale = "; Nextcloud's figures can be minutes old" if isinstance(store, NextcloudStore) and found else ""
    if free < 0:  # Nextcloud: -1 not computed, -2 unknown, -3 unlimited
        return Finding("good", "quota", f"the server sets no limit, or does not say{used}{stale}")
    few = "remove what is not needed, or let keep_last be smaller" if free < _FEW_BYTES else ""
    return Finding("fair" if few else "good", "quota", f"{shown_size(free)} free{used}{stale}", few)


def _bandwidth(store: Store) -> Finding:
    """Write a probe, read it back, compare, and remove it."""
    key, data = f"{_PROBE}{secrets.token_hex(8)}", secrets.token_bytes(_PROBE_BYTES)
    with visiting(store):
        try:
            up_s = _timed(lambda: store.write(key, data))
            back: list[bytes] = []
            down_s = _timed(lambda: back.append(store.read(key)))
        finally:
            with suppress(errors.NotFoundError):
                store.delete(key)
    if back != [data]:
        raise errors.IntegrityError("what was read back is not what was written")
    rates = [_PROBE_BYTES / seconds / 2**20 for seconds in (up_s, down_s)]
    return Finding("good", "write, read", "{:.1f} MiB/s up, {:.1f} MiB/s down with one file of 1 MiB".format(*rates))


def _fresh(store: WebDAVStore, options: Options) -> Finding:
    """Whether the mount shows what the server has; a mount keeps its listings for five minutes."""
    try:
        seen = within(options.deadline_s, lambda: set(os.listdir(options.storage)), _late(options.storage))
        files, folders = within(options.deadline_s, lambda: store.members(""), _late(store.location))
    except (OSError, errors.StorageError) as error:
        return Finding("fair", "fresh", str(error), "read 'rshare:path', which needs no mount")
    there = {entry.key for entry in files} | set(folders)
    if seen == there:
        return Finding("good", "fresh", "the mount shows what the server has")
    return Finding(
        "fair",
        "fresh",
        f"the mount misses {len(there - seen)} names and shows {len(seen - there)} that are gone",
        "wait five minutes, or read 'rshare:path', which is never stale",
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _late(what: str) -> str:
    return f"{what}: no answer within the deadline"
