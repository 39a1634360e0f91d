"""Redirects of files: which are followed, and what messages show of where they lead.

dCache, and gateways before S3, answer a GET with the address of the host that has the bytes, often signed in its query.
So a GET is followed, though never from https to http, and messages show the address without its query. The transport
sends credentials to no other host.
"""

from __future__ import annotations

from urllib.parse import quote, urldefrag, urljoin, urlsplit

from ai4os_data import errors
from ai4os_data.locations import parsing as locations

MOST_HOPS = 10
STATUSES = frozenset({301, 302, 303, 307, 308})
_IN_ADDRESSES = "".join(map(chr, range(0x21, 0x7F)))


def target(url: str, location: str, what: str) -> str:
    """The address that a redirect leads to, as it goes on the wire.

    Args:
        url: the address that was asked.
        location: the answer's ``Location``, decoded as Latin-1.
        what: the request, for messages.

    Raises:
        ProtocolError: it is no address of a file, or leads from https to http.
    """
    there = absolute(url, location)
    try:
        parts = urlsplit(there)
        is_address = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # of brackets that are no IPv6 address, or a port that is no number
        is_address = False
    if not location or not is_address or parts.scheme not in {"http", "https"}:
        raise errors.ProtocolError(f"{what}: the server redirects to {shown(there)!r}, which is no address of a file")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise errors.ProtocolError(
            f"{what}: the server redirects from https to {shown(there)}, where the bytes would come unprotected. This "
            "is not followed: ask its administrators for redirects to https"
        )
    return there


def absolute(url: str, location: str) -> str:
    """Where a ``Location`` leads, encoded, without its fragment; the text itself if it cannot be parsed."""
    encoded = quote(location.encode("latin-1", "replace"), safe=_IN_ADDRESSES)
    try:
        return urldefrag(urljoin(url, encoded)).url
    except ValueError:
        return encoded


def shown(address: str) -> str:
    """An address as messages may show it: without credentials, and without a query, which may be a signature."""
    return locations.shown(address.partition("#")[0].partition("?")[0])
