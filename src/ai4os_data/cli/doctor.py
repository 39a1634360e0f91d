"""The doctor: whether storage is linked, mounted and fresh, who answers there and how fast, and what to do about it.

It is gentle: some twenty small requests, and one probe of 1 MiB that is removed again, with the folders that it took.
Each look has a deadline.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ai4os_data import errors, mounts
from ai4os_data.bodies import MemoryBody
from ai4os_data.cache import DiskCache
from ai4os_data.cli.output import say
from ai4os_data.cli.visits import visiting
from ai4os_data.remotes import Remote
from ai4os_data.retries import Patience
from ai4os_data.stores import Store, open_store
from ai4os_data.stores.directory import within
from ai4os_data.stores.mounted import STORAGE
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from ai4os_data.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import httpx

_PROBE = ".ai4os-data-doctor-"
_PROBE_BYTES = 2**20
_ROUND_TRIPS = 5
_FEW_BYTES = 2**30
_QUOTA = (
    b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:quota-available-bytes/><d:quota-used-bytes/>'
    b"</d:prop></d:propfind>"
)
_SIGNS = {"good": "  ok", "fair": "note", "bad": "FAIL"}


@dataclass(frozen=True)
class Options:
    """What is looked at; the names are those of the command line, and the last two are for the tests."""

    location: str | None = None
    deadline_s: float = 20.0
    writes: bool = True
    storage: str = STORAGE
    table: Path = mounts.MOUNT_TABLE


class Finding(NamedTuple):
    """One line: how it stands, with what, and what to do about it."""

    state: Literal["good", "fair", "bad"]
    what: str
    told: str
    advice: str = ""

    def __str__(self) -> str:
        """As it is printed."""
        line = f"{_SIGNS[self.state]}  {self.what:<12}{self.told}"
        return f"{line}\n      {'':<12}-> {self.advice}" if self.advice else line


def run(options: Options) -> int:
    """Look at everything; the exit code is 1 where something does not work."""
    is_well = True
    for finding in examine(options, os.environ):
        say(finding)
        is_well &= finding.state != "bad"
    say(f"\n{_verdict(is_well=is_well, writes=options.writes)}")
    return 0 if is_well else 1


def _verdict(*, is_well: bool, writes: bool) -> str:
    if not is_well:
        return "Something does not work: see what FAILs."
    if writes:
        return "Training can read and write here."
    return "The storage answers, and shows what it has. Nothing was written, and no file was read (--read-only)."


def examine(options: Options, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is found, one after the other."""
    yield from _local_disk()
    mount = mounts.mount_of(options.storage, options.table)
    yield _mounted(options, mount)
    location = options.location or _linked(mount, environ)
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
        yield Finding("bad", "linked", str(error), "correct the location, or the remote's settings")
        return
    yield Finding("good", "linked", f"{store.location}{_account(store)}")
    yield from _store(store, options)
    if isinstance(store, WebDAVStore) and options.location is None and mount is not None and mount.is_rclone:
        yield _fresh(store, options)


def _local_disk() -> Iterator[Finding]:
    try:
        cache = DiskCache()
    except errors.CacheError as error:
        yield Finding("fair", "local disk", str(error), "free some space, or say where: AI4OS_DATA_CACHE=/directory")
        return
    free = shutil.disk_usage(cache.directory).free
    told = f"{_size(free)} free; the cache in {cache.directory} takes up to {_size(cache.size_limit)}"
    few = "little room: what does not fit is read over the network in every epoch" if free < _FEW_BYTES else ""
    yield Finding("fair" if few else "good", "local disk", told, few)


def _linked(mount: mounts.Mount | None, environ: Mapping[str, str]) -> str | None:
    """The location of the storage that is linked: the mount's own remote, else ``rshare``, else the only one."""
    place = mount.remote_path() if mount is not None else None
    names = [remote.name for remote in Remote.known(environ) if remote.name]
    if place is not None and place[0] in names:
        return f"{place[0]}:{place[1]}"
    if "rshare" in names:
        return "rshare:"
    return f"{names[0]}:" if names else None


