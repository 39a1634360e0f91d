"""One table of HTTP statuses: what each one means, whether it passes by itself, and what to do about it.

Reads and writes use it alike, over bytes and over DAV verbs. A status has one of four standings: it passes by
itself, it lasts, it is of one file, or it is of the credentials.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ai4os_data import errors

ADDRESS = "https://HOST/remote.php/dav/files/USER"


class Standing(Enum):
    """How long an answer stands."""

    PASSING = "passing"
    """It passes by itself: the server is away, busy, full or broken for now."""
    LASTING = "lasting"
    """The server refuses such a request each time, until somebody changes something."""
    OF_ONE_FILE = "of one file"
    """It says something of this file, or of the folder above it, and nothing of the server."""
    CREDENTIALS = "credentials"
    """No request is answered otherwise before the credentials are changed."""


class Status(NamedTuple):
    """What an answer means.

    Attributes:
        standing: how long it stands.
        error: what is raised.
        meaning: for the message.
        advice: what to do if an upload is answered so.
        of_member: what is raised if a listing says so of one of its members, and its meaning.
    """

    standing: Standing
    error: type[errors.StorageError]
    meaning: str
    advice: str = ""
    of_member: tuple[type[errors.StorageError], str] | None = None


AWAY = frozenset({429, 502, 503, 504, 520, 521, 522, 523, 524})
"""The server answers nothing else for now."""
RETRIED = AWAY | {408, 423, 425}
"""The request itself is sent again: a few times, or for as long as an outage is waited for."""
UNCERTAIN = AWAY - {429}
"""A gateway may say so, behind which the server may have done what was asked for."""
DOUBTFUL = frozenset({401, 403, 404, 500})
"""Not believed right after an outage: a proxy says 404 until its server is back, and the server says 401 or 500 until
its own parts are."""
OF_PROXY = (AWAY | {407, 408}) - {429, 503}
"""It may be a proxy that says so."""

_NOT_UPLOADED = f"this address takes no uploads. Nextcloud's is {ADDRESS}"
_NOT_ALLOWED = (errors.PermissionDeniedError, "not allowed with these credentials")
_LOCKED = (
    "the file is locked on the server, also after several tries. Somebody writes to it or has it open, as the "
    "server's web page shows, or a client died with it: Nextcloud drops such a lock after an hour at most. Wait, close "
    "it there, or ask the administrator to unlock it (`occ files:lock --unlock FILEID`, or its rows in oc_file_locks). "
    "A dataset with on_error='skip' leaves it out"
)
_FULL = (
    "the storage is full: the account's quota is used up, or the server's disk. Remove what is not needed, or ask for "
    "a larger quota. A Nextcloud's trash bin does not count against the quota, so that emptying it helps only a full "
    "disk"
)
_GATEWAY = "a gateway does not reach the server"
_SLOW = "a gateway waits too long for the server"


def _lasting(meaning: str, advice: str = "", error: type[errors.StorageError] = errors.ServerError) -> Status:
    return Status(Standing.LASTING, error, meaning, advice)


def _passing(
    error: type[errors.StorageError], meaning: str, of_member: tuple[type[errors.StorageError], str] | None = None
) -> Status:
    return Status(Standing.PASSING, error, meaning, of_member=of_member)


def _of_one_file(error: type[errors.StorageError], meaning: str, advice: str = "") -> Status:
    return Status(Standing.OF_ONE_FILE, error, meaning, advice)


def _away(meaning: str) -> Status:
    return _passing(errors.ServerUnavailableError, meaning)


_TABLE: dict[int, Status] = {
    400: _lasting(
        "the server does not understand the request",
        "is it the address of a WebDAV server, and does a proxy before it let uploads through?",
        errors.ProtocolError,
    ),
    401: Status(
        Standing.CREDENTIALS, errors.AuthenticationError, "the credentials are not accepted", of_member=_NOT_ALLOWED
    ),
    402: _lasting("the provider asks for a payment", "ask the provider of the storage"),
    403: Status(
        Standing.LASTING,
        *_NOT_ALLOWED,
        "choose a folder of your own, or ask its owner for the right to write; a proxy before the server may forbid "
        "uploads, too",
        of_member=_NOT_ALLOWED,
    ),
    404: _of_one_file(
        errors.NotFoundError, "no such file", "its folder is not there and cannot be made: check the location"
    ),
    405: _lasting(f"not possible there. Is it a WebDAV address? Nextcloud's is {ADDRESS}", "it takes no uploads"),
    406: _lasting("the server has no answer of the kind that was asked for", _NOT_UPLOADED),
    407: Status(
        Standing.CREDENTIALS,
        errors.PermissionDeniedError,
        "the proxy asks for credentials: put them into the variable that names it, as http://USER:PASSWORD@HOST:PORT",
    ),
    408: _passing(errors.DeadlineError, "the server waited too long for the request"),
    409: _of_one_file(
        errors.NotFoundError,
        "its folder does not exist",
        "it cannot be made either: check the location, and whether a file is in its place",
    ),
    410: _of_one_file(
        errors.NotFoundError, "no such file any more", "its folder was removed for good: save to another location"
    ),
    411: _lasting("the server asks for a length", "a proxy before it has taken the length away: go past it"),
    412: _of_one_file(
        errors.ChangedError,
        "the file is not the version that was asked for",
        "something else writes to this run: give each run a location of its own",
    ),
    413: _lasting(
        "larger than the server takes",
        "it limits the body of a request (client_max_body_size of nginx, LimitRequestBody of Apache): ask for a larger "
        f"limit, or save a smaller state. On a Nextcloud, by {ADDRESS}, large files go in chunks of 5 to 32 MiB",
    ),
    414: _lasting("the address is longer than the server takes", "save to a location with a shorter path"),
    415: _lasting("the server does not take files of this kind", _NOT_UPLOADED),
    416: _of_one_file(errors.ChangedError, "the file is shorter than it was listed"),
    417: _lasting("the server does not do what a header asks for", _NOT_UPLOADED),
    421: _lasting("another server is responsible for this address", _NOT_UPLOADED),
    422: _lasting(
        "the server understands the request and does not carry it out",
        "a filter or an application before the storage refuses it; ask the administrator",
    ),
    423: _passing(errors.LockedError, _LOCKED, of_member=(errors.LockedError, "locked on the server")),
    424: _lasting("something that the request depends on failed", "look into the server's log"),
    425: _passing(errors.ServerUnavailableError, "the server asks for another try"),
    426: _lasting("the server asks for another protocol", "is it https:// in the place of http://?"),
    428: _lasting("the server takes only conditional requests", _NOT_UPLOADED),
    429: _passing(errors.ThrottledError, "too many requests"),
    431: _lasting(
        "the headers are larger than the server takes", "shorten the path of the location, or the remote's headers"
    ),
    451: _lasting("withheld for legal reasons", "ask the provider of the storage", error=errors.PermissionDeniedError),
    500: _passing(errors.ServerError, "the server failed"),
    501: _lasting("the server does not know this kind of request", _NOT_UPLOADED),
    502: _away(_GATEWAY),
    503: _passing(errors.ServerUnavailableError, "the server is in maintenance or overloaded"),
    504: _away(_SLOW),
    505: _lasting("the server does not speak HTTP/1.1", _NOT_UPLOADED),
    506: _lasting("the server is set up in a circle", "tell the administrator"),
    507: _passing(
        errors.OutOfSpaceError, _FULL, of_member=(errors.ServerError, "the server cuts its listing off here")
    ),
    508: _lasting("the server has found a circle", "a folder there may link to one above it"),
    509: _passing(errors.ServerError, "the provider's limit of traffic is reached"),
    510: _lasting("the server asks for an extension", _NOT_UPLOADED),
    511: _lasting("the network asks to log in", "log in on a web page of this network, or go past its proxy"),
    # Of a network that delivers content before the server (Cloudflare).
    520: _away(_GATEWAY),
    521: _away(_GATEWAY),
    522: _away(_SLOW),
    523: _away(_GATEWAY),
    524: _away(_SLOW),
}

# What the table does not know: it is answered as its hundred is.
_OTHERS = {
    3: Status(
        Standing.LASTING,
        errors.ProtocolError,
        "redirected",
        "uploads follow no redirect: give the address that it leads to as the location, or as the remote's url",
    ),
    4: _lasting("an answer that is not understood", "ask the administrator what it means for an upload"),
    5: _passing(errors.ServerError, "an answer that is not understood"),
}
_NONE_OF_HTTP = _passing(errors.ProtocolError, "an answer that is not understood")


PASSING = (
    errors.ServerError,
    errors.OutOfSpaceError,
    errors.StorageGoneError,
    errors.IntegrityError,
    errors.NotFoundError,
    errors.ChangedError,
)
"""What may pass by itself, unless it came with a status that does not.

A server that is down, busy or full, a mount that is gone, bytes damaged on their way, and what somebody has removed or
changed in between."""

_OF_ONE_FILE = (errors.LocationError, errors.PreparationError)


def status_of(status: int) -> Status:
    """Its row in the table."""
    return _TABLE.get(status) or _OTHERS.get(status // 100, _NONE_OF_HTTP)


def standing_of(error: BaseException) -> Standing:
    """The standing of an error: that of the status that it came with, else that of its class."""
    if isinstance(error, errors.AuthenticationError):
        return Standing.CREDENTIALS
    if isinstance(error, errors.StorageError) and error.status is not None:
        return status_of(error.status).standing
    if isinstance(error, PASSING):
        return Standing.PASSING
    return Standing.OF_ONE_FILE if isinstance(error, _OF_ONE_FILE) else Standing.LASTING


def passes(error: BaseException) -> bool:
    """Whether what an upload failed with may pass by itself, so that it is tried again for as long as it takes."""
    return standing_of(error) is Standing.PASSING
