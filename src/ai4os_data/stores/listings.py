"""What lies below a folder of a WebDAV server: PROPFIND, and which of its answers may be believed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from ai4os_data import errors
from ai4os_data.answers import host_of, plain_etag
from ai4os_data.stores.base import Entries, Entry, Keys, is_safe
from ai4os_data.stores.multistatus import NotMultistatusError, resources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.stores.webdav import WebDAVStore

# Only what is needed: all properties of 2,000 files take 824 KB.
PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><d:propfind xmlns:d="DAV:"><d:prop><d:resourcetype/><d:getcontentlength/>'
    b"<d:getetag/><d:getlastmodified/></d:prop></d:propfind>"
)
_THREADS = 8


class Listings:
    """The listings of one store.

    Args:
        store: sends the requests, and knows where its folder is.
    """

    def __init__(self, store: WebDAVStore) -> None:
        self._store = store

    @property
    def _where(self) -> str:
        return self._store.location

    def below(self, top: str = "") -> Entries:
        """Every file below a folder, in no order.

        Raises:
            NotFoundError: there is no such folder.
        """
        try:
            entries, folders = self.of(top, "infinity")
        except (errors.PermissionDeniedError, errors.ProtocolError):
            try:
                files, folders = self.of(top, "1")
                return files + self._by_folder(folders, {top, *folders})
            except errors.ProtocolError:
                # This tells where the location is a file: Apache answers 400 to a slash after one.
                self.of(top, "0", slash=False)
                raise
        # Some servers (stock sabre) clamp infinity to 1 without a word: then no folder shows anything inside.
        inhabited = {key.rpartition("/")[0] for key in (*folders, *(entry.key for entry in entries))}
        empty = [folder for folder in folders if folder not in inhabited]
        if folders and len(empty) == len(folders):
            return entries + self._by_folder(empty, {top, *folders})
        return entries

    def _by_folder(self, folders: Sequence[str], seen: set[str]) -> Entries:
        """List folders and all below them, by a PROPFIND of Depth 1 each, some at a time."""
        entries: Entries = []
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="ai4os-data-listing") as pool:
            while folders:
                found: Keys = []
                for files, below in pool.map(self._members, folders):
                    entries += files
                    found += [folder for folder in below if folder not in seen]
                    seen.update(below)
                folders = found
        return entries

    def _members(self, folder: str) -> tuple[Entries, Keys]:
        """What lies directly in a folder: nothing if it has gone since its parent was listed."""
        try:
            return self.of(folder, "1")
        except errors.NotFoundError:
            return [], []

    def of(self, key: str, depth: str, *, slash: bool = True) -> tuple[Entries, Keys]:
        """The files and the folders (without the asked one) in the answer to a PROPFIND."""
        url = self._store.base_url + (f"/{quote(key)}" if key else "") + ("/" if slash else "")
        for attempt in range(1, self._store.patience.tries + 1):
            response = self._store.propfind(url, depth)
            try:
                return self._parsed(response.content, key)
            except NotMultistatusError as error:
                if attempt == self._store.patience.tries:
                    message = f"{self._where}: the server's listing cannot be used ({error}); is this a WebDAV address?"
                    raise errors.ProtocolError(message) from error
                if attempt == 1 and response.status_code != 207:
                    message = f"{self._where}: not a WebDAV server (it answers PROPFIND with {response.status_code})"
                    raise errors.ProtocolError(message) from error
                time.sleep(self._store.patience.pause_s(attempt))
        raise AssertionError  # the loop returns or raises

    def _parsed(self, xml: bytes, asked: str) -> tuple[Entries, Keys]:
        files: Entries = []
        folders: Keys = []
        base = self._store.base_path
        for href, is_known, is_folder, size, etag, modified in resources(xml):
            path = "/" + unquote(self._path_on_server(href)).strip("/")
            if path != base and not path.startswith(base + "/"):
                message = (
                    f"{self._where}: the server lists {href!r}, which is not below {base!r}; check the remote's url"
                )
                raise errors.ProtocolError(message)
            key = path[len(base) + 1 :]
            if key != "" and not is_safe(key):
                message = (
                    f"{self._where}: the server lists {href!r}, a name that leaves its folder; nothing of "
                    "this listing is used"
                )
                raise errors.ProtocolError(message)
            if is_folder:
                if key != asked.strip("/"):
                    folders.append(key)
            elif is_known and key == "":
                raise errors.LocationError(f"{self._where} is a file; give the folder that it lies in")
            elif is_known:
                files.append(Entry(key, self._size(size or "0", href), plain_etag(etag), modified))
        return files, folders

    def _size(self, text: str, href: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise errors.ProtocolError(f"{self._where}: the server lists {href!r} with {text!r} as its size")
        return int(text)

    def _path_on_server(self, href: str) -> str:
        """The path in an address of a listing, which may name our server, and no other."""
        before, separator, rest = href.partition("//")
        if not separator or "/" in before:
            return href
        authority, _, path = rest.partition("/")
        ours = host_of(urlsplit(self._store.remote.url).netloc)
        if before.lower() not in {"", "http:", "https:"} or host_of(authority) != ours:
            message = (
                f"{self._where}: the server lists {href!r}, which is not on {self._store.remote.origin}; nothing of "
                "this listing is used"
            )
            raise errors.ProtocolError(message)
        return path
