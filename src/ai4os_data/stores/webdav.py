"""A WebDAV server (RFC 4918). webdav4 sends the DAV verbs, our transport the bytes; listings are parsed here."""

from __future__ import annotations

import os
import socket
import ssl
import time
import weakref
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx
import webdav4.client
from typing_extensions import Self

from ai4os_data import errors, telemetry
from ai4os_data.http import (
    FLAPPING,
    LOCKED_TRIES,
    LONGEST_LOCK_PAUSE_S,
    LOOK_AT_DOUBT_S,
    LOOK_S,
    NO_ANSWER,
    Content,
    MemoryBody,
    Patience,
    Request,
    Response,
    Source,
    Transport,
    Wait,
    compressed,
    error_for_status,
    host_of,
    plain_etag,
    proxies,
    retry_after_s,
    shortened,
    status_meant,
    statuses,
    tls,
    wrong_credentials,
)
from ai4os_data.machine import descriptors
from ai4os_data.stores.base import (
    Entries,
    Entry,
    Fetched,
    Keys,
    Listing,
    MakeBody,
    OnBytes,
    Outcome,
    Store,
    checked,
    confirm,
    memory_body,
    read_back,
    received,
)
from ai4os_data.stores.forms import forms, quoted, same_prefix, shown, unquoted
from ai4os_data.stores.httpx_logs import kept_quiet
from ai4os_data.stores.listings import PROPFIND, Listings
from ai4os_data.stores.multistatus import NotMultistatusError, RefusedError, Resources, resources
from ai4os_data.stores.names import why_refused
from ai4os_data.stores.ranges import read_ranges
from ai4os_data.telemetry import log, tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from io import FileIO
    from pathlib import Path

    from ai4os_data.locations import Remote
    from ai4os_data.stores.levels import Level

T = TypeVar("T")
Span = tuple[float, float]
"""When something began and ended, in seconds of the epoch."""

