"""The head of a server's answer, read: status, ETag, length, range and compression."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_THERE = re.compile(
    rb"<s:exception>Sabre\\DAV\\Exception\\ServiceUnavailable</s:exception>\s*"
    rb"<s:message>Sabre\\DAV\\Exception\\NotFound\b"
)
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

    Asking again would count as another guess of a link; after a few, the server shuts this machine's address out.
    """
    return 404 if status == 503 and _NOT_THERE.search(body) is not None else status


def plain_etag(etag: str | None) -> str | None:
    """An ETag without quotes and ``W/``, so that a listing and a GET can be compared."""
    return etag.removeprefix("W/").strip('"') if etag else None


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
