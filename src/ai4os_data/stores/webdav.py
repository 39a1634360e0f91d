"""A WebDAV server (RFC 4918). webdav4 sends the DAV verbs, our transport the bytes; listings are parsed here."""

from __future__ import annotations

import os
import ssl
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import webdav4.client

from ai4os_data import errors, telemetry, tls
from ai4os_data.answers import error_for_status, plain_etag, wrong_credentials
from ai4os_data.bodies import Content, MemoryBody, Source
from ai4os_data.processes import PerProcess
from ai4os_data.retries import RETRIED_STATUSES, Patience, retry_after_s
from ai4os_data.stores.base import (
    Entries,
    Entry,
    Fetched,
    Keys,
    MakeBody,
    Outcome,
    Store,
    checked,
    is_safe,
    memory_body,
)
from ai4os_data.stores.multistatus import NotMultistatusError, resources
from ai4os_data.transport import Request, Response, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ai4os_data.remotes import Remote

# Only what is needed: all properties of 2,000 files take 824 KB.
_PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><d:propfind xmlns:d="DAV:"><d:prop><d:resourcetype/><d:getcontentlength/>'
    b"<d:getetag/><d:getlastmodified/></d:prop></d:propfind>"
)
_LISTING_THREADS = 8
_LISTING_DEADLINE_S = 300.0
_HTML_ENDINGS = (".html", ".htm", ".xhtml", ".php")
_VERSION_TRIES = 3


