"""Stores: the same few verbs over every place where data lies. `open_store` finds the one for a location."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ai4os_data import locations, telemetry
from ai4os_data.bodies import Content
from ai4os_data.errors import LocationError, RemoteError
from ai4os_data.locations import DavLocation, FsspecLocation, RemoteLocation
from ai4os_data.remotes import Remote
from ai4os_data.stores.base import Entry, Fetched, Level, Listing, Store, Unreadable
from ai4os_data.stores.directory import DirectoryStore
from ai4os_data.stores.memory import MemoryStore
from ai4os_data.stores.mounted import open_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.retries import Patience

__all__ = [
    "Content",
    "DirectoryStore",
    "Entry",
    "Fetched",
    "Level",
    "Listing",
    "MemoryStore",
    "Store",
    "Unreadable",
    "open_store",
]


def open_store(
    location: str | os.PathLike[str] | Store,
    remote: str | Remote | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    counters: telemetry.Counters | None = None,
    create: bool = False,
    **options: Any,
) -> Store:
    """The store for a location.

    Args:
        location: a directory, the mount, ``rshare:path``, ``ai4os://rshare/path``, ``webdav(s)://…``, ``https://…``
            or any fsspec URL. A `Store` is taken as it is.
        remote: a remote's name, or a `Remote`; its credentials go before those that are found.
        environ: where ``RCLONE_CONFIG_*`` is looked for; the process's environment by default.
        patience: deadlines and tries.
        counters: where requests and bytes are counted.
        create: whether there may be nothing at it yet, since it is to be written to: the first file makes the folder.
            A ``/storage`` where no storage is mounted is refused then.
        options: passed to the fsspec file system.

    Raises:
        LocationError: it cannot be understood, or there is nothing at it.
        RemoteError: its remote is not configured.
    """
    if isinstance(location, Store):
        return location
    environ = os.environ if environ is None else environ
    shown = locations.shown(location)
    chosen = Remote.discover(remote, environ) if isinstance(remote, str) else remote

    def dav(remote: Remote, path: str) -> Store:
        return open_dav(remote, path, location=shown, patience=patience, counters=counters)

    if chosen is not None and os.fspath(location) in {"", "."}:
        return dav(chosen, "")
    parsed = locations.parse(location)
    if isinstance(parsed, RemoteLocation):
        return dav(chosen or Remote.discover(parsed.name, environ), parsed.path)
    if isinstance(parsed, DavLocation):
        return dav(*_credentials_for(parsed, chosen, environ))
    if isinstance(parsed, FsspecLocation):
        from ai4os_data.stores.anyfsspec import FsspecStore

        return FsspecStore(parsed.url, counters=counters, **options)
    if chosen is not None and not os.path.isabs(parsed.path):
        return dav(chosen, parsed.path.strip("/"))
    return open_path(parsed.path, chosen, environ=environ, open_dav=dav, counters=counters, create=create)


def open_dav(
    remote: Remote,
    path: str,
    *,
    location: str | None = None,
    patience: Patience | None = None,
    counters: telemetry.Counters | None = None,
) -> Store:
    """The store for a path below a WebDAV remote."""
    from ai4os_data.stores.nextcloud import NextcloudStore, is_nextcloud
    from ai4os_data.stores.webdav import WebDAVStore

    kind = NextcloudStore if is_nextcloud(remote) else WebDAVStore
    return kind(remote, path, location=location, patience=patience, counters=counters)


def _credentials_for(location: DavLocation, chosen: Remote | None, environ: Mapping[str, str]) -> tuple[Remote, str]:
    """The remote for a URL, and the path below it: credentials given, in the URL, or of a remote that covers it."""
    if chosen is None and location.user is not None:
        chosen = Remote(location.root, location.user, location.password)
    if chosen is None:
        try:
            chosen = Remote.matching(location.url, environ)
        except RemoteError:
            chosen = None
    if chosen is None:
        return Remote(location.root), location.path
    if chosen.covers(location.url) and not chosen.covers(location.root):
        return chosen, _below(chosen, location)
    return chosen.at(location.root), location.path  # the root tells what kind of server it is


def _below(remote: Remote, location: DavLocation) -> str:
    root = unquote(urlsplit(remote.url).path).strip("/")
    whole = f"{unquote(urlsplit(location.root).path)}/{location.path}".strip("/")
    if not whole.startswith(root):
        message = f"{location.url} is not below {remote.url}"
        raise LocationError(message)
    return whole[len(root) :].strip("/")
