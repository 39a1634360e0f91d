"""The server of a storage: who answers, how fast, what it can, how much room it has, and what is in its trash bin."""

from __future__ import annotations

import re
import statistics
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint import MANIFEST, CheckpointName
from ai4os_data.cli.advice import about_missing_root, advice_for
from ai4os_data.cli.finding import Finding
from ai4os_data.cli.local_disk import FEW_BYTES
from ai4os_data.http import MemoryBody, Request
from ai4os_data.machine import shown_size
from ai4os_data.stores import (
    NextcloudStore,
    NextcloudUrls,
    NotMultistatusError,
    TrashBin,
    WebDAVStore,
    resources,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ai4os_data.stores import DavAnswer

_ROUND_TRIPS = 5
_QUOTA = (
    b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:quota-available-bytes/><d:quota-used-bytes/>'
    b"</d:prop></d:propfind>"
)


def server_findings(store: WebDAVStore, deadline_s: float, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is found about a server, one after the other; the first one alone if it does not answer as it should."""
    late = f"{store.location}: no answer within the deadline"
    try:
        answer = within(deadline_s, lambda: _ask(store), late)
        seconds = within(deadline_s, lambda: [_timed_ask(store) for _ in range(_ROUND_TRIPS)], late)
    except errors.StorageError as error:
        yield _unanswered(error, store, environ)
        return
    yield Finding("good", "credentials", "the server accepts them")
    yield _server(store, answer)
    trip_ms = statistics.median(seconds) * 1000
    slow = "each small file costs one: let StorageDataLoader look ahead, and train.warm()" if trip_ms > 200 else ""
    yield Finding.fine("round trip", f"{trip_ms:.0f} ms (median of {_ROUND_TRIPS})", slow)
    yield _quota(store, answer)
    if isinstance(store, NextcloudStore) and (trash := _trash_of(store)) is not None:
        yield trash


def _ask(store: WebDAVStore) -> DavAnswer:
    """One small question, whose answer has to be WebDAV's; if the folder is missing, the remote itself answers."""
    headers = {"Depth": "0", "Content-Type": "application/xml"}
    try:
        answer = store.dav.send("PROPFIND", f"{store.address.base_url}/", headers, _QUOTA)
    except (errors.NotFoundError, errors.ProtocolError):
        # It is missing, or a file: a slash after one is a bad request to some servers.
        if not store.address.path:
            raise
        answer = store.dav.send("PROPFIND", f"{store.remote.url}/", headers, _QUOTA)
    try:
        resources(answer.body)
    except NotMultistatusError as error:
        raise errors.ProtocolError(
            f"{store.remote.url} answers with {answer.headers.get('content-type', 'something')}, not as WebDAV does "
            f"({answer.status}; {error}): a page to log in, or another address?"
        ) from error
    return answer


def _timed_ask(store: WebDAVStore) -> float:
    begun = time.perf_counter()
    _ask(store)
    return time.perf_counter() - begun


def _unanswered(error: errors.StorageError, store: WebDAVStore, environ: Mapping[str, str]) -> Finding:
    if isinstance(error, errors.NotFoundError):
        return Finding("bad", "server", f"{store.remote.url}: there is nothing (404)", about_missing_root(store.remote))
    is_known = isinstance(error, errors.AuthenticationError | errors.PermissionDeniedError)
    return Finding("bad", "credentials" if is_known else "server", str(error), advice_for(error, store, environ))


def _server(store: WebDAVStore, answer: DavAnswer) -> Finding:
    if not isinstance(store, NextcloudStore):
        name = answer.headers.get("server", "a WebDAV server that does not say its name")
        told = f"{name}: files one by one, many at a time; what is written is verified by reading it"
        return Finding("good", "server", told)
    version = _nextcloud_version(store)
    if version is None:
        return Finding("fair", "server", "Nextcloud of an unknown version", "nothing to do: what it can is found out")
    has_archives = int(version.partition(".")[0]) >= 31
    abilities = "archives of many files, uploads in chunks" if has_archives else "uploads in chunks, no archives"
    old = "" if has_archives else "small files are read one by one; from Nextcloud 31 on they come as archives"
    return Finding.fine("server", f"Nextcloud {version}: {abilities}", old)


def _nextcloud_version(store: NextcloudStore) -> str | None:
    body = MemoryBody()
    with suppress(errors.StorageError):
        store.transport.send(Request(f"{store.remote.url.partition('/remote.php')[0]}/status.php", body))
    match = re.search(rb'"versionstring":"(\d+[\d.]*)', body.getvalue())
    return None if match is None else match[1].decode()


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
    few = "remove what is not needed, or let keep_last be smaller" if free < FEW_BYTES else ""
    return Finding.fine("quota", f"{shown_size(free)} free{used}{stale}", few)


def _trash_of(store: NextcloudStore) -> Finding | None:
    """The removed checkpoints in it, by their names; None if there is no trash bin, or it cannot be read."""
    urls = NextcloudUrls.of(store.remote)
    if urls is None:
        return None
    try:
        entries = TrashBin(store.dav, urls).entries()
    except errors.StorageError:
        return None
    ours = [entry for entry in entries if _is_of_checkpoint(entry.location)]
    if not ours:
        return Finding("good", "trash bin", "no checkpoint lies in it")
    size = shown_size(sum(entry.size_bytes for entry in ours))
    return Finding(
        "fair",
        "trash bin",
        f"{len(ours)} entries of removed checkpoints, {size}",
        "they do not count against the quota, and fill the server's disk until it expires them; to remove them now, "
        "delete them on the server's web page, under 'Deleted files'",
    )


def _is_of_checkpoint(location: str) -> bool:
    """Whether a checkpoint was at a path, or its manifest, or another file of it."""
    parts = location.split("/")
    if parts[-1] == MANIFEST or parts[-1].startswith("state-"):
        parts.pop()
    return CheckpointName.parse("/".join(parts[-2:])) is not None