class WebDAVStore(Store):
    """The files of one folder of a WebDAV server.

    Args:
        remote: the server and the credentials.
        path: the folder below the remote's URL, not percent-encoded.
        location: what messages call it.
        patience: deadlines and tries.
        counters: where requests and bytes are counted.
    """

    def __init__(
        self,
        remote: Remote,
        path: str = "",
        *,
        location: str | None = None,
        patience: Patience | None = None,
        counters: telemetry.Counters | None = None,
    ) -> None:
        path = path.strip("/")
        if path:
            checked(path)
        self.remote = remote
        self.path = path
        self.patience = patience or Patience()
        self.counters = counters or telemetry.Counters()
        self._base_path = unquote(urlsplit(remote.url).path).rstrip("/") + (f"/{path}" if path else "")
        self._base_url = remote.url + (f"/{quote(path)}" if path else "")
        self.location = location or self._base_url
        self.identity = f"webdav {remote.origin}{self._base_path} {remote.user or ''}"
        self.transport = Transport(remote, patience=self.patience, counters=self.counters)
        self._client: PerProcess[_Client] = PerProcess(self._new_client)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what it was made from."""
        return {
            "remote": self.remote,
            "path": self.path,
            "location": self.location,
            "patience": self.patience,
            "counters": self.counters,
            "held_since": self.transport.refusals.held_since,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it anew; credentials refused since the original was made stay refused."""
        held_since = state.pop("held_since")
        self.__init__(**state)  # type: ignore[misc]  # exactly the arguments that were pickled
        self.transport.refusals.held_since = held_since

    def folder_etag(self) -> str | None:
        """The ETag of the folder itself, by a PROPFIND of Depth 0."""
        xml = self._dav(
            "PROPFIND", self._base_url + "/", {"Depth": "0", "Content-Type": "application/xml"}, _PROPFIND
        ).content
        return next((plain_etag(resource.etag) for resource in resources(xml)), None)

    # --- reading

    def list(self) -> list[Entry]:
        """Every file below the folder, by Depth infinity where the server allows it, else folder by folder."""
        try:
            return sorted(self._list_deep())
        except errors.NotFoundError as error:
            raise self.no_such_folder() from error

    def stat(self, key: str) -> Entry:
        """One file, by a PROPFIND of Depth 0."""
        entries, _ = self._propfind(checked(key), "0", slash=False)
        if not entries:
            message = f"{self.location}: {key!r} is a folder, not a file"
            raise errors.NotFoundError(message)
        return entries[0]._replace(key=key)

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files by parallel GETs."""
        make = body or memory_body
        wanted = (
            Request(self.url(entry.key), make(entry), expected_bytes=entry.size_bytes, tag=entry) for entry in entries
        )
        for request, outcome in self.transport.fetch(wanted):
            entry = request.tag
            assert isinstance(entry, Entry)
            yield entry, self._settled(entry, request, outcome)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file, by a ranged GET whose answer is checked."""
        stop = min(stop, entry.size_bytes)
        if start >= stop:
            return b""
        body = MemoryBody()
        response = self.transport.send(
            Request(self.url(entry.key), body, start=start, stop=stop, expected_bytes=stop - start)
        )
        served = _served(
            entry, response, response.total_bytes if response.total_bytes is not None else entry.size_bytes
        )
        if not entry.is_same_version(served):
            raise errors.ChangedError(_changed(self.location, entry, served))
        data = body.getvalue()
        if len(data) != stop - start:
            message = f"{self.location}: {entry.key!r}: {len(data):,} bytes came for the range {start}-{stop}"
            raise errors.IntegrityError(message)
        return data

    def url(self, key: str) -> str:
        """Where a key is."""
        return f"{self._base_url}/{quote(checked(key))}"

    def _settled(
        self, entry: Entry, request: Request, outcome: Response | errors.StorageError
    ) -> Fetched | errors.StorageError:
        """The file, if what came is one whole version of it, the listed one or a newer one."""
        for _ in range(_VERSION_TRIES):
            if isinstance(outcome, errors.NotFoundError):
                return errors.NotFoundError(
                    f"{self.location}: {entry.key!r} was listed, but is not there any more (404)"
                )
            if isinstance(outcome, errors.StorageError):
                return outcome
            served = _served(entry, outcome, outcome.received_bytes)
            html = outcome.headers.get("content-type", "").startswith("text/html") and not entry.key.lower().endswith(
                _HTML_ENDINGS
            )
            if entry.is_same_version(served) and not (html and not (served.etag and entry.etag)):
                return Fetched(entry, request.body)
            if html:
                return errors.ProtocolError(
                    f"{self.location}: {entry.key!r}: the server answers with an HTML page instead of the file. Is "
                    f"{self.remote.origin} "
                    f"the address of the storage itself, not of a login page before it?"
                )
            try:
                now = self.stat(entry.key)
            except errors.StorageError as error:
                return error
            if now.is_same_version(served):
                return Fetched(now, request.body)
            try:  # a short or mixed answer: neither the listed version nor the present one
                request.body.restart()
                outcome = self.transport.send(request)
            except errors.StorageError as error:
                outcome = error
        return errors.IntegrityError(
            f"{self.location}: {entry.key!r}: the server lists {entry.size_bytes:,} bytes, and answers with "
            f"{request.body.length:,} time and again"
        )

    # --- writing

    def write(self, key: str, content: Content) -> Entry:
        """PUT a whole file, and make the folders above it where they are missing."""
        checked(key)
        request = Request(self.url(key), method="PUT", source=Source(content))
        try:
            self.transport.send(request)
        except errors.NotFoundError:  # a missing parent: 404 on Nextcloud, 409 elsewhere
            self.make_folder(key.rpartition("/")[0])
            self.transport.send(Request(self.url(key), method="PUT", source=Source(content)))
        return self.stat(key)

    def make_folder(self, key: str) -> None:
        """Make a folder below the root, and those above it."""
        if self.path:
            self._make_collections(self.remote.url, self.path)
        self._make_collections(self._base_url, key)

    def _make_collections(self, base_url: str, path: str) -> None:
        url = base_url
        for part in path.split("/") if path else []:
            url = f"{url}/{quote(part)}"
            try:
                self._dav("MKCOL", url + "/")
            except errors.ServerError:
                # It is there already (405), or another request makes it just now (500 on wsgidav); if not, this raises.
                self._dav("PROPFIND", url + "/", {"Depth": "0", "Content-Type": "application/xml"}, _PROPFIND)

    def delete(self, key: str) -> None:
        """Remove a file, and never a folder: a DELETE would take all that is in it."""
        self.stat(key)
        with suppress(errors.NotFoundError):  # a first try whose answer was lost may have removed it
            self._dav("DELETE", self.url(key))

    # --- listings

    def _list_deep(self) -> Entries:
        try:
            entries, folders = self._propfind("", "infinity")
        except (errors.PermissionDeniedError, errors.ProtocolError):
            try:
                return self._list_by_folder([""])
            except errors.ProtocolError:
                # This tells where the location is a file: Apache answers 400 to a slash after one.
                self._propfind("", "0", slash=False)
                raise
        # Some servers (stock sabre) clamp infinity to 1 without a word: then no folder shows anything inside.
        inhabited = {key.rpartition("/")[0] for key in (*folders, *(entry.key for entry in entries))}
        empty = [folder for folder in folders if folder not in inhabited]
        if folders and len(empty) == len(folders):
            return entries + self._list_by_folder(empty)
        return entries

    def _list_by_folder(self, folders: Sequence[str]) -> Entries:
        """List folders and all below them, by a PROPFIND of Depth 1 each, some at a time."""
        entries: Entries = []
        seen = set(folders)
        with ThreadPoolExecutor(_LISTING_THREADS, thread_name_prefix="ai4os-data-listing") as pool:
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
            return self._propfind(folder, "1")
        except errors.NotFoundError:
            if not folder:
                raise
            return [], []

    def no_such_folder(self) -> errors.LocationError:
        """What to say where the server knows no such folder."""
        return errors.LocationError(
            f"{self.location}: there is no such folder on the server; check the spelling, or list its parent"
        )

    def _propfind(self, key: str, depth: str, *, slash: bool = True) -> tuple[Entries, Keys]:
        """The files and the folders (without the asked one) in the answer to a PROPFIND."""
        url = self._base_url + (f"/{quote(key)}" if key else "") + ("/" if slash else "")
        for attempt in range(1, self.patience.tries + 1):
            response = self._dav("PROPFIND", url, {"Depth": depth, "Content-Type": "application/xml"}, _PROPFIND)
            try:
                return self._parsed(response.content, key)
            except NotMultistatusError as error:
                if attempt == self.patience.tries:
                    message = f"{self.location}: the server's listing is not XML ({error}); is this a WebDAV address?"
                    raise errors.ProtocolError(message) from error
                if attempt == 1 and response.status_code != 207:
                    message = f"{self.location}: not a WebDAV server (it answers PROPFIND with {response.status_code})"
                    raise errors.ProtocolError(message) from error
                time.sleep(self.patience.pause_s(attempt))
        raise AssertionError  # the loop returns or raises

    def _parsed(self, xml: bytes, asked: str) -> tuple[Entries, Keys]:
        files: Entries = []
        folders: Keys = []
        base = self._base_path
        for href, is_known, is_folder, size, etag, modified in resources(xml):
            path = "/" + unquote(self._path_on_server(href)).strip("/")
            if path != base and not path.startswith(base + "/"):
                message = (
                    f"{self.location}: the server lists {href!r}, which is not below {base!r}; check the remote's url"
                )
                raise errors.ProtocolError(message)
            key = path[len(base) + 1 :]
            if key != "" and not is_safe(key):
                message = (
                    f"{self.location}: the server lists {href!r}, a name that leaves its folder; nothing of "
                    "this listing is used"
                )
                raise errors.ProtocolError(message)
            if is_folder:
                if key != asked.strip("/"):
                    folders.append(key)
            elif is_known and key == "":
                raise errors.LocationError(f"{self.location} is a file; give the folder that it lies in")
            elif is_known:
                files.append(Entry(key, self._size(size or "0", href), plain_etag(etag), modified))
        return files, folders

    def _size(self, text: str, href: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise errors.ProtocolError(f"{self.location}: the server lists {href!r} with {text!r} as its size")
        return int(text)

    def _path_on_server(self, href: str) -> str:
        """The path in an address of a listing, which may name our server, and no other."""
        before, separator, rest = href.partition("//")
        if not separator or "/" in before:
            return href
        authority, _, path = rest.partition("/")
        ours = _host_of(urlsplit(self.remote.url).netloc)
        if before.lower() not in {"", "http:", "https:"} or _host_of(authority) != ours:
            message = (
                f"{self.location}: the server lists {href!r}, which is not on {self.remote.origin}; nothing of "
                "this listing is used"
            )
            raise errors.ProtocolError(message)
        return path

    def _dav(
        self, method: str, url: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        """Send a DAV verb through webdav4, with our own deadlines, tries and errors."""
        what = f"{method} {url}"
        deadline = self.patience.deadline()
        failures = 0
        while True:
            self.transport.refuse_if_refused()
            row = self.counters.row
            row[telemetry.REQUESTS_PROPFIND if method == "PROPFIND" else telemetry.REQUESTS_OTHER] += 1
            asked_s = None
            try:
                client = self._client.get()
                response: httpx.Response = client.http.request(
                    method, client.join_url(url), headers=headers, content=content
                )
            except httpx.TransportError as error:
                failure = self._transport_failure(what, error)
                if isinstance(failure, errors.TLSError):
                    raise failure from error
            except UnicodeError as error:
                raise errors.LocationError(f"{what}: this name cannot be sent") from error
            else:
                row[telemetry.BYTES_FROM_NETWORK] += len(response.content)
                if response.status_code < 300:
                    return response
                if response.status_code == 401:
                    self.transport.refusals.record()
                    raise errors.AuthenticationError(wrong_credentials(self.remote))
                failure = _error_of(response, what, self.remote)
                if response.status_code not in RETRIED_STATUSES:
                    raise failure
                asked_s = retry_after_s(response.headers.get("retry-after"))
            failures += 1
            pause_s = self.patience.pause_s(failures, asked_s)
            if failures >= self.patience.tries or time.monotonic() + pause_s > deadline:
                raise failure
            row[telemetry.RETRIES] += 1
            row[telemetry.WAITED_NS] += int(pause_s * 1e9)
            time.sleep(pause_s)

    def _transport_failure(self, what: str, error: httpx.TransportError) -> errors.StorageError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return errors.TLSError(
                    f"{what}: no trusted connection to {self.remote.origin} ({cause.reason or cause}). If it uses an "
                    "authority of your "
                    f"own, pass Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
                )
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.TimeoutException):
            return errors.DeadlineError(f"{what}: no answer in time ({type(error).__name__})")
        return errors.ServerUnavailableError(
            f"{what}: {error}. Is {self.remote.origin} up, and reachable from this machine?"
        )

    def _new_client(self) -> _Client:
        authentication = None
        headers = {"Accept-Encoding": "identity", "User-Agent": "ai4os-data"}
        if self.remote.token:
            headers["Authorization"] = f"Bearer {self.remote.token}"
        elif self.remote.user is not None:
            authentication = httpx.BasicAuth(self.remote.user.encode(), (self.remote.password or "").encode())
        client = _Client(
            self.remote.url,
            auth=authentication,
            retry=False,
            headers=headers,
            verify=tls.context(self.remote.ca_file),
            timeout=httpx.Timeout(
                _LISTING_DEADLINE_S, connect=self.patience.connect_s, read=max(self.patience.stall_s, 1)
            ),
            limits=httpx.Limits(max_keepalive_connections=None),
        )
        weakref.finalize(client, _close, client.http, os.getpid())
        return client


class _Client(webdav4.client.Client):  # type: ignore[misc]  # webdav4 has no types
    """webdav4's client for URLs that are encoded already: its own joining loses ``%``, ``#`` and the last slash."""

    def join_url(self, path: str, *_: object) -> httpx.URL:
        parts = urlsplit(path)
        url: httpx.URL = self.base_url.copy_with(raw_path=parts.path.encode())
        return url


def _host_of(authority: str) -> str | None:
    """The host in the authority of a URL, without port and in lower case."""
    try:
        return urlsplit(f"//{authority}").hostname
    except ValueError:  # brackets that are no IPv6 address
        return None


def _close(http: httpx.Client, owner: int) -> None:
    """Close the connections of a client that is gone; in a child they are its parent's."""
    if os.getpid() == owner:
        http.close()


def _leads_to_folder(response: httpx.Response) -> bool:
    """Whether a redirect says no more than that the name of a folder ends with a slash, as Apache has it."""
    place = urlsplit(response.headers.get("location", ""))
    asked = response.request.url.raw_path.decode()
    return (
        response.is_redirect
        and place.path == f"{asked}/"
        and _host_of(place.netloc) in {None, response.request.url.host}
    )


def _error_of(response: httpx.Response, what: str, remote: Remote) -> errors.StorageError:
    """The error that an answer stands for."""
    if _leads_to_folder(response):
        return errors.NotFoundError(f"{what}: this is a folder, not a file ({response.status_code})")
    return error_for_status(response.status_code, what, dict(response.headers), remote)


def _served(entry: Entry, response: Response, size_bytes: int) -> Entry:
    return Entry(entry.key, size_bytes, response.etag, response.headers.get("last-modified"))


def _changed(location: str, listed: Entry, served: Entry) -> str:
    what = (
        f"shrank from {listed.size_bytes:,} to {served.size_bytes:,} bytes"
        if served.size_bytes < listed.size_bytes
        else "changed"
    )
    return (
        f"{location}: {listed.key!r} {what} on the store while it was read; open the dataset again, or call refresh()"
    )