_LISTING_DEADLINE_S = 300.0
_LISTING_TRIES = 3  # of an answer that came, and is of no use
_ERROR_PAUSE_S = 3.0  # between two questions to a server that says under the status of a success that it is away
_INFINITY_SILENCE_S = 30.0  # then folder by folder
_NOT_OF_A_NAME = (
    errors.AuthenticationError,
    errors.DeadlineError,
    errors.LockedError,
    errors.OutOfSpaceError,
    errors.ServerUnavailableError,
    errors.ThrottledError,
    errors.LocationError,
)
_READING = frozenset({"PROPFIND", "DELETE"})
_HTML_ENDINGS = (".html", ".htm", ".xhtml", ".php")
_VERSION_TRIES = 3
# Failures of a connection that do not pass by themselves.
_LASTING = (errors.OpenFilesError, errors.PermissionDeniedError, errors.ProtocolError)


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
        self.patience = patience or Patience()
        self.counters = counters or telemetry.Counters()
        self.copy_of: Self | None = None  # the store that this one is a copy of
        self.place_at(path)
        self.location = location or self.base_url
        self._folders: set[str] = set()  # those that are known to be there
        self.transport = Transport(remote, patience=self.patience, counters=self.counters)

    def place_at(self, path: str) -> None:
        """Be the store of this folder below the remote's URL."""
        self.path = path
        self.base_path = unquoted(urlsplit(self.remote.url).path).rstrip("/") + (f"/{path}" if path else "")
        self.base_url = self.remote.url + (f"/{quoted(path)}" if path else "")
        self.identity = f"webdav {self.remote.origin}{self.base_path} {self.remote.user or ''}"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what it was made from."""
        return {
            "remote": self.remote,
            "path": self.path,
            "location": self.location,
            "patience": self.patience,
            "counters": self.counters,
            "credentials": self.transport.credentials,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it anew; credentials refused since the original was made stay refused."""
        arguments = {name: value for name, value in state.items() if name != "credentials"}
        self.__init__(**arguments)  # type: ignore[misc]  # exactly the arguments that were pickled
        self.transport.credentials = state["credentials"]

    def close(self) -> None:
        """Let go of this process's connections."""
        self.transport.close()

    def with_patience(self, patience: Patience) -> Self:
        """The same folder, read with another patience for a server that is away, over the same connections."""
        store = super().with_patience(patience)
        if store is not self:
            store.copy_of, store.transport = self, self.transport.patient(patience)
        return store

    def folder_etag(self) -> str | None:
        """The ETag of the folder itself, by a PROPFIND of Depth 0.

        Raises:
            LocationError: there is no such folder.
        """
        told = self._found(lambda: self.propfind(self.base_url + "/", "0"))
        return next((plain_etag(resource.etag) for resource in told), None)

    def look(self) -> None:
        """Find the folder on the server, by a PROPFIND of Depth 0."""
        self._found(lambda: Listings(self).of("", "0"))

    def _found(self, ask: Callable[[], T]) -> T:
        """What a question about the folder gives; it is asked of the other Unicode form of its name, too.

        Raises:
            LocationError: there is no such folder in any form, or in two.
        """
        try:
            return self._found_in_some_form(ask)
        except errors.NotFoundError as error:
            raise self.no_such_folder() from error

    def _found_in_some_form(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except errors.NotFoundError as error:
            there = [path for path in forms(self.path)[1:] if self._has_collection(path)]
            if not there:
                raise
            if len(there) > 1:
                raise self.no_such_folder(there) from error
        store: WebDAVStore | None = self
        while store is not None:  # one that is read with another patience is of the same folder
            store.place_at(there[0])
            store = store.copy_of
        return ask()

    def _has_collection(self, path: str) -> bool:
        try:
            self.propfind(f"{self.remote.url}/{quoted(path)}/", "0")
        except errors.NotFoundError:
            return False
        return True

    def below_remote(self, key: str) -> str:
        """The path of a key below the remote's URL, not percent-encoded."""
        return "/".join(part for part in (self.path, key) if part)

    # --- reading

    def listing(self) -> Listing:
        """Every file below the folder, by Depth infinity if the server allows it, else folder by folder."""
        listing = self._found(lambda: Listings(self).below())
        entries = sorted(listing.entries)
        self.transport.connections.outage.other_urls = tuple(self.url(entry.key) for entry in entries[:2])
        return Listing(entries, listing.unreadable)

    def list_below(self, folder: str) -> Entries:
        """Every file below a folder; none where the server knows no such folder.

        Raises:
            ServerUnavailableError: it knows none of the folders above the store's own either: its answer tells nothing.
        """
        above = f"{checked(folder)}/" if folder else ""
        listing = self._listed(folder)
        if listing is None and not folder:
            self._check_above()
            listing = self._listed(folder)  # it may have come back in between
        if listing is None:
            return []
        base = f"/{above}".rstrip("/")
        return [entry for entry in listing.complete() if same_prefix(f"/{entry.key}", base) is not None]

    def _listed(self, folder: str) -> Listing | None:
        try:
            return self._found_in_some_form(lambda: Listings(self).below(folder))
        except errors.NotFoundError:
            return None

    def _check_above(self) -> None:
        """Make sure that the server is there which says that something is not: what stands before it says 404 to all.

        Raises:
            ServerUnavailableError: it knows no folder above the store's own, up to the remote's.
        """
        path = self.path
        while path:
            path = path.rpartition("/")[0]
            try:
                self.propfind(f"{self.remote.url}/{quoted(path)}".rstrip("/") + "/", "0")
            except errors.NotFoundError:
                continue
            except (*NO_ANSWER, errors.AuthenticationError):
                raise
            except errors.StorageError:
                return  # it is not ours to look at, but there
            return
        if self.path:
            raise errors.ServerUnavailableError(
                f"{self.location}: the server says 404 to this folder and to each above it, up to {self.remote.url}. "
                "Is that the address of the files? If it was right before, a proxy answers for a server that is away: "
                "try again when it is back"
            )

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder, by a PROPFIND of Depth 0."""
        try:
            found = Listings(self).of(checked(key), "0")
        except errors.NotFoundError:
            return False
        return not found.files

    def members(self, folder: str) -> tuple[Entries, Keys]:
        """What lies directly in a folder, by a PROPFIND of Depth 1; what cannot be told of is named in the log."""
        files, folders, unreadable = Listings(self).of(checked(folder) if folder else "", "1")
        if [entry.key for entry in files] == [folder]:  # some servers do not mind the slash after a file
            raise errors.NotFoundError(f"{self.location}: {folder!r} is a file, not a folder")
        for one in unreadable:
            tell_once(f"left out: {one.error}")
        return sorted(files), sorted(folders)

    def stat(self, key: str) -> Entry:
        """One file, by a PROPFIND of Depth 0."""
        entries = Listings(self).of(checked(key), "0", slash=False).files
        if not entries:
            message = f"{self.location}: {key!r} is a folder, not a file"
            raise _FolderError(message)
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
        if response.compression and self._is_compressed(entry, response):
            raise errors.ProtocolError(f"{self.location}: {entry.key!r}: {compressed(response.compression)}")
        if not entry.is_same_version(served):
            raise errors.ChangedError(_changed(self.location, entry, served))
        if _is_page(entry, served, response):
            raise self._a_page(entry)
        data = body.getvalue()
        if len(data) != stop - start:
            message = f"{self.location}: {entry.key!r}: {len(data):,} bytes came for the range {start}-{stop}"
            raise errors.IntegrityError(message)
        return data

    def read_into(self, entry: Entry, path: Path, sha256: str | None = None) -> str:
        """Download by several ranges at a time if the server tells versions apart, else from beginning to end."""
        return received(self, entry, path, sha256, partial(self._read_into, entry))

    def _read_into(self, entry: Entry, file: FileIO) -> str:
        return read_ranges(self.transport, self.url(entry.key), entry, file) or read_back(self, entry, file)

    def url(self, key: str) -> str:
        """Where a key is."""
        return f"{self.base_url}/{quoted(checked(key))}"

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
            if _is_page(entry, served, outcome):
                return self._a_page(entry)
            if entry.is_same_version(served):
                return Fetched(entry, request.body)
            try:
                now = self.stat(entry.key)
            except errors.StorageError as error:
                return error
            if now.is_same_version(served):
                return Fetched(now, request.body)
            if outcome.compression:
                return errors.ProtocolError(f"{self.location}: {entry.key!r}: {compressed(outcome.compression)}")
            try:  # a short or mixed answer: neither the listed version nor the present one
                request.body.restart()
                outcome = self.transport.send(request)
            except errors.StorageError as error:
                outcome = error
        return errors.IntegrityError(
            f"{self.location}: {entry.key!r}: the server lists {_version(entry, served)}, and keeps answering with "
            f"{_version(served, entry)}"
        )

    def _is_compressed(self, entry: Entry, response: Response) -> bool:
        """Whether bytes with that label were compressed on their way: their number is not the file's, then or now."""
        total = response.total_bytes
        return total is None or (total != entry.size_bytes and total != self.size_of(entry.key))

    def _a_page(self, entry: Entry) -> errors.ProtocolError:
        return errors.ProtocolError(
            f"{self.location}: {entry.key!r}: the server answers with an HTML page instead of the file. Is "
            f"{self.remote.origin} the address of the storage itself, not of a login page before it?"
        )

    # --- writing

    def write(self, key: str, content: Content) -> Entry:
        """PUT a whole file, and make the folders above it where they are missing."""
        self.upload(key, Source(content), repeats=True)
        return self.stat(key)

    def upload(
        self, key: str, source: Source, *headers: str, repeats: bool = False, before: Entry | None = None
    ) -> Response | None:
        """PUT a whole file, as `_upload` does, and say so where it is the name that the server refuses.

        Raises:
            NameRefusedError: the server takes no such name.
            LocationError: there is a folder of this name.
        """
        try:
            return self._upload(key, source, *headers, repeats=repeats, before=before)
        except errors.StorageError as error:
            self._refuse_name(key, error)
            raise

    def _refuse_name(self, key: str, error: errors.StorageError) -> None:
        """Say that it is the name, where an answer to a PUT or MKCOL may well mean that."""
        if isinstance(error, _NOT_OF_A_NAME):
            return
        why = why_refused(key, is_forbidden=isinstance(error, errors.PermissionDeniedError))
        if why is not None:
            raise errors.NameRefusedError(
                f"{self.location}: {key!r} cannot be written: the server refuses the name, since {why}. Choose another "
                f"name. ({error})"
            ) from error

    def _upload(
        self, key: str, source: Source, *headers: str, repeats: bool = False, before: Entry | None = None
    ) -> Response | None:
        """PUT a whole file, and make the folders above it where they are missing.

        Args:
            key: its key.
            source: its bytes.
            headers: further header lines.
            repeats: whether to send it again without looking, where it may have arrived although no answer has.
            before: the file that is there already and is to give way, where there is one.

        Returns:
            The answer; None where it was lost, and a file of this size is there.

        Raises:
            LocationError: there is a folder of this name.
        """
        request = Request(
            self.url(key),
            method="PUT",
            source=source,
            headers=headers,
            expected_bytes=source.size_bytes,
            repeats=repeats,
        )
        failures = missing = 0
        while True:
            try:
                return self.transport.send(request)
            except errors.NotFoundError:  # a missing parent: 404 on Nextcloud, 409 elsewhere
                missing += 1
                if missing > 1:
                    self._refuse_folder(key)
                    raise
                self.make_folder(key.rpartition("/")[0])
            except (errors.ServerUnavailableError, errors.DeadlineError) as error:
                failures += 1
                if repeats or isinstance(error, errors.TLSError) or failures >= self.patience.tries:
                    raise
                asked_s = error.retry_after_s if isinstance(error, errors.ServerUnavailableError) else None
                time.sleep(self.patience.pause_s(failures, asked_s))
                if self.size_of(key) == source.size_bytes:
                    return None
            except (errors.OutOfSpaceError, errors.ServerError):
                self._refuse_folder(key)
                if not repeats:
                    self._remove_part(key, source.size_bytes, before)
                raise

    def _refuse_folder(self, key: str) -> None:
        """Say what is wrong where a PUT failed because there is a folder: servers have five answers to that."""
        try:
            self.stat(key)
        except _FolderError as error:
            raise self._is_folder(key) from error
        except errors.StorageError:  # then the PUT's own error tells more
            return

    def _is_folder(self, key: str) -> errors.LocationError:
        return errors.LocationError(f"{self.location}: there is a folder of this name: {key!r}; nothing was written")

    def _remove_part(self, key: str, size_bytes: int, before: Entry | None) -> None:
        """Remove what some servers keep of a PUT that failed: on a full disk it would stand in the way of the next.

        A DELETE takes whole folders too, and knows no owner. So only a file goes that is shorter than what was sent,
        and that is not the one from before.
        """
        with suppress(errors.StorageError):
            part = self.stat(key)
            if part.size_bytes < size_bytes and not (before is not None and before.is_same_version(part)):
                self.dav("DELETE", self.url(key), tries=1)

    def make_parent(self, key: str) -> bool:
        """Make the folder of a file, unless it is known to be there: it costs less than a large PUT that is refused."""
        folder = checked(key).rpartition("/")[0]
        return folder not in self._folders and self.make_folder(folder)

    def size_of(self, key: str) -> int | None:
        """The length of a file; None where it is not there."""
        try:
            return self.stat(key).size_bytes
        except errors.NotFoundError:
            return None

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """PUT a whole new file, and compare the sha256 of what the server holds."""
        source = Source(content, on_bytes=on_bytes)
        return confirm(self, key, source, sha256, found=self._before, send=self._store_new)

    def _before(self, key: str) -> Entry | None:
        """What an earlier try has left at a key; a folder is refused, where the server shows it so."""
        try:
            return self.stat(key)
        except _FolderError as error:
            raise self._is_folder(key) from error
        except errors.NotFoundError:
            return None

    def _store_new(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:  # noqa: ARG002
        """PUT it, and read it back."""
        self.make_parent(key)
        self.upload(key, source, before=before)
        return self.sha256_of(self.stat(key))

    def make_folder(self, key: str) -> bool:
        """Make a folder below the root, and those above it, where they are missing; whether the server says it is new.

        Some servers say so of one that was there.
        """
        path = "/".join(part for part in (self.path, key) if part)
        try:
            is_new = bool(path) and self._make_collections(path)
        except errors.StorageError as error:
            if isinstance(error, errors.NotFoundError):
                self._check_above()
            self._refuse_name(path, error)
            raise
        self._folders.add(key)
        return is_new

    def _make_collections(self, path: str) -> bool:
        try:
            return self._make_collection(path)
        except errors.NotFoundError:  # the one above is missing
            if "/" not in path:
                raise
        self._make_collections(path.rpartition("/")[0])
        return self._make_collection(path)

    def _make_collection(self, path: str) -> bool:
        url = f"{self.remote.url}/{quoted(path)}/"
        try:
            self.dav("MKCOL", url)
        except NO_ANSWER:
            raise
        except errors.PermissionDeniedError:
            with suppress(errors.NotFoundError):  # where another request makes it just now, Apache says 403
                self._look_at_collection(url)
                return False
            raise
        except errors.ServerError as error:
            # It is there already (405), or another request makes it just now (500 on wsgidav).
            try:
                self._look_at_collection(url)
            except errors.NotFoundError:
                above = f"{self.remote.url}/{quoted(path)}".rpartition("/")[0]
                self._look_at_collection(f"{above}/")  # a file there, or nothing, is the reason
                raise error from None  # that it is missing is no news: what went wrong may pass
            return False
        return True

    def _look_at_collection(self, url: str) -> None:
        """Find a folder there.

        Raises:
            NotFoundError: there is nothing.
            LocationError: there is a file.
        """
        try:
            self._refuse_file(url)
        except errors.ProtocolError:  # Apache's answer to a slash after a file, and to whatever is below one
            above = url.rstrip("/")
            while len(above) > len(self.remote.url):
                with suppress(errors.ProtocolError, _FolderError):
                    self._refuse_file(above)
                above = above.rpartition("/")[0]
            raise

    def _refuse_file(self, url: str) -> None:
        if any(found.is_known and not found.is_folder for found in self.propfind(url, "0")):
            raise errors.LocationError(
                f"{self.location}: there is a file where a folder belongs: {unquoted(urlsplit(url).path)!r}"
            )

    def delete(self, key: str) -> None:
        """Remove a file, and never a folder: a DELETE would take all that is in it."""
        self._delete_file(key)

    def _delete_file(self, key: str, headers: dict[str, str] | None = None) -> Span | None:
        """Remove a file; when that was, None where it was not there or the server tells no time."""
        self.stat(key)
        begun_s = time.monotonic()
        with suppress(errors.NotFoundError):  # a first try whose answer was lost may have removed it
            return _span(self.dav("DELETE", self.url(key), headers), begun_s)
        return None

    def remove_tree(self, key: str) -> None:
        """Remove a folder and all below it, by one DELETE."""
        self._delete_folder(key)

    def _delete_folder(self, key: str, headers: dict[str, str] | None = None) -> Span | None:
        """Remove a folder; when that was, None where it was not there or the server tells no time."""
        begun_s = time.monotonic()
        self._folders = {folder for folder in self._folders if not f"{folder}/".startswith(f"{key}/")}
        with suppress(errors.NotFoundError):
            answer = self.dav("DELETE", f"{self.url(key)}/", headers)
            if answer.status_code == 207:  # RFC 4918, 9.6.1: it tells what could not be removed
                raise errors.ServerError(
                    f"{self.location}: {key!r}: the server could not remove all that is in it (207)"
                )
            return _span(answer, begun_s)
        return None

    def no_such_folder(self, there: Sequence[str] = ()) -> errors.LocationError:
        """What to say where the server knows no such folder.

        Args:
            there: other forms of its name that it does know.
        """
        if there:
            known = " and ".join(map(ascii, there))
            return errors.LocationError(
                f"{self.location}: there is no {self.path!a} on the server, but {known}, which look alike; rename "
                "one, or give the one that is meant"
            )
        address = ""
        if not self.base_path or self.remote.url.endswith(("/remote.php/dav", "/remote.php/dav/files")):
            address = ". The files of a Nextcloud are at https://HOST/remote.php/dav/files/USER"
        elif "/public.php/dav/files/" in self.remote.url:
            address = ". A public link may have expired, or been removed: ask who shared it"
        return errors.LocationError(
            f"{self.location}: there is no such folder on the server; check the spelling, or list its parent; "
            f"`ai4os-data doctor LOCATION` shows similar names{address}"
            + ("" if self.path.isascii() else f". Looked for: {shown(self.path)}, and its other Unicode form")
        )

    def propfind(self, url: str, depth: str, *, tries: int | None = None) -> Resources:
        """Ask for what a listing needs, until a whole answer comes; one that is torn may be chance.

        Args:
            url: percent-encoded.
            depth: ``"0"``, ``"1"`` or ``"infinity"``.
            tries: how often it is asked, where it is not for us to know.

        Raises:
            ProtocolError: what comes is no listing: a page, nothing at all, or time and again only a part.
            StorageError: the server refuses it, or cannot do it.
        """
        most = min(tries or _LISTING_TRIES, self.patience.tries)
        until_s = time.monotonic() + (self.patience.outage_s if tries is None else 0.0)
        attempt = 0
        while True:
            attempt += 1
            told = self._propfind(url, depth, tries)
            if not isinstance(told, errors.StorageError):
                return told
            pause_s = self.patience.pause_s(attempt)
            is_away = isinstance(told, errors.ServerUnavailableError | errors.ThrottledError)
            if attempt >= most and not (is_away and time.monotonic() + min(pause_s, _ERROR_PAUSE_S) < until_s):
                raise told
            if attempt == most:
                log.warning("%s: the server cannot tell for now, and is waited for (%s)", self.location, told)
            time.sleep(min(pause_s, _ERROR_PAUSE_S))

    def _propfind(self, url: str, depth: str, tries: int | None) -> Resources | errors.StorageError:
        """Ask once: what is told, or an error that may be chance."""
        what = f"PROPFIND {url}"
        headers = {"Depth": depth, "Content-Type": "application/xml"}
        silence_s = _INFINITY_SILENCE_S if depth == "infinity" else None
        try:
            answer = self.dav("PROPFIND", url, headers, PROPFIND, tries=tries, silence_s=silence_s)
            told = resources(answer.content)
            if len(told) == 1 and not told[0].is_known and (status := told[0].status) in statuses.AWAY:
                return error_for_status(status or 0, f"{what}, in a multistatus", {}, self.remote)
        except (_TornError, httpx.DecodingError) as error:  # the latter: what calls itself compressed, and is not
            return _unusable(self.location, error)
        except errors.OutOfSpaceError as error:
            raise _too_large(what, "507") from error
        except RefusedError as error:
            if error.status == 507:
                raise _too_large(what, str(error)) from error
            failure = error_for_status(error.status, f"{what}: {error}", {}, self.remote)
            if error.status in statuses.RETRIED:
                return failure
            raise failure from error
        except NotMultistatusError as error:
            if answer.status_code == 207:
                return _unusable(self.location, error)
            message = (
                f"{self.location}: not a WebDAV server (it answers PROPFIND with {answer.status_code}). Is "
                f"{self.remote.origin} the address of the storage itself, and not of a page before it, such as a login?"
            )
            raise errors.ProtocolError(message) from error
        return told

    def dav(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        *,
        tries: int | None = None,
        worked_bytes: int = 0,
        silence_s: float | None = None,
    ) -> httpx.Response:
        """Send a DAV verb through webdav4, with our own deadlines, tries and errors.

        Args:
            method: the verb.
            url: percent-encoded.
            headers: more of them.
            content: the body.
            tries: how many, where it is not for us to know how often it may be sent.
            worked_bytes: how many bytes the server reads or moves before it answers.
            silence_s: how long it may be silent at most.
        """
        asking = _Asking(self, method, url, tries, worked_bytes, silence_s=silence_s)
        connect_s = self.patience.connect_s
        while True:
            asking.wait_for_turn()
            row = self.counters.row
            row[telemetry.REQUESTS_PROPFIND if method == "PROPFIND" else telemetry.REQUESTS_OTHER] += 1
            timeout = httpx.Timeout(_LISTING_DEADLINE_S, connect=connect_s, read=asking.silence_s())
            outcome: httpx.Response | errors.StorageError | float
            heads = _Heads()
            try:
                client = self._client()
                with kept_quiet():
                    response: httpx.Response = client.http.request(
                        method,
                        client.join_url(url),
                        headers=headers,
                        content=content,
                        timeout=timeout,
                        extensions={"trace": heads.note},
                    )
            except httpx.RequestError as error:
                outcome = asking.pause_after(error, has_head=heads.has_come)
            except UnicodeError as error:
                raise errors.LocationError(f"{asking.what}: this name cannot be sent") from error
            else:
                row[telemetry.BYTES_FROM_NETWORK] += len(response.content)
                outcome = asking.judged(response)
            if isinstance(outcome, httpx.Response):
                return outcome
            if isinstance(outcome, errors.StorageError):
                try:
                    raise outcome
                finally:
                    del outcome, asking  # an error that its own traceback leads to would keep the connections open
            row[telemetry.RETRIES] += 1
            row[telemetry.WAITED_NS] += int(outcome * 1e9)
            asking.sleep(outcome)

    def _client(self) -> _Client:
        """This process's client of the DAV verbs."""
        remote = self.transport.remote
        client: _Client = self.transport.connections.client(partial(_new_client, remote, self.patience.connect_s))
        return client

    def transport_failure(self, what: str, error: httpx.RequestError) -> errors.StorageError:
        """The error that a connection which failed stands for."""
        if isinstance(error, httpx.DecodingError):
            return errors.ProtocolError(f"{what}: the body is not compressed as its head says ({error})")
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLError):
                raise errors.TLSError(
                    f"{what}: no trusted connection to {self.remote.origin} ({cause.reason or cause}). If it uses an "
                    "authority of your "
                    f"own, pass Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
                )
        if isinstance(error, httpx.TimeoutException):
            return errors.DeadlineError(f"{what}: no answer in time ({type(error).__name__})")
        way = proxies.through(self.remote.url, os.environ)
        # httpcore tells the status of a proxy that opens no connection in its message alone.
        if isinstance(error, httpx.ProxyError) and str(error)[:3].isdigit() and not str(error).startswith("5"):
            return errors.PermissionDeniedError(f"{what}: the proxy opens no connection ({error}){way}")
        return errors.ServerUnavailableError(
            f"{what}: {error}. Is {self.remote.origin} up, and reachable from this machine?{way}"
        )


class _Asking:
    """One request by a DAV verb: its tries, its pauses, and what its answers mean for the next one."""

    def __init__(
        self,
        store: WebDAVStore,
        method: str,
        url: str,
        tries: int | None,
        worked_bytes: int,
        *,
        silence_s: float | None,
    ) -> None:
        self.what = f"{method} {url}"
        patience = store.patience
        self._store = store
        self._patience = patience
        self._tries = tries or patience.tries
        self._waits = method == "PROPFIND" and tries is None and patience.outage_s > 0
        self._is_read = method == "PROPFIND"
        longest_s = max(patience.silence_s(worked_bytes), 1)
        self._silence_s = longest_s if silence_s is None else min(longest_s, silence_s)
        self._deadline = patience.deadline(worked_bytes)
        self._wait = Wait(store.transport.connections.outage, patience)
        self._credentials = store.transport.credentials
        self._failures = self._refused = self._away = 0
        self._failed_s = self._began_s = 0.0
        self._is_first = False
        self._last: errors.StorageError | None = None

    def silence_s(self) -> float:
        """How long this try may be without an answer."""
        return max(1.0, min(self._silence_s, self._deadline - time.monotonic()))

    def wait_for_turn(self) -> None:
        """Wait until the request may be sent.

        Raises:
            AuthenticationError: the credentials were refused; nobody asks any more.
            StorageError: the server is away for too long.
        """
        if self._is_first and self._refused and self._credentials.is_hopeless():
            raise errors.AuthenticationError(wrong_credentials(self._store.remote))
        while not self._is_first and (turn := self._credentials.turn()) != "go":
            if turn == "refused":
                raise errors.AuthenticationError(wrong_credentials(self._store.remote))
            self._is_first = turn == "first"
            if not self._is_first:
                time.sleep(LOOK_AT_DOUBT_S)
        while self._waits and self._wait.is_held and not self._wait.outage.may_ask():
            self._wait.hold()
            if self._wait.is_over:
                raise self._wait.error(self.what) if self._last is None else self._wait.gave_up(self._last)
            time.sleep(LOOK_S)
        self._began_s, self._sent_with = time.monotonic(), self._credentials.remote

    def sleep(self, pause_s: float) -> None:
        """Wait before the next try; where the server is away, until somebody finds it back."""
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._away and self._wait.outage.progress_s > self._failed_s:
                return
            time.sleep(min(LOOK_S, left_s))
            if self._away:
                self._wait.outage.tell(self._patience.outage_s)

    def judged(self, response: httpx.Response) -> httpx.Response | errors.StorageError | float:
        """The answer, the error that it stands for, or the pause before the next try."""
        status = status_meant(response.status_code, response.content)
        if self._waits and self._wait.outage.doubts(status):
            return self._pause(
                _error_of(response, self.what, self._store.remote), None, is_away=True, tries=self._tries
            )
        if status not in statuses.AWAY:
            self._wait.outage.answered()
            if status != 401:
                self._credentials.accepted(was_doubted=self._is_first)
                self._is_first = False
        if status < 300:
            return response
        failure = _error_of(response, self.what, self._store.remote)
        if status == 401:
            self._refused += 1
            again = self._credentials.refused(self._sent_with, self._refused, was_first=self._is_first)
            if again is None:
                return failure
            self._is_first, pause_s = again
            return pause_s
        if status not in statuses.RETRIED:
            return failure
        asked_s = retry_after_s(response.headers.get("retry-after"))
        tries = self._tries
        if status == 423 and self._is_read:
            tries, asked_s = min(tries, LOCKED_TRIES), shortened(asked_s, LONGEST_LOCK_PAUSE_S)
        return self._pause(failure, asked_s, is_away=status in statuses.AWAY, tries=tries)

    def pause_after(self, cause: httpx.RequestError, *, has_head: bool = False) -> errors.StorageError | float:
        """The pause before the next try after one without an answer, or the error where there is none.

        Raises:
            TornError: the head of an answer came, so the server is there, but the answer is not whole.
        """
        if has_head and self._is_read and not isinstance(cause, httpx.TimeoutException):
            raise _TornError(_told(cause)) from cause
        causes = list(_causes(cause))
        failure: errors.StorageError | None = descriptors.exhausted(cause)
        has_answered = self._credentials.answers > 0 or self._wait.outage.has_answered
        is_distrusted = any(isinstance(one, ssl.SSLCertVerificationError) for one in causes)
        if failure is None:
            failure = self._store.transport_failure(self.what, cause)
        failure.__cause__ = cause
        if isinstance(failure, _LASTING) or (
            isinstance(failure, errors.TLSError) and (is_distrusted or not has_answered)
        ):
            return failure
        is_away = has_answered or not any(isinstance(one, socket.gaierror) for one in causes)
        return self._pause(failure, None, is_away=is_away, tries=self._tries)

    def _pause(
        self, failure: errors.StorageError, asked_s: float | None, *, is_away: bool, tries: int
    ) -> errors.StorageError | float:
        if is_away and self._waits:
            return self._wait_out(failure, asked_s)
        self._failures += 1
        pause_s = self._patience.pause_s(self._failures, asked_s)
        return failure if self._failures >= tries or time.monotonic() + pause_s > self._deadline else pause_s

    def _wait_out(self, failure: errors.StorageError, asked_s: float | None) -> errors.StorageError | float:
        """The pause where the server seems to be away; while others get answers, tries count."""
        if self._away == 0 or self._wait.outage.progress_s > self._failed_s:
            self._failures += 1
        self._failed_s = time.monotonic()
        self._away += 1
        self._last = failure
        if self._failures >= max(2, self._tries) * (FLAPPING if self._wait.outage.flaps else 1):
            return failure
        pause_s = self._wait.failed(self._began_s, failure, asked_s=asked_s, failures=self._away)
        if pause_s is None:
            return self._wait.gave_up(failure)
        self._deadline = max(self._deadline, self._patience.deadline() + pause_s)
        return pause_s


def _span(response: httpx.Response, begun_s: float) -> Span | None:
    """When the server worked on a request, by its own clock; None where it does not tell."""
    try:
        answered_s = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    return answered_s - (time.monotonic() - begun_s), answered_s


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _FolderError(errors.NotFoundError):
    """There is a folder, where a file was looked for."""


class _TornError(Exception):
    """The head of an answer came, and its body broke off."""


class _Heads:
    """Notes whether the head of the server's answer has come (https://www.encode.io/httpcore/extensions/#trace).

    A proxy's answer to CONNECT is none of the server's.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_of_proxy = False

    def note(self, event: str, info: dict[str, Any]) -> None:
        """Note an event of a connection."""
        if event.endswith("receive_response_headers.started"):
            self._is_of_proxy = info["request"].method == b"CONNECT"
        elif event.endswith("receive_response_headers.complete"):
            self.has_come = not self._is_of_proxy


def _told(error: httpx.RequestError) -> str:
    """What httpx says of an answer, with what it means where it says no more than zlib does."""
    return f"not compressed as its head says: {error}" if isinstance(error, httpx.DecodingError) else str(error)


def _unusable(location: str, error: Exception) -> errors.ProtocolError:
    return errors.ProtocolError(f"{location}: the server's listing cannot be used ({error}); is this a WebDAV address?")


def _too_large(what: str, said: str) -> errors.ServerError:
    """What a 507 means in a listing: the storage itself may be as empty as can be."""
    return errors.ServerError(f"{what}: the server cannot make a listing of this size ({said})")


class _Client(webdav4.client.Client):  # type: ignore[misc]  # webdav4 has no types
    """webdav4's client for URLs that are encoded already: its own joining loses ``%``, ``#`` and the last slash."""

    def join_url(self, path: str, *_: object) -> httpx.URL:
        parts = urlsplit(path)
        url: httpx.URL = self.base_url.copy_with(raw_path=parts.path.encode())
        return url


def _new_client(remote: Remote, connect_s: float) -> _Client:
    authentication = None
    headers = httpx.Headers({"Accept-Encoding": "identity", "User-Agent": "ai4os-data"})
    headers.update([(name.encode(), value.encode()) for name, value in remote.sent_headers()])
    if remote.sends_password:
        authentication = httpx.BasicAuth((remote.user or "").encode(), (remote.password or "").encode())
    client = _Client(
        remote.url,
        auth=authentication,
        retry=False,
        headers=headers,
        verify=tls.context(remote.ca_file),
        limits=httpx.Limits(max_keepalive_connections=None),
        proxy=_proxy(remote, connect_s),
        trust_env=False,  # the variables are read by us alone, so that bytes go the same way
    )
    weakref.finalize(client, _close, client.http, os.getpid())
    return client


def _proxy(remote: Remote, connect_s: float) -> httpx.Proxy | None:
    """The way to a server as httpx takes it."""
    proxy = proxies.proxy_for(remote.url, os.environ)
    if proxy is None:
        return None
    if proxy.url.startswith("socks"):
        proxies.check_socks(proxy, connect_s)
    credentials = None if proxy.user is None else (proxy.user, proxy.password or "")
    context = tls.context(remote.ca_file) if proxy.url.startswith("https") else None
    url = proxy.url.replace("socks5h:", "socks5:", 1)  # as every version of httpx spells it
    return httpx.Proxy(url, auth=credentials, ssl_context=context)


def _close(http: httpx.Client, owner: int) -> None:
    """Close the connections of a client that is gone; in a child they are its parent's."""
    if os.getpid() == owner:
        with kept_quiet():
            http.close()


def _leads_to_folder(response: httpx.Response) -> bool:
    """Whether a redirect says no more than that the name of a folder ends with a slash, as Apache has it."""
    place = urlsplit(response.headers.get("location", ""))
    asked = response.request.url.raw_path.decode()
    return (
        response.is_redirect
        and place.path == f"{asked}/"
        and host_of(place.netloc) in {None, response.request.url.host}
    )


def _error_of(response: httpx.Response, what: str, remote: Remote) -> errors.StorageError:
    """The error that an answer stands for."""
    if _leads_to_folder(response):
        return _FolderError(f"{what}: this is a folder, not a file ({response.status_code})")
    status = status_meant(response.status_code, response.content)
    is_upload = response.request.method not in _READING
    return error_for_status(status, what, dict(response.headers), remote, is_upload=is_upload, page=response.content)


def _is_page(entry: Entry, served: Entry, response: Response) -> bool:
    """Whether an HTML page came, such as one to log in, where no ETag says that it is the file."""
    is_html = response.headers.get("content-type", "").startswith("text/html")
    is_wanted = entry.key.lower().endswith(_HTML_ENDINGS)
    return is_html and not is_wanted and not (served.etag and entry.etag and entry.is_same_version(served))


def _served(entry: Entry, response: Response, size_bytes: int) -> Entry:
    """What came. The marks of another host are not to be compared with those that our server has listed."""
    if response.is_foreign and response.etag != entry.etag:
        return Entry(entry.key, size_bytes)
    return Entry(entry.key, size_bytes, response.etag, response.headers.get("last-modified"))


def _version(entry: Entry, other: Entry) -> str:
    """What tells an entry from another."""
    if entry.size_bytes != other.size_bytes:
        return f"{entry.size_bytes:,} bytes"
    return f"version {entry.version!r}"


def _changed(location: str, listed: Entry, served: Entry) -> str:
    what = (
        f"shrank from {listed.size_bytes:,} to {served.size_bytes:,} bytes"
        if served.size_bytes < listed.size_bytes
        else "changed"
    )
    return (
        f"{location}: {listed.key!r} {what} on the store while it was read; open the dataset again, or call refresh()"
    )
