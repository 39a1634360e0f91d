"""PROPFIND: which properties are asked for, and the multistatus that answers."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.nextcloud.answers import XML, Answer, RefusalError, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DAV = "{DAV:}"
OC = "{http://owncloud.org/ns}"
NC = "{http://nextcloud.org/ns}"
_PREFIXES = {DAV: "d:", OC: "oc:", NC: "nc:"}
NAMESPACES = (
    'xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns" '
    'xmlns:oc="http://owncloud.org/ns" xmlns:nc="http://nextcloud.org/ns"'
)
_ALL = [
    f"{DAV}getlastmodified",
    f"{DAV}getcontentlength",
    f"{DAV}resourcetype",
    f"{DAV}quota-used-bytes",
    f"{DAV}quota-available-bytes",
    f"{DAV}getetag",
    f"{DAV}getcontenttype",
]
# As sabre/dav's encodePath: lower-case hexadecimal digits, and few characters that stay.
_KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.~()/")
_ENCODED = [chr(byte) if byte in _KEPT else f"%{byte:02x}" for byte in range(256)]


class Resource(NamedTuple):
    """One response of a multistatus: a decoded path, and the content of each property that it has, as XML."""

    path: str
    properties: Mapping[str, str]


class Wanted(NamedTuple):
    """The properties that are asked for; what a resource lacks is told unless all were meant."""

    names: list[str]
    all: bool

    def any_of(self, *names: str) -> bool:
        """Whether one of these is asked for."""
        return not set(names).isdisjoint(self.names)


def read_wanted(body: bytes) -> Wanted:
    """Read the body of a PROPFIND."""
    if not body.strip():
        return Wanted(_ALL, all=True)
    try:
        root = ET.fromstring(body)  # noqa: S314  the clients are the tests
    except ET.ParseError as error:
        message = f"This request is not valid XML: {error}"
        raise bad_request(message) from error
    prop = root.find(f"{DAV}prop")
    return Wanted(_ALL, all=True) if prop is None else Wanted([element.tag for element in prop], all=False)


def multistatus(resources: Iterable[Resource], wanted: Wanted, headers: dict[str, str], *, zipped: bool) -> Answer:
    """Return the answer to a PROPFIND, compressed where the client takes that."""
    qualified = {name: _qualified(name) for name in wanted.names}
    body = "".join(_response(resource, wanted, qualified) for resource in resources)
    xml = f'<?xml version="1.0"?>\n<d:multistatus {NAMESPACES}>{body}</d:multistatus>\n'.encode(
        "utf-8", "surrogateescape"
    )
    headers = {**headers, "Content-Type": XML, "Vary": "Brief,Prefer"}
    if zipped:
        return Answer(207, {**headers, "Content-Encoding": "gzip"}, gzip.compress(xml, compresslevel=6))
    return Answer(207, headers, xml)


def torn_multistatus(refusal: RefusalError, headers: dict[str, str]) -> Answer:
    """Return a refusal under a 207: the error, and then what was begun of a multistatus before it was known."""
    xml = refusal.body + f'<?xml version="1.0"?>\n<d:multistatus {NAMESPACES}'.encode()
    return Answer(207, {**headers, "Content-Type": XML, "Vary": "Brief,Prefer"}, xml)


def quoted(etag: str) -> str:
    """Return an ETag as it stands in XML."""
    return f"&quot;{etag}&quot;"


def encode_path(path: str) -> str:
    """Return a path as it stands in an href."""
    return "".join([_ENCODED[byte] for byte in path.encode("utf-8", "surrogateescape")])


def _response(resource: Resource, wanted: Wanted, qualified: dict[str, tuple[str, str]]) -> str:
    found, missing = [], []
    for name in wanted.names:
        content = resource.properties.get(name)
        opening, closing = qualified[name]
        if content is None:
            missing.append(f"<{opening}/>")
        else:
            found.append(f"<{opening}>{content}</{closing}>" if content else f"<{opening}/>")
    parts = [f"<d:response><d:href>{encode_path(resource.path)}</d:href>"]
    if found or not missing:
        parts.append(_propstat(found, "200 OK"))
    if missing and not wanted.all:
        parts.append(_propstat(missing, "404 Not Found"))
    return "".join([*parts, "</d:response>"])


def _propstat(elements: list[str], status: str) -> str:
    return f"<d:propstat><d:prop>{''.join(elements)}</d:prop><d:status>HTTP/1.1 {status}</d:status></d:propstat>"


def _qualified(name: str) -> tuple[str, str]:
    namespace, brace, local = name.rpartition("}")
    prefix = _PREFIXES.get(namespace + brace)
    if prefix is not None:
        return prefix + local, prefix + local
    return f'x1:{local} xmlns:x1="{escape(namespace[1:])}"', f"x1:{local}"
