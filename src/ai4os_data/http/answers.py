"""What a server's answer says: its head, its ETag, and the error that a status stands for."""

from __future__ import annotations

import html
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ai4os_data.http import proxies, redirects
from ai4os_data.http.statuses import OF_PROXY, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data import errors
    from ai4os_data.http.statuses import Status
    from ai4os_data.locations import Remote

_NOT_THERE = re.compile(
    rb"<s:exception>Sabre\\DAV\\Exception\\ServiceUnavailable</s:exception>\s*"
    rb"<s:message>Sabre\\DAV\\Exception\\NotFound\b"
)
_SAID = re.compile(rb"<s:message>([^<]{1,300})</s:message>")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})


def parse_head(lines: list[bytes]) -> tuple[int, dict[str, str]]:
    """Status and headers (names in lower case) of the last head among the lines; 0 if there is none."""
    status_line = ""
    headers: dict[str, str] = {}
    for line in b"".join(lines).decode("latin-1").split("\n"):  # some servers end lines without a carriage return
        name, colon, value = line.partition(":")
        if line.startswith("HTTP/"):
            status_line, headers = line, {}
        elif colon:
            headers[name.lower()] = value.strip()
    status = status_line.partition(" ")[2].lstrip()[:3]  # curl takes "200OK" too
    return int(status) if status.isascii() and status.isdigit() else 0, headers


def status_meant(status: int, body: bytes) -> int:
    """The status that an answer should have had: for a public share that does not exist, Nextcloud answers 503.

    Another request would count as one more guess of a link, and soon shut the address out.
    """
    return 404 if status == 503 and _NOT_THERE.search(body) is not None else status


def plain_etag(etag: str | None) -> str | None:
    """An ETag without its quotes and mark of weakness, so that a listing and a GET can be compared."""
    return etag.removeprefix("W/").strip('"') if etag else None


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


def host_of(authority: str) -> str | None:
    """The host in the authority of a URL, without port and in lower case."""
    try:
        return urlsplit(f"//{authority}").hostname
    except ValueError:  # brackets that are no IPv6 address
        return None


def content_length(headers: Mapping[str, str]) -> int | None:
    """The length that an answer promises; None if it promises none."""
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def compression(headers: Mapping[str, str]) -> str | None:
    """The ``Content-Encoding`` of an answer if it names a compression; ``none``, ``utf-8`` and the like mean nothing.

    The header alone does not say whether the server compressed the file or stores it so: Apache's AddEncoding labels
    stored ``.gz`` files. The length does.
    """
    value = headers.get("content-encoding", "")
    return value if _COMPRESSIONS & {token.strip().lower() for token in value.split(",")} else None


def content_range(headers: Mapping[str, str]) -> tuple[int, int | None] | None:
    """The first byte of a partial answer, and the size of the whole if it is given; None without a valid range."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None:
        return None
    return int(match[1]), None if match[3] == "*" else int(match[3])
