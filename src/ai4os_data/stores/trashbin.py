"""Nextcloud's trash bin: what this process has removed for good does not stay in it.

From Nextcloud 31 or so on a header of the DELETE skips the bin. If a server ignores it, the entry is looked for by
its original location and by the time when it was deleted, and removed by its name. Nothing else in the bin is touched,
and a bin that cannot be read or changed is no error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ai4os_data import errors
from ai4os_data.stores.forms import quoted, unquoted
from ai4os_data.stores.multistatus import NotMultistatusError, properties
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.stores.dav import DavClient
    from ai4os_data.stores.dav_writing import Span
    from ai4os_data.stores.nextcloud_urls import NextcloudUrls

SKIP = {"X-NC-Skip-Trashbin": "true"}

_NUMBER = re.compile(r"[0-9]{1,19}")
_CLOCKS_S = 60.0  # the Date header may be a proxy's, the deletion time is the server's
_NC = "http://nextcloud.org/ns "
_NAME, _LOCATION, _TIME = f"{_NC}trashbin-filename", f"{_NC}trashbin-original-location", f"{_NC}trashbin-deletion-time"
_SIZE = "http://owncloud.org/ns size"
_PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><d:propfind xmlns:d="DAV:" xmlns:nc="http://nextcloud.org/ns" '
    b'xmlns:oc="http://owncloud.org/ns"><d:prop><nc:trashbin-filename/><nc:trashbin-original-location/>'
    b"<nc:trashbin-deletion-time/><oc:size/></d:prop></d:propfind>"
)

# The bins that this process need not look into.
_skipped: set[tuple[str, str | None]] = set()


class Thrown(NamedTuple):
    """One entry of a trash bin.

    Attributes:
        name: in the bin: the name of what was deleted, and when.
        location: where it was, below the user's files.
        deleted_s: when it was deleted.
        size_bytes: with all that is in it.
    """

    name: str
    location: str
    deleted_s: int
    size_bytes: int


class TrashBin:
    """The trash bin of a user.

    Args:
        dav: asks the server.
        urls: where it is.
    """

    def __init__(self, dav: DavClient, urls: NextcloudUrls) -> None:
        self._dav = dav
        self._url = urls.trash_url
        self._above = f"{urls.below}/" if urls.below else ""
        self._bin = urls.trash_url, dav.remote.user

    def entries(self) -> list[Thrown]:
        """What lies in it.

        Raises:
            StorageError: the bin cannot be listed.
        """
        headers = {"Depth": "1", "Content-Type": "application/xml"}
        answer = self._dav.send("PROPFIND", f"{self._url}/", headers, _PROPFIND, tries=1)
        try:
            found = properties(answer.body, [_NAME, _LOCATION, _TIME, _SIZE])
        except NotMultistatusError as error:
            raise errors.ProtocolError(f"{self._url}: no listing of a trash bin ({error})") from error
        thrown = (self._thrown(href, texts) for href, texts in found)
        return [each for each in thrown if each is not None]

    def expunge(self, gone: Mapping[str, Span | None]) -> None:
        """Remove from the bin what was deleted just now.

        Args:
            gone: paths below the remote's folder, and when the server deleted them, by its own clock.
        """
        if self._bin in _skipped:
            return
        try:
            ours = [each for each in self.entries() if self._is_one_of(each, gone)]
            for each in ours:
                self._dav.send("DELETE", f"{self._url}/{quoted(each.name)}", tries=1)
        except errors.StorageError as error:
            log.info("what was removed may lie in the trash bin of the server: %s", error)
            if isinstance(error, errors.NotFoundError | errors.PermissionDeniedError):
                _skipped.add(self._bin)  # there is none, or it is not ours to change
        else:
            if not ours and any(span is not None for span in gone.values()):
                _skipped.add(self._bin)

    def _is_one_of(self, thrown: Thrown, gone: Mapping[str, Span | None]) -> bool:
        """Whether an entry is what was deleted just now: the same path, at this time, and a name made of the two."""
        if not thrown.location.startswith(self._above):
            return False
        span = gone.get(thrown.location.removeprefix(self._above))
        return span is not None and span[0] - _CLOCKS_S <= thrown.deleted_s <= span[1] + _CLOCKS_S

    def _thrown(self, href: str, texts: Mapping[str, str]) -> Thrown | None:
        """An entry of the bin, whose name says what it is and when it was deleted; None for the bin itself."""
        name = unquoted(urlsplit(href).path).rstrip("/").rpartition("/")[2]
        location, time, size = texts.get(_LOCATION, ""), texts.get(_TIME, ""), texts.get(_SIZE, "")
        if not (location and _NUMBER.fullmatch(time)) or name != f"{texts.get(_NAME)}.d{time}":
            return None
        if location.rpartition("/")[2] != texts.get(_NAME):
            return None
        return Thrown(name, location, int(time), int(size) if _NUMBER.fullmatch(size) else 0)
