"""Files as one zip or tar, streamed: the way to read many with one request, since Nextcloud 31.

The zip is byte for byte as long as the real one: stored, with data descriptors, all of it zip64.
"""

from __future__ import annotations

import json
import os
import struct
import tarfile
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from tests.nextcloud.answers import TornError, error_body, not_found
from tests.nextcloud.costs import wait_until
from tests.nextcloud.tree import base_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.nextcloud.faults import ArchiveFaults
    from tests.nextcloud.tree import Node, Tree

_BLOCK_BYTES = 256 << 10
_SENT_AT_ONCE_BYTES = 32 << 10
_ZIP64 = 45
_DESCRIPTOR_FOLLOWS = 0x0008
_UTF8 = 0x0800
_UNKNOWN = 0xFFFFFFFF
_NAMES_LIMIT = 0xFFFF


class Member(NamedTuple):
    """A file or a folder under the name that it has in the archive."""

    name: str
    node: Node


class Order(NamedTuple):
    """What an archive is asked to be: of which kind, and with which names; with none, of the whole folder."""

    kind: str
    names: list[str]


def read_order(query: str) -> Order | None:
    """Return what the query of a GET asks for, None if no archive."""
    asked = parse_qs(query, keep_blank_values=True)
    kinds = {kind.strip().lower() for value in asked.get("accept", [])[-1:] for kind in value.split(",")}
    if not kinds & {"zip", "tar", "application/zip", "application/x-tar"}:
        return None
    kind = "tar" if kinds & {"tar", "application/x-tar"} else "zip"
    files = asked.get("files", [""])[-1]
    if not files:
        return Order(kind, [])
    try:
        names = json.loads(files)
    except ValueError:
        return None
    names = names if isinstance(names, list) else [names]
    return Order(kind, names) if all(isinstance(name, str) for name in names) else None


def members(tree: Tree, folder: Node, names: list[str], user: str) -> list[Member]:
    """Return what goes into the archive, or refuse all of it with 404 when one name is missing."""
    root = f"/{user}/files" + (f"/{folder.key}" if folder.key else "")
    if not names:
        root = root.rpartition("/")[0]
        return [Member(archive_name(folder), folder), *_below(tree, folder, root, user)]
    found = []
    for name in names:
        parts = [part for part in name.split("/") if part]
        key = "/".join([folder.key, *parts] if folder.key else parts)
        node = tree.find(key)
        if node is None:
            raise not_found(f"/{key}")
        found.append(_named(node, root, user))
        if node.is_folder:
            found += _below(tree, node, root, user)
    return found


def archive_name(folder: Node) -> str:
    """Return what an archive of a folder is called."""
    return base_name(folder.key) or "download"


def zipped(tree: Tree, content: Iterable[Member], member_cost_s: float, faults: ArchiveFaults) -> Iterator[bytes]:
    """Yield a zip."""
    return _torn(_gathered(_zip(tree, _paced(content, member_cost_s), faults)), faults)


def tarred(tree: Tree, content: Iterable[Member], member_cost_s: float, faults: ArchiveFaults) -> Iterator[bytes]:
    """Yield a tar."""
    return _torn(_gathered(_tar(tree, _paced(content, member_cost_s), faults)), faults)


def failing_tar(folder: Node) -> Iterator[bytes]:
    """Yield what 34.0.1 sends for a whole folder: its header, and an error instead of what is in it.

    As long as the recorded one; what it says there is not recorded.
    """
    yield _tar_header(Member(archive_name(folder), folder))
    yield error_body("Error", "What is said here is not recorded ".ljust(125, "."))


def _below(tree: Tree, folder: Node, root: str, user: str) -> Iterator[Member]:
    for node in sorted(tree.children(folder.key)):
        yield _named(node, root, user)
        if node.is_folder:
            yield from _below(tree, node, root, user)


def _named(node: Node, root: str, user: str) -> Member:
    """Name a member as 34.0.1 does: ``str_replace`` takes the root out of its path wherever it occurs."""
    return Member(f"/{user}/files/{node.key}".replace(root, "").replace("\\", "/").strip("/"), node)


