"""The conditions and ranges that a request may come with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.nextcloud.answers import Answer, RefusalError, precondition_failed

if TYPE_CHECKING:
    from collections.abc import Callable

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def check_conditions(headers: dict[str, str], etag: Callable[[], str | None], *, reading: bool) -> Answer | None:
    """Refuse what If-Match and If-None-Match forbid; answer 304 where there is nothing new to read.

    Args:
        headers: Those of the request.
        etag: Tells the quoted ETag of what is there, None if nothing is.
        reading: Whether the request is a GET or a HEAD.
    """
    wanted = headers.get("if-match")
    if wanted is not None:
        there = etag()
        if there is None:
            message = "An If-Match header was specified and the resource did not exist"
            raise precondition_failed(message, "If-Match")
        if not _matches(wanted, there):
            message = "An If-Match header was specified, but none of the specified ETags matched."
            raise precondition_failed(message, "If-Match", ETag=there)
    unwanted = headers.get("if-none-match")
    if unwanted is not None:
        there = etag()
        if there is not None and _matches(unwanted, there):
            if reading:
                return Answer(304, {"ETag": there})
            message = "An If-None-Match header was specified, but the ETag matched (or * was specified)."
            raise precondition_failed(message, "If-None-Match")
    return None


def wanted_ranges(headers: dict[str, str], size_bytes: int, etag: str) -> list[tuple[int, int]]:
    """Return the (start, stop) that are asked for: none for all of it, or refuse with 416."""
    header = headers.get("range", "")
    if not header.startswith("bytes=") or headers.get("if-range", etag) != etag:
        return []
    specs = [_RANGE.fullmatch(f"bytes={spec.strip()}") for spec in header[6:].split(",")]
    ranges = []
    for spec in specs:
        if spec is None or not (spec[1] or spec[2]):
            return []
        if not spec[1]:
            ranges.append((max(0, size_bytes - int(spec[2])), size_bytes))
            continue
        start, stop = int(spec[1]), min(size_bytes, int(spec[2]) + 1 if spec[2] else size_bytes)
        if start >= size_bytes or stop <= start:
            if len(specs) > 1:
                continue  # Apache cuts these, and leaves out what is not there
            if start >= size_bytes:
                message = f"The start offset ({start}) exceeded the size of the entity ({size_bytes})"
            else:
                message = f"The end offset ({stop - 1}) is lower than the start offset ({start})"
            raise RefusalError(416, r"Sabre\DAV\Exception\RequestedRangeNotSatisfiable", message)
        ranges.append((start, stop))
    return ranges


def _matches(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (each.strip() for each in header.split(","))
