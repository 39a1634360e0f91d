"""The store for a location, with the credentials that belong to it."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ai4os_data.errors import LocationError, RemoteError
from ai4os_data.http import OUTAGE_S, Patience, checked_outage_s
from ai4os_data.locations import (
    DavLocation,
    FsspecLocation,
    Remote,
    RemoteLocation,
    configured_names,
    main_name,
    origin_of,
    webpages,
)
from ai4os_data.locations import parsing as locations
from ai4os_data.stores.base import Store
from ai4os_data.stores.mounted import open_path
from ai4os_data.stores.nextcloud import NextcloudStore, is_nextcloud
from ai4os_data.stores.webdav import WebDAVStore
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ai4os_data import telemetry

_LOCAL = ("/", "./", "../", "~")


def open_store(
    location: str | os.PathLike[str] | Store,
    remote: str | Remote | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    counters: telemetry.Counters | None = None,
    create: bool = False,
    outage_s: float | None = None,
    **options: Any,
) -> Store:
    """The store for a location.

    Args:
        location: a directory, the mount, ``rshare:path``, ``ai4os://rshare/path``, ``webdav(s)://…``, ``https://…``
            or any fsspec URL. A `Store` is taken as it is.
        remote: a remote's name, or a `Remote`; its credentials take precedence over those that are found.
        environ: where ``RCLONE_CONFIG_*`` is looked for; the process's environment by default.
        patience: deadlines and tries.
        counters: where requests and bytes are counted.
        create: whether there may be nothing at it yet, since it will be written to: the first file makes the folder.
            A ``/storage`` without a mounted storage is refused then.
        outage_s: how long reads wait for a server that is away, in seconds; 10 minutes by default, 0 for no longer than
            their tries. A `Store`, and a ``patience``, say it themselves.
        options: passed to the fsspec file system.

    Raises:
        LocationError: it cannot be understood, or there is nothing at it.
        RemoteError: its remote is not configured.
        ValueError: ``outage_s`` is no number of seconds.
    """
    if outage_s is not None:
        outage_s = checked_outage_s(outage_s)
    if isinstance(location, Store):
        return location if outage_s is None else location.with_patience(replace(location.patience, outage_s=outage_s))
    if outage_s is not None or patience is None:
        patience = replace(patience or Patience(), outage_s=OUTAGE_S if outage_s is None else outage_s)
    environ = os.environ if environ is None else environ
    shown = locations.shown(location)
    chosen = Remote.discover(remote, environ) if isinstance(remote, str) else remote

    def dav(remote: Remote, path: str, location: str = shown) -> Store:
        return open_dav(remote, path, location=location, patience=patience, counters=counters)

    if chosen is not None and os.fspath(location) in {"", "."}:
        return dav(chosen, "")
    parsed = locations.parse(location)
    if isinstance(parsed, RemoteLocation):
        return dav(chosen or Remote.discover(parsed.name, environ), parsed.path)
    if isinstance(parsed, DavLocation):
        parsed, chosen = _behind_page(parsed, os.fspath(location), chosen, environ)
        return dav(*_credentials_for(parsed, chosen, environ))
    if isinstance(parsed, FsspecLocation):
        return _open_url(parsed.url, environ, counters, patience, options)
    if chosen is not None and not os.path.isabs(parsed.path):
        return dav(chosen, parsed.path.strip("/"))
    opened = partial(open_path, parsed.path, chosen, environ=environ, open_dav=dav, counters=counters)
    return _hinting_at_remote(os.fspath(location), environ, partial(opened, create=create, patience=patience))


def _hinting_at_remote(path: str, environ: Mapping[str, str], opened: Callable[[], Store]) -> Store:
    """A directory's store; if the path looks like one of the storage without its remote, the right form is named."""
    meant = _remote_form(path, environ)
    if meant is None:
        return opened()
    try:
        store = opened()
    except LocationError as error:
        raise LocationError(f"{error}. For a path of the storage write {meant!r}") from error
    if store.is_local:
        tell_once(
            f"{path!r} is a directory of this machine, {os.path.abspath(path)}, which goes with the deployment. "
            f"Write {meant!r} for the storage; write './{path}' to mean this machine"
        )
    return store


def _remote_form(path: str, environ: Mapping[str, str]) -> str | None:
    """How a relative path is written as one of the storage; None if it says where it is, or no remote is configured.

    Of several remotes it is the one that the path begins with, as in ``rshare/datasets``; else the linked storage.
    """
    if path.startswith(_LOCAL) or path in {"", ".", ".."}:
        return None
    first, _, rest = os.path.normpath(path).partition("/")
    if first in configured_names(environ):
        return f"{first}:{rest}"
    name = main_name(environ)
    return None if name is None else f"{name}:{os.path.normpath(path)}"


def _open_url(
    url: str,
    environ: Mapping[str, str],
    counters: telemetry.Counters | None,
    patience: Patience | None,
    options: dict[str, Any],
) -> Store:
    from ai4os_data.stores.anyfsspec import FsspecStore, is_known

    name, _, path = url.partition("://")
    if name in configured_names(environ) and not is_known(name):
        raise LocationError(f"{name}:// is no kind of URL, but {name} is a remote: write '{name}:{path.strip('/')}'")
    return FsspecStore(url, counters=counters, patience=patience, **options)


def open_dav(
    remote: Remote,
    path: str,
    *,
    location: str | None = None,
    patience: Patience | None = None,
    counters: telemetry.Counters | None = None,
) -> Store:
    """The store for a path below a WebDAV remote."""
    kind = NextcloudStore if is_nextcloud(remote) else WebDAVStore
    return kind(remote, path, location=location, patience=patience, counters=counters)


def _behind_page(
    location: DavLocation, text: str, chosen: Remote | None, environ: Mapping[str, str]
) -> tuple[DavLocation, Remote | None]:
    """The files behind a page of Nextcloud, if they are public; any other address as it is.

    Raises:
        LocationError: it is a page of an account's files; the message has the address to give.
    """
    page = webpages.page_of(text)
    if page is None:
        return location, chosen
    origin = origin_of(location.root)
    candidates = [chosen] if chosen is not None else Remote.known(environ)
    remotes = [remote for remote in candidates if remote.origin == origin]
    if any(remote.covers(location.url) and len(remote.url) > len(page.server_url) for remote in remotes):
        return location, chosen
    if page.token is not None:
        share = locations.parse(page.share_url)
        assert isinstance(share, DavLocation)
        user = "anonymous" if location.password else None
        return share, Remote(share.root, user, location.password)
    account = next((remote for remote in remotes if remote.user is not None), None)
    if account is None:
        raise LocationError(page.advice(locations.shown(text)))
    is_root = page.files_url(account.user).startswith(f"{account.url}/")
    raise LocationError(page.advice(locations.shown(text), account.user, account.name if is_root else None))


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
    return chosen.at(location.root), location.path  # the root of the URL shows what kind of server it is


def _below(remote: Remote, location: DavLocation) -> str:
    root = unquote(urlsplit(remote.url).path).strip("/")
    whole = f"{unquote(urlsplit(location.root).path)}/{location.path}".strip("/")
    if not whole.startswith(root):
        raise LocationError(f"{location.url} is not below {remote.url}")
    return whole[len(root) :].strip("/")
