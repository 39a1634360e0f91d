"""Files and folders written to and removed from a WebDAV server: a failed attempt loses nothing that was there."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import Request, Response, Source
from ai4os_data.stores.dav import FolderError
from ai4os_data.stores.names import check_not_the_name

if TYPE_CHECKING:
    from ai4os_data.stores.base import Entry
    from ai4os_data.stores.dav import DavAnswer
    from ai4os_data.stores.dav_folders import FolderMaker
    from ai4os_data.stores.listings import Listings

Span = tuple[float, float]
"""When something began and ended, in seconds of the epoch."""


class DavWriter:
    """Writes the files of a folder by PUTs, and removes them.

    Args:
        listings: ask what is there.
        folders: makes the folders above the files.
    """

    def __init__(self, listings: Listings, folders: FolderMaker) -> None:
        self._listings = listings
        self._folders = folders
        self._dav = listings.folder.dav
        self._address = listings.folder.address

    def put(
        self, key: str, source: Source, *headers: str, repeats: bool = False, before: Entry | None = None
    ) -> Response | None:
        """PUT a whole file, and make the folders above it if they are missing.

        Args:
            key: its key.
            source: its bytes.
            headers: further header lines.
            repeats: whether to send it again without looking, if it may have arrived although no answer has.
            before: the file that is there already and will be replaced, if there is one.

        Returns:
            The answer; None if it was lost, and a file of this size is there.

        Raises:
            NameRefusedError: the server takes no such name.
            LocationError: there is a folder of this name.
        """
        try:
            return self._put(key, source, *headers, repeats=repeats, before=before)
        except errors.StorageError as error:
            check_not_the_name(self._address.location, key, error)
            raise

    def _put(self, key: str, source: Source, *headers: str, repeats: bool, before: Entry | None) -> Response | None:
        request = Request(
            self._address.url(key),
            method="PUT",
            source=source,
            headers=headers,
            expected_bytes=source.size_bytes,
            repeats=repeats,
        )
        patience = self._dav.patience
        failures = missing = 0
        while True:
            try:
                return self._dav.transport.send(request)
            except errors.NotFoundError:  # a missing parent: 404 on Nextcloud, 409 elsewhere
                missing += 1
                if missing > 1:
                    self._refuse_folder(key)
                    raise
                self._folders.make(key.rpartition("/")[0])
            except (errors.ServerUnavailableError, errors.DeadlineError) as error:
                failures += 1
                if repeats or isinstance(error, errors.TLSError) or failures >= patience.tries:
                    raise
                asked_s = error.retry_after_s if isinstance(error, errors.ServerUnavailableError) else None
                time.sleep(patience.pause_s(failures, asked_s))
                if self._listings.size_of(key) == source.size_bytes:
                    return None
            except (errors.OutOfSpaceError, errors.ServerError):
                self._refuse_folder(key)
                if not repeats:
                    self._remove_part(key, source.size_bytes, before)
                raise

    def before(self, key: str) -> Entry | None:
        """The file that an earlier attempt has left at a key.

        Raises:
            LocationError: there is a folder of this name, and the server shows it.
        """
        try:
            return self._listings.stat(key)
        except FolderError as error:
            raise errors.LocationError(
                f"{self._address.location}: there is a folder of this name: {key!r}; nothing was written"
            ) from error
        except errors.NotFoundError:
            return None

    def _refuse_folder(self, key: str) -> None:
        """Say what is wrong if a PUT failed because there is a folder: servers have five answers to that."""
        try:
            self.before(key)
        except errors.LocationError:
            raise
        except errors.StorageError:  # then the PUT's own error says more
            return

    def _remove_part(self, key: str, size_bytes: int, before: Entry | None) -> None:
        """Remove what some servers keep of a PUT that failed: on a full disk it would stand in the way of the next.

        A DELETE removes whole folders too, whoever made them. So a file is removed only if it is shorter than what was
        sent, and is not the one from before.
        """
        with suppress(errors.StorageError):
            part = self._listings.stat(key)
            if part.size_bytes < size_bytes and not (before is not None and before.is_same_version(part)):
                self._dav.send("DELETE", self._address.url(key), tries=1)

    def remove_file(self, key: str, headers: dict[str, str] | None = None) -> Span | None:
        """Remove a file, and never a folder: a DELETE would take all that is in it.

        Returns:
            When the server removed it; None if it was not there any more, or the server gives no time.
        """
        self._listings.stat(key)
        return self._removed(self._address.url(key), key, headers)

    def remove_folder(self, key: str, headers: dict[str, str] | None = None) -> Span | None:
        """Remove a folder and all below it, by one DELETE.

        Returns:
            When the server removed it; None if it was not there, or the server gives no time.
        """
        self._folders.forget(key)
        return self._removed(f"{self._address.url(key)}/", key, headers)

    def _removed(self, url: str, key: str, headers: dict[str, str] | None) -> Span | None:
        begun_s = time.monotonic()
        try:
            answer = self._dav.send("DELETE", url, headers)
        except errors.NotFoundError:  # a first try whose answer was lost may have removed it
            return None
        if answer.status == 207 and url.endswith("/"):  # RFC 4918, 9.6.1: it names what could not be removed
            raise errors.ServerError(
                f"{self._address.location}: {key!r}: the server could not remove all that is in it (207)"
            )
        return _span(answer, begun_s)


def _span(answer: DavAnswer, begun_s: float) -> Span | None:
    """When the server worked on a request, by its own clock; None if it gives none."""
    try:
        answered_s = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    return answered_s - (time.monotonic() - begun_s), answered_s
