"""The error that a refused or broken request stands for, in the same words for bytes and for DAV verbs."""

from __future__ import annotations

import html
import os
import re
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import proxies, redirects
from ai4os_data.http.statuses import OF_PROXY, status_of
from ai4os_data.locations import origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.http.statuses import Status
    from ai4os_data.locations import Remote

SILENT = (errors.ServerUnavailableError, errors.DeadlineError, errors.ThrottledError)
"""Errors that concern the server as a whole, and no single file."""
NO_ANSWER = (*SILENT, errors.LockedError)
"""Errors that leave open whether the server has carried out the request, or still will."""

_SAID = re.compile(rb"<s:message>([^<]{1,300})</s:message>")


def untrusted(what: str, url: str, message: str) -> errors.TLSError:
    """The error if TLS fails, for example because no trusted authority signed the certificate."""
    return errors.TLSError(
        f"{what}: no trusted connection to {origin_of(url)} ({message}). If it uses an authority of your own, pass "
        "Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
    )


def late(what: str, url: str, message: str) -> errors.DeadlineError:
    """The error if no answer came in time."""
    return errors.DeadlineError(f"{what}: {message}{proxies.through(url, os.environ)}")


def unreachable(what: str, url: str, message: str) -> errors.ServerUnavailableError:
    """The error if there is no connection, or it broke."""
    return errors.ServerUnavailableError(
        f"{what}: {message}. Is {origin_of(url)} up, and reachable from this machine?{proxies.through(url, os.environ)}"
    )


def no_way(what: str, url: str, said: object) -> str:
    """What to say if a proxy opens no connection to a server."""
    return f"{what}: the proxy opens no connection ({said}){proxies.through(url, os.environ)}"


def compressed(kind: str) -> str:
    """What to say about bytes that the server has compressed on the way."""
    return (
        f"the server compresses it ({kind}) although the plain file was asked for; turn compression off for this path "
        "on the server"
    )


def wrong_credentials(remote: Remote) -> str:
    """What to say, and to do, about a 401."""
    where = f"remote {remote.name!r}" if remote.name else remote.origin
    if "/public.php/" in remote.url:
        return (
            f"{where}: this public share asks for a password (401), or does not accept the one that is given: give it "
            "as https://anonymous:PASSWORD@HOST/s/TOKEN"
        )
    if not remote.has_credentials:
        return (
            f"{where} asks for credentials (401), and none are here: pass remote=Remote(url, user, password), or the "
            "name of a remote that `rclone config` or a linked storage has set up"
        )
    whose = (
        "the headers"
        if remote.headers
        else "the token"
        if remote.token or remote.token_command
        else f"the credentials of user {remote.user!r}"
    )
    return (
        f"{where} does not accept {whose} (401). They may be wrong or expired: make a new app password on the server, "
        "then set it with `rclone config` or relink the storage. No further request is sent with these, since servers "
        "shut an address out after a few wrong tries."
    )


def error_for_status(
    status: int, what: str, headers: Mapping[str, str], remote: Remote, *, is_upload: bool = False, page: bytes = b""
) -> errors.StorageError:
    """The error that an HTTP status stands for, as the table of statuses has it.

    Args:
        status: the answer's.
        what: what was asked for.
        headers: the answer's, in lower case.
        remote: who was asked.
        is_upload: whether something was to be stored: then the message says what to do about that.
        page: the beginning of the body that came with it.
    """
    row = status_of(status)
    meaning = f"{what}: {_meaning(status, row, headers, remote)}"
    if status == 401:
        meaning = wrong_credentials(remote)
    if status == 507 and (said := _SAID.search(page)) is not None:
        meaning = f"{meaning}. The server says: {html.unescape(said[1].decode('utf-8', 'replace'))}"
    if is_upload and row.advice:
        meaning = f"{meaning}: {row.advice}"
    error = row.error(meaning)
    error.status = status
    return error


def _meaning(status: int, row: Status, headers: Mapping[str, str], remote: Remote) -> str:
    if 300 <= status < 400 and not headers.get("location"):
        return f"the server redirects this, and does not say where to ({status})"
    if 300 <= status < 400:
        there = redirects.absolute(f"{remote.url}/", headers.get("location", ""))
        return (
            f"the server says that this is now at {redirects.shown(there)} ({status}). If the data is there, "
            "give that as the location, or as the remote's url; if it is a page to log in, this is not the WebDAV "
            "address"
        )
    hint = ""
    if status == 429 and "retry-after" not in headers:
        hint = (
            ". Without a Retry-After this may be the lock-out after wrong passwords, which holds for some minutes and "
            "for the right password too."
        )
    way = proxies.through(remote.url, os.environ) if status in OF_PROXY else ""
    return f"{row.meaning} ({status}){way}{hint}"