def _mounted(options: Options, mount: mounts.Mount | None) -> Finding:
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
        return Finding(
            "fair",
            "mounted",
            f"{storage} is a mount of {mount.source}, and dead ({error})",
            "restart the deployment to have it back; 'rshare:path' reads past it",
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


def _store(store: Store, options: Options) -> Iterator[Finding]:
    """Who answers, how fast, how much room there is; where nobody does, no more is asked."""
    if isinstance(store, WebDAVStore):
        try:
            answer = within(options.deadline_s, lambda: _ask(store), _late(store.location))
            seconds = within(options.deadline_s, lambda: _round_trips(store), _late(store.location))
        except errors.StorageError as error:
            yield _unanswered(error)
            return
        yield Finding("good", "credentials", "the server accepts them")
        yield _server(store, answer)
        trip_ms = statistics.median(seconds) * 1000
        slow = "each small file costs one: let StorageDataLoader look ahead, and train.warm()" if trip_ms > 200 else ""
        yield Finding("fair" if slow else "good", "round trip", f"{trip_ms:.0f} ms (median of {_ROUND_TRIPS})", slow)
        yield _quota(answer)
    elif os.path.isdir(path := getattr(store, "root", "")):
        yield Finding("good", "space there", f"{_size(shutil.disk_usage(path).free)} free")
    what, look, deadline_s = ("write, read", _bandwidth, options.deadline_s * 2)
    if not options.writes:
        what, look, deadline_s = ("folder", _folder, options.deadline_s)
    try:
        yield within(deadline_s, lambda: look(store), _late(store.location))
    except (errors.StorageError, OSError) as error:
        yield Finding("bad", what, str(error), _advice(error))


def _ask(store: WebDAVStore) -> httpx.Response:
    """One small question; the folder may be missing, since writing makes it, and then the remote itself answers."""
    headers = {"Depth": "0", "Content-Type": "application/xml"}
    try:
        return store.dav("PROPFIND", f"{store.base_url}/", headers, _QUOTA)
    except errors.NotFoundError:
        return store.dav("PROPFIND", f"{store.remote.url}/", headers, _QUOTA)


def _round_trips(store: WebDAVStore) -> list[float]:
    return [_timed(lambda: _ask(store)) for _ in range(_ROUND_TRIPS)]


def _unanswered(error: errors.StorageError) -> Finding:
    is_known = isinstance(error, errors.AuthenticationError | errors.PermissionDeniedError)
    return Finding("bad", "credentials" if is_known else "server", str(error), _advice(error))


def _advice(error: BaseException) -> str:
    kinds = {
        errors.AuthenticationError: "make a new app password in Nextcloud (Settings, Security), and link the storage "
        "again; a deployment that runs keeps the old one",
        errors.PermissionDeniedError: "choose a folder of your own, or ask its owner for the right to write",
        errors.OutOfSpaceError: "remove what is not needed any more, the trash bin included",
        errors.TLSError: "set SSL_CERT_FILE to the authority of this server",
        errors.DeadlineError: "the server is up and slow, or a firewall drops the packets; try again later",
        errors.ServerUnavailableError: "check the address; try again later, since training goes on from the cache",
        errors.ProtocolError: "use the WebDAV address: https://HOST/remote.php/dav/files/USER",
        errors.NotFoundError: "check the spelling, or list the folder above it",
        errors.LocationError: "check the spelling, or list the folder above it",
    }
    return next((advice for kind, advice in kinds.items() if isinstance(error, kind)), "try again; if it stays, ask")


def _server(store: WebDAVStore, answer: httpx.Response) -> Finding:
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


def _quota(answer: httpx.Response) -> Finding:
    found = {
        name: int(match[1])
        for name in ("available", "used")
        if (match := re.search(rf"quota-{name}-bytes[^>]*>(-?\d+)<".encode(), answer.content)) is not None
    }
    free = found.get("available", -1)
    used = f", {_size(found['used'])} used" if "used" in found else ""
    if free < 0:  # Nextcloud: -1 not computed, -2 unknown, -3 unlimited
        return Finding("good", "quota", f"the server tells no limit{used}")
    few = "remove what is not needed, or let keep_last be smaller" if free < _FEW_BYTES else ""
    return Finding("fair" if few else "good", "quota", f"{_size(free)} free{used}", few)


def _folder(store: Store) -> Finding:
    """What lies at the top: nothing is written, so a folder that is missing stays so."""
    files, folders = store.members("")
    told = f"{len(files) + len(folders)} names at its top"
    if files or folders:
        return Finding("good", "folder", told)
    return Finding("fair", "folder", told, "nothing can be read from it yet; check the spelling if that is not right")


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


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
