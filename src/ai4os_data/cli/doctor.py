"""The doctor: whether storage is linked, mounted and fresh, who answers there and how fast, and what to do about it.

It is gentle: some twenty small requests, and one probe of 1 MiB that is removed again, with the folders that it took.
Each look has a deadline.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cli.advice import advice_for
from ai4os_data.cli.finding import Finding
from ai4os_data.cli.folder import folder_of
from ai4os_data.cli.local_disk import cache_of, spool_of
from ai4os_data.cli.mount import fresh, linked, mounted
from ai4os_data.cli.output import say
from ai4os_data.cli.probe import bandwidth_of
from ai4os_data.cli.server import server_findings
from ai4os_data.http import Patience
from ai4os_data.locations import main_name
from ai4os_data.machine import mounts, shown_size
from ai4os_data.stores import STORAGE, Store, WebDAVStore, open_store, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What is looked at; the names are those of the command line, and the last two are for the tests."""

    location: str | None = None
    deadline_s: float = 20.0
    writes: bool = True
    storage: str = STORAGE
    table: Path = mounts.MOUNT_TABLE


def run(options: Options) -> int:
    """Look at everything; gives the exit code, which is 1 if something does not work."""
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
    """The findings, one after the other."""
    yield cache_of(environ)
    yield spool_of(environ)
    mount = mounts.mount_of(options.storage, options.table)
    location = options.location or linked(mount, environ)
    yield mounted(options.storage, mount, options.deadline_s, has_remote=main_name(environ) is not None)
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
    is_dav = isinstance(store, WebDAVStore)
    account = f" at {store.remote.origin}, as {store.remote.user or 'nobody'}" if isinstance(store, WebDAVStore) else ""
    yield Finding("good", "linked", f"{store.location}{account}")
    yield from _storage(store, options, environ)
    if is_dav and options.location is None and mount is not None and mount.is_rclone:
        yield fresh(options.storage, store, options.deadline_s)


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


def _storage(store: Store, options: Options, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The findings about the server, the folder and the transfer; if the server does not answer, there are no more."""
    is_dav = isinstance(store, WebDAVStore)
    if isinstance(store, WebDAVStore):
        for found in server_findings(store, options.deadline_s, environ):
            yield found
            if found.state == "bad":
                return
    elif os.path.isdir(path := getattr(store, "root", "")):
        yield Finding("good", "space there", f"{shown_size(shutil.disk_usage(path).free)} free")
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("folder", lambda: folder_of(store, writes=options.writes)),
        ("write, read", lambda: bandwidth_of(store)),
    ]
    for what, look in looks if options.writes else looks[:1]:
        try:
            # Not in a thread if requests have deadlines of their own: Ctrl-C has to reach what removes the probe.
            finding = look() if is_dav else within(options.deadline_s * 2, look, _late(store.location))
        except (errors.StorageError, OSError) as error:
            yield Finding("bad", what, str(error), advice_for(error, store, environ))
            if isinstance(error, errors.LocationError):  # a file, in which no probe can lie
                return
        else:
            yield finding


def _late(what: str) -> str:
    return f"{what}: no answer within the deadline"