def _paced(content: Iterable[Member], member_cost_s: float) -> Iterator[Member]:
    moment_s = time.monotonic()
    for member in content:
        moment_s += member_cost_s
        wait_until(moment_s)
        yield member


def _zip(tree: Tree, content: Iterable[Member], faults: ArchiveFaults) -> Iterator[bytes]:
    directory = b""
    place = count = 0
    for name, node in content:
        if faults.drops(name):
            continue
        if faults.breaks_at(name):
            yield error_body(r"OCP\Lock\LockedException", f'"{node.key}" is locked')
            return
        encoded = (name + "/" * node.is_folder).encode("utf-8", "surrogateescape")
        flags = (0 if node.is_folder else _DESCRIPTOR_FOLLOWS) | (0 if encoded.isascii() else _UTF8)
        when = _dos_time(node.modified_s)
        fields = struct.pack("<HHHHH", _ZIP64, flags, 0, *when)
        head = b"PK\3\4" + fields + struct.pack("<IIIHH", 0, _UNKNOWN, _UNKNOWN, len(encoded), 32)
        yield head + encoded + _zip64_field(0, 0)
        offset, size_bytes, crc = place, 0, 0
        place += 30 + len(encoded) + 32
        if not node.is_folder:
            for piece in _content(tree, node):
                crc = zlib.crc32(piece, crc)
                size_bytes += len(piece)
                yield faults.damaged(name, piece)
            yield b"PK\7\10" + struct.pack("<IQQ", crc, size_bytes, size_bytes)
            place += size_bytes + 24
        mode = (0o040755 if node.is_folder else 0o100644) << 16
        directory += b"PK\1\2" + struct.pack("<H", _ZIP64) + fields
        directory += struct.pack("<IIIHHHHHII", crc, _UNKNOWN, _UNKNOWN, len(encoded), 32, 0, 0, 0, mode, _UNKNOWN)
        directory += encoded + _zip64_field(size_bytes, offset)
        count += 1
    yield directory
    end = place + len(directory)
    yield b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, _ZIP64, _ZIP64, 0, 0, count, count, len(directory), place)
    yield b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
    small_count = min(count, _NAMES_LIMIT)
    yield b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, small_count, small_count, len(directory), place, 0)


def _zip64_field(size_bytes: int, offset: int) -> bytes:
    return struct.pack("<HHQQQI", 1, 28, size_bytes, size_bytes, offset, 0)


def _dos_time(modified_s: int) -> tuple[int, int]:
    year, month, day, hour, minute, second, *_ = time.localtime(max(modified_s, 315619200))
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day


def _tar(tree: Tree, content: Iterable[Member], faults: ArchiveFaults) -> Iterator[bytes]:
    for member in content:
        if faults.drops(member.name):
            continue
        yield _tar_header(member)
        if not member.node.is_folder:
            size_bytes = 0
            for piece in _content(tree, member.node):
                size_bytes += len(piece)
                yield faults.damaged(member.name, piece)
            yield bytes(-size_bytes % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _tar_header(member: Member) -> bytes:
    header = tarfile.TarInfo(member.name)
    header.mtime = member.node.modified_s
    if member.node.is_folder:
        header.type = tarfile.DIRTYPE
        header.mode = 0o755
    else:
        header.size = member.node.size_bytes
    return header.tobuf(tarfile.GNU_FORMAT)


def _content(tree: Tree, node: Node) -> Iterator[bytes]:
    descriptor, _ = tree.open(node.key)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while piece := file.read(_BLOCK_BYTES):
            yield piece


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Send what is small together."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= _SENT_AT_ONCE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _torn(pieces: Iterable[bytes], faults: ArchiveFaults) -> Iterator[bytes]:
    left_bytes = faults.stop_after_bytes
    if left_bytes is None:
        yield from pieces
        return
    for piece in pieces:
        if left_bytes < len(piece):
            if left_bytes:
                yield piece[:left_bytes]
            if faults.hangs_up:
                raise TornError
            return
        left_bytes -= len(piece)
        yield piece
