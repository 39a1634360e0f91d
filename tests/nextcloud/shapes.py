"""Shapes of bodies: what of a body is the same on every run, and how to tell.

The body of a recording and that of a live answer are looked at in the same way, as far as the recording
goes: of bytes it keeps the size and the sha256, of some archives what is in them.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from xml.etree import ElementTree as ET

from tests.nextcloud.answers import error_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ETAG = r'"[0-9a-f]{32}"'
FOLDER_ETAG = r'"[0-9a-f]{13}"'
FILE_ID = r"\d{8,}oc[0-9a-z]{10}"
DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
NUMBER = r"\d+"
_SUMMARY = re.compile(r"<(\d+) bytes, sha256 ([0-9a-f]{64})>")
_RESOURCE_END = "</d:response>"
_LISTING_END = "</d:multistatus>"
_PREFIXES = {"{DAV:}": "d:", "{http://owncloud.org/ns}": "oc:", "{http://nextcloud.org/ns}": "nc:"}


class ZipEntry(NamedTuple):
    """What the directory of a zip says of a member."""

    name: str
    size_bytes: int
    crc32: str
    method: int
    flags: int


@dataclass(frozen=True)
class Seen:
    """A body, as much of it as is known.

    ``text`` is None where it is bytes, ``entries`` where it is no zip. What is ``partial`` is a listing that
    the recorder has cut off: it has the resources that were whole.
    """

    text: str | None
    size_bytes: int
    sha256: str
    entries: list[ZipEntry] | None = None
    partial: bool = False

    @classmethod
    def recorded(cls, response: Mapping[str, Any]) -> Seen:
        """Read what a recording keeps."""
        body = response["body"]
        entries = None
        if "zip_entries" in response:
            entries = [ZipEntry(*entry.values()) for entry in response["zip_entries"]]
        summary = _SUMMARY.fullmatch(body)
        if summary:
            return cls(None, int(summary[1]), summary[2], entries)
        partial = "<d:multistatus" in body and _LISTING_END not in body
        if partial:
            body = body[: body.rindex(_RESOURCE_END)] + _RESOURCE_END + _LISTING_END
        encoded = body.encode()
        return cls(body, len(encoded), hashlib.sha256(encoded).hexdigest(), entries, partial)

    @classmethod
    def live(cls, body: bytes, content_type: str) -> Seen:
        """Look at what has come."""
        entries = None
        if content_type == "application/zip":
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                assert archive.testzip() is None
                entries = [
                    ZipEntry(info.filename, info.file_size, f"{info.CRC:08x}", info.compress_type, info.flag_bits)
                    for info in archive.infolist()
                ]
        is_text = content_type.startswith("text/html") or "xml" in content_type or "json" in content_type
        return cls(body.decode() if is_text else None, len(body), hashlib.sha256(body).hexdigest(), entries)


class Shape(Protocol):
    """Tells whether a body has it."""

    def check(self, body: Seen) -> None:
        """Fail where it has not."""


@dataclass(frozen=True)
class Bytes:
    """These bytes, and no others; by default none at all."""

    content: bytes = b""

    def check(self, body: Seen) -> None:
        """Compare sizes and hashes."""
        assert body.size_bytes == len(self.content)
        assert body.sha256 == hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Sized:
    """Some bytes, that many: a tar has times in it, and a multipart a boundary."""

    size_bytes: int

    def check(self, body: Seen) -> None:
        """Compare sizes."""
        assert body.size_bytes == self.size_bytes


@dataclass(frozen=True)
class Text:
    """A text that has all of these in it, each a regular expression."""

    patterns: Sequence[str]

    def check(self, body: Seen) -> None:
        """Search for each."""
        assert body.text is not None
        for pattern in self.patterns:
            assert re.search(pattern, body.text), f"no {pattern} in {body.text}"


@dataclass(frozen=True)
class Refused:
    """The XML of an exception of sabre/dav."""

    kind: str
    message: str = ""
    header: str | None = None

    def check(self, body: Seen) -> None:
        """Compare all of it; the message is a regular expression."""
        more = f"\n  <s:header>{self.header}</s:header>" if self.header else ""
        expected = re.escape(error_body(self.kind, "MESSAGE" if self.message else "", more).decode())
        assert body.text is not None
        assert re.fullmatch(expected.replace("MESSAGE", self.message), body.text), body.text


@dataclass(frozen=True)
class Zip:
    """A stored zip of these members, name and content, with CRC-32 and data descriptors."""

    size_bytes: int
    members: Mapping[str, bytes] | None = None

    def check(self, body: Seen) -> None:
        """Compare the size, and the directory where it is known."""
        assert body.size_bytes == self.size_bytes
        if self.members is not None and body.entries is not None:
            assert body.entries == [
                ZipEntry(name, len(content), f"{zlib.crc32(content):08x}", 0, 8 if name.isascii() else 0x808)
                for name, content in self.members.items()
            ]


@dataclass(frozen=True)
class Properties:
    """What a multistatus says of one resource: patterns of those it has, in order, and those that it lacks."""

    found: Mapping[str, str]
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Listing:
    """A multistatus of these hrefs, in any order but for the first."""

    resources: Mapping[str, Properties]

    def check(self, body: Seen) -> None:
        """Compare hrefs, names of properties, and their values with the patterns."""
        assert body.text is not None
        seen = dict(_read_response(element) for element in ET.fromstring(body.text))  # noqa: S314
        assert next(iter(seen)) == next(iter(self.resources))
        assert seen.keys() <= self.resources.keys() if body.partial else seen.keys() == self.resources.keys()
        for href, (found, missing) in seen.items():
            expected = self.resources[href]
            assert list(found) == list(expected.found), href
            assert missing == list(expected.missing), href
            for name, pattern in expected.found.items():
                assert re.fullmatch(pattern, found[name]), f"{href}: {name}: {found[name]}"


def _read_response(response: ET.Element) -> tuple[str, tuple[dict[str, str], list[str]]]:
    found: dict[str, str] = {}
    missing: list[str] = []
    for propstat in response.iterfind("{DAV:}propstat"):
        is_found = propstat.findtext("{DAV:}status") == "HTTP/1.1 200 OK"
        for prop in propstat.iterfind("{DAV:}prop"):
            for element in prop:
                if is_found:
                    found[_name(element)] = _content(element)
                else:
                    missing.append(_name(element))
    return response.findtext("{DAV:}href") or "", (found, missing)


def _content(element: ET.Element) -> str:
    return "".join(f"<{_name(child)}>{child.text or ''}" for child in element) or element.text or ""


def _name(element: ET.Element) -> str:
    namespace, brace, local = element.tag.rpartition("}")
    return _PREFIXES[namespace + brace] + local
