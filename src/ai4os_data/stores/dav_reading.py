"""Files read from a WebDAV server: each comes whole, in the listed version or a newer one, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import MemoryBody, Request, Response, compressed
from ai4os_data.stores.base import Entry, Fetched, MakeBody, Outcome, memory_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai4os_data.stores.listings import Listings

_HTML_ENDINGS = (".html", ".htm", ".xhtml", ".php")
_VERSION_TRIES = 3


class DavReader:
    """Reads the files of a folder by GETs.

    Args:
        listings: ask which version is there now.
    """

    def __init__(self, listings: Listings) -> None:
        self._listings = listings
        self._transport = listings.folder.dav.transport
        self._address = listings.folder.address

    def read_many(self, entries: Iterable[Entry], make: MakeBody = memory_body) -> Iterator[Outcome]:
        """Read whole files by parallel GETs."""
        url = self._address.url
        wanted = (Request(url(entry.key), make(entry), expected_bytes=entry.size_bytes, tag=entry) for entry in entries)
        for request, outcome in self._transport.fetch(wanted):
            entry = request.tag
            assert isinstance(entry, Entry)
            yield entry, self._settled(entry, request, outcome)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file, by a ranged GET whose answer is checked."""
        stop = min(stop, entry.size_bytes)
        if start >= stop:
            return b""
        body = MemoryBody()
        response = self._transport.send(
            Request(self._address.url(entry.key), body, start=start, stop=stop, expected_bytes=stop - start)
        )
        total = response.total_bytes
        served = _served(entry, response, entry.size_bytes if total is None else total)
        if response.compression and self._is_compressed(entry, total):
            raise errors.ProtocolError(f"{self._name(entry)}: {compressed(response.compression)}")
        if not entry.is_same_version(served):
            raise errors.ChangedError(self._changed(entry, served))
        if _is_page(entry, served, response):
            raise self._a_page(entry)
        data = body.getvalue()
        if len(data) != stop - start:
            raise errors.IntegrityError(f"{self._name(entry)}: {len(data):,} bytes came for the range {start}-{stop}")
        return data

    def _name(self, entry: Entry) -> str:
        return f"{self._address.location}: {entry.key!r}"

    def _settled(
        self, entry: Entry, request: Request, outcome: Response | errors.StorageError
    ) -> Fetched | errors.StorageError:
        """The file, if one whole version of it has come: the listed one or a newer one."""
        for _ in range(_VERSION_TRIES):
            if isinstance(outcome, errors.NotFoundError):
                return errors.NotFoundError(f"{self._name(entry)} was listed, but is not there any more (404)")
            if isinstance(outcome, errors.StorageError):
                return outcome
            served = _served(entry, outcome, outcome.received_bytes)
            if _is_page(entry, served, outcome):
                return self._a_page(entry)
            if entry.is_same_version(served):
                return Fetched(entry, request.body)
            try:
                now = self._listings.stat(entry.key)
            except errors.StorageError as error:
                return error
            if now.is_same_version(served):
                return Fetched(now, request.body)
            if outcome.compression:
                return errors.ProtocolError(f"{self._name(entry)}: {compressed(outcome.compression)}")
            try:  # a short or mixed answer: neither the listed version nor the present one
                request.body.restart()
                outcome = self._transport.send(request)
            except errors.StorageError as error:
                outcome = error
        return errors.IntegrityError(
            f"{self._name(entry)}: the server lists {_version(entry, served)}, and keeps answering with "
            f"{_version(served, entry)}"
        )

    def _is_compressed(self, entry: Entry, total_bytes: int | None) -> bool:
        """Whether the server compressed the bytes: their number is neither the listed nor the present size."""
        if total_bytes is None:
            return True
        return total_bytes != entry.size_bytes and total_bytes != self._listings.size_of(entry.key)

    def _a_page(self, entry: Entry) -> errors.ProtocolError:
        return errors.ProtocolError(
            f"{self._name(entry)}: the server answers with an HTML page instead of the file. Is "
            f"{self._address.remote.origin} the address of the storage itself, not of a login page before it?"
        )

    def _changed(self, listed: Entry, served: Entry) -> str:
        what = (
            f"shrank from {listed.size_bytes:,} to {served.size_bytes:,} bytes"
            if served.size_bytes < listed.size_bytes
            else "changed"
        )
        return f"{self._name(listed)} {what} on the store while it was read; open the dataset again, or call refresh()"


def _is_page(entry: Entry, served: Entry, response: Response) -> bool:
    """Whether an HTML page came, such as a login, and no ETag says that it is the file."""
    is_html = response.headers.get("content-type", "").startswith("text/html")
    is_wanted = entry.key.lower().endswith(_HTML_ENDINGS)
    return is_html and not is_wanted and not (served.etag and entry.etag and entry.is_same_version(served))


def _served(entry: Entry, response: Response, size_bytes: int) -> Entry:
    """What came, as an entry. The ETag of another host cannot be compared with those that our server has listed."""
    if response.is_foreign and response.etag != entry.etag:
        return Entry(entry.key, size_bytes)
    return Entry(entry.key, size_bytes, response.etag, response.headers.get("last-modified"))


def _version(entry: Entry, other: Entry) -> str:
    """What distinguishes an entry from another."""
    if entry.size_bytes != other.size_bytes:
        return f"{entry.size_bytes:,} bytes"
    return f"version {entry.version!r}"
