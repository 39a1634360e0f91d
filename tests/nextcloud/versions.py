"""The versions of Nextcloud that the double can be, and where their answers differ."""

from __future__ import annotations

from dataclasses import dataclass

_DAV = "1, 3, extended-mkcol, access-control, calendarserver-principal-property-search, "
_VERBS = "OPTIONS, GET, HEAD, DELETE, PROPFIND, PUT, PROPPATCH, COPY, MOVE, REPORT"
_APP_API = "AppAPIAuth has not passed, This request is not for a federated calendar, "


@dataclass(frozen=True)
class Version:
    """What one version says and can do."""

    number: str
    allow: str
    dav: str
    legacy_dav: str
    other_logins: str
    archives: bool
    locks: bool
    tells_owner: bool
    tells_free_space: bool
    forbidden_endings: tuple[str, ...]
    checks_folders: bool
    """Whether a folder needs 4,096 bytes of the quota."""
    skips_trash: bool
    """Whether ``X-NC-Skip-Trashbin: true`` lets a DELETE go past the trash bin (tried on 32.0.1, and on 29.0.6 not)."""
    streams_legacy: bool
    """Whether a PROPFIND at the older endpoint has its 207 before it is known whether there is anything (33.0.7 on)."""


VERSIONS = {
    "34": Version(
        number="34.0.1.2",
        allow=f"{_VERBS}, LOCK, UNLOCK",
        dav=f"{_DAV}nc-paginate, nextcloud-checksum-update, nc-calendar-search, nc-enable-birthday-calendar, 2",
        legacy_dav="1, 3, extended-mkcol, nextcloud-checksum-update, 2",
        other_logins=_APP_API,
        archives=True,
        locks=True,
        tells_owner=True,
        tells_free_space=False,
        forbidden_endings=(".filepart", ".part"),
        checks_folders=True,
        skips_trash=True,
        streams_legacy=True,
    ),
    "29": Version(
        number="29.0.1.1",
        allow=_VERBS,
        dav=f"{_DAV}nextcloud-checksum-update, nc-calendar-search, nc-enable-birthday-calendar",
        legacy_dav="1, 3, extended-mkcol, nextcloud-checksum-update",
        other_logins="",
        archives=False,
        locks=False,
        tells_owner=False,
        tells_free_space=True,
        forbidden_endings=(),
        checks_folders=False,
        skips_trash=False,
        streams_legacy=False,
    ),
}
