"""An entry is a plain file whose name says what it holds: digest, size and checksum.

``objects/a/<digest>-<size>-<xxh3><suffix>``: the digest stands for store, key and version; size and checksum are those
of the content. So an entry can be checked without asking anyone.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

import xxhash

from ai4os_data.cache.staged import STAGED_SUFFIX

DIGEST_DIGITS = 32

_LOCK_DIGITS = 15  # 60 bits, added to the first byte of claims or of pins
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]+)-([0-9a-f]{16})((?:\.[a-z0-9_+-]+)*)")
_SUFFIX = re.compile(r"(?:\.[a-z][a-z0-9_+-]{0,31}){0,3}\.[a-z0-9][a-z0-9_+-]{0,31}\Z")
_LONGEST_SUFFIX = 64


class Held(NamedTuple):
    """A cached file: where it is, its size, its checksum (xxh3, 64 bit) and the digest it is found by."""

    path: str
    size_bytes: int
    checksum: int
    name: str


def digest(*parts: str) -> str:
    """The name for what these parts describe, 32 hex digits."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def lock_byte(name: str, first: int) -> int:
    """The byte of the cache's lock file that a digest names, among those from the first one on."""
    return first + int(name[:_LOCK_DIGITS], 16)


def full_name(name: str, size_bytes: int, checksum: int, key: str) -> str:
    """The name of the file of an entry: with the suffix of its key, for readers that look at it."""
    return f"{name}-{size_bytes:x}-{checksum:016x}{suffix_of(key)}"


def held_at(path: str) -> Held | None:
    """The entry that a path names; None if it names none."""
    match = _NAME.fullmatch(path, path.rindex("/") + 1)
    return Held(path, int(match[2], 16), int(match[3], 16), match[1]) if match is not None else None


def relative_name(held: Held) -> str:
    """A file's name below ``objects``, as the index keeps it."""
    return "/".join(held.path.rsplit("/", 2)[1:])


def intact(held: Held) -> bool:
    """Whether a file is what its name says, read piece by piece."""
    hasher = xxhash.xxh3_64()
    length = 0
    try:
        with open(held.path, "rb", buffering=0) as file:
            while piece := file.read(1 << 22):
                hasher.update(piece)
                length += len(piece)
    except OSError:
        return False
    return length == held.size_bytes and hasher.intdigest() == held.checksum


def suffix_of(key: str) -> str:
    """The suffix that a key gives its file, for readers that look at it, in lower case; empty if it is an odd one.

    It is all of ``.nii.gz`` and ``.ome.tiff``; of ``day.2026.jpg`` it is ``.jpg``, since ``.2026`` is no suffix.
    """
    name = key[key.rfind("/") + 1 :].lstrip(".").lower()
    match = _SUFFIX.search(name, max(0, len(name) - _LONGEST_SUFFIX))
    suffix = match[0] if match is not None and match.start() > 0 else ""
    return "" if suffix.endswith(STAGED_SUFFIX) else suffix
