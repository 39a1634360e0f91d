"""The user's files: a folder on disk, with the ETags, ids and checksums that Nextcloud keeps in its database.

Tests may change the folder behind the server's back: a file whose inode, times or size are not those that
were noted gets a new ETag, made of them. A folder's ETag is made of all that is below it; so what is undone
brings the former one back, which the real one would not.
"""

# Paths are strings here: to make a Path takes longer than what the kernel then does with it.

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
from typing import TYPE_CHECKING, NamedTuple

from tests.nextcloud.answers import bad_request, insufficient_storage, not_found
from tests.nextcloud.wire import ClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_TEMPORARY = ".ocTransferId"


def base_name(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition("/")[2]


class Node(NamedTuple):
    """A file or a folder. A folder's ``size_bytes`` and ``etag`` are known once it was measured."""

    key: str
    is_folder: bool
    size_bytes: int
    modified_s: int
    etag: str
    file_id: int
    checksum: str


class _Note(NamedTuple):
    """What the database says of a file that looks like this."""

    look: tuple[int, int, int]
    etag: str
    file_id: int
    checksum: str


class Tree:
    """A folder on disk. Keys have no slash at either end; the root is the empty one.

    Args:
        root: The folder.
        notes: The file of what is noted about files, so that it outlives a restart.
    """

    def __init__(self, root: Path, notes: Path) -> None:
        self._root = os.fspath(root)
        self._lock = threading.RLock()
        self._notes: dict[int, _Note] = {}
        if notes.exists():
            for line in notes.read_text().splitlines():
                inode, look, *rest = json.loads(line)
                self._notes[inode] = _Note(tuple(look), *rest)
        self._descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def path(self, key: str) -> str:
        """Where a key is on disk; nowhere, if it tries to leave."""
        if any(part in {".", ".."} for part in key.split("/")) or "\0" in key:
            raise not_found(f"/{key}")
        return f"{self._root}/{key}" if key else self._root

    def find(self, key: str) -> Node | None:
        """Return what is there."""
        try:
            return self._node(key, os.stat(self.path(key)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise

    def get(self, key: str) -> Node:
        """Return what is there, or refuse with 404."""
        node = self.find(key)
        if node is None:
            raise not_found(f"/{key}")
        return node

    def open(self, key: str) -> tuple[int, Node]:
        """Open a file, and describe what was opened."""
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise not_found(f"/{key}") from error
        return descriptor, self._node(key, os.fstat(descriptor))

    def children(self, key: str) -> list[Node]:
        """Return what is directly in a folder, folders not measured."""
        nodes = []
        before = f"{key}/" if key else ""
        # What is removed meanwhile is not there.
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path(key)) as entries:
            for entry in entries:
                if _TEMPORARY not in entry.name:
                    with contextlib.suppress(FileNotFoundError):
                        nodes.append(self._node(before + entry.name, entry.stat()))
        return nodes

    def measure(self, folder: Node, listings: dict[str, list[Node]] | None = None) -> Node:
        """Return a folder with its size and its ETag; ``listings`` takes what is in it and in those below."""
        size_bytes = 0
        digest = hashlib.md5(str(folder.file_id).encode(), usedforsecurity=False)
        children = [
            self.measure(child, listings) if child.is_folder else child for child in sorted(self.children(folder.key))
        ]
        for child in children:
            size_bytes += child.size_bytes
            digest.update(f"{child.key}\0{child.etag}\0".encode("utf-8", "surrogateescape"))
        if listings is not None:
            listings[folder.key] = children
        return folder._replace(size_bytes=size_bytes, etag=digest.hexdigest()[:13])

    def used_bytes(self) -> int:
        """Return the size of all files."""
        return self.measure(self.get("")).size_bytes

    def write(self, key: str, pieces: Iterable[bytes], expected_bytes: int | None, note: Writing) -> Node:
        """Put a whole file in place, or leave what is there as it was."""
        path = self.path(key)
        temporary = f"{path}{_TEMPORARY}{secrets.randbelow(1 << 31)}.part"
        with self._removing(temporary), open(temporary, "xb") as file:
            size_bytes = 0
            for piece in pieces:
                note.hash(piece)
                try:
                    file.write(piece)
                except OSError as error:
                    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                        raise
                    message = f"Insufficient space in /{key}"
                    raise insufficient_storage(message) from error
                size_bytes += len(piece)
            file.flush()
            if expected_bytes is not None and size_bytes != expected_bytes:
                message = f"Expected filesize of {expected_bytes} bytes but wrote {size_bytes} bytes."
                raise bad_request(message)
            with self._lock:
                old = self.find(key)
                os.rename(temporary, path)
                if note.modified_s is not None:
                    os.utime(path, (note.modified_s, note.modified_s))
                return self._note(key, secrets.token_hex(16), old.file_id if old else None, note.checksum)

    def make_folder(self, key: str) -> Node:
        """Make a folder in one that exists."""
        os.mkdir(self.path(key))
        return self.get(key)

    def remove(self, key: str) -> None:
        """Remove a file, or a folder and all below it."""
        path = self.path(key)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def move(self, key: str, to: str) -> Node:
        """Rename, over what may be there; ETag, id and checksum come along."""
        with self._lock:
            node = self.get(key)
            if self.find(to) is not None:
                self.remove(to)
            os.rename(self.path(key), self.path(to))
            if node.is_folder:
                return self.get(to)
            return self._note(to, node.etag, node.file_id, node.checksum)

    def copy(self, key: str, to: str) -> Node:
        """Copy a file or a folder, over what may be there."""
        with self._lock:
            if self.find(to) is not None:
                self.remove(to)
            source, target = self.path(key), self.path(to)
            if os.path.isdir(source):
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
            return self.get(to)

    def set_checksum(self, node: Node, checksum: str) -> None:
        """Note the checksum of a file as it is."""
        with self._lock:
            self._note(node.key, node.etag, node.file_id, checksum)

    def set_modified(self, node: Node, modified_s: int) -> None:
        """Set the time of the last change."""
        with self._lock:
            os.utime(self.path(node.key), (modified_s, modified_s))
            if not node.is_folder:
                self._note(node.key, node.etag, node.file_id, node.checksum)

    def _node(self, key: str, status: os.stat_result) -> Node:
        modified_s = int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            return Node(
                key, is_folder=True, size_bytes=0, modified_s=modified_s, etag="", file_id=status.st_ino, checksum=""
            )
        look = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        note = self._notes.get(status.st_ino)
        if note is not None and note.look == look:
            return Node(
                key,
                is_folder=False,
                size_bytes=status.st_size,
                modified_s=modified_s,
                etag=note.etag,
                file_id=note.file_id,
                checksum=note.checksum,
            )
        etag = hashlib.md5(repr((status.st_ino, look)).encode(), usedforsecurity=False).hexdigest()
        return Node(
            key,
            is_folder=False,
            size_bytes=status.st_size,
            modified_s=modified_s,
            etag=etag,
            file_id=status.st_ino,
            checksum="",
        )

    def _note(self, key: str, etag: str, file_id: int | None, checksum: str) -> Node:
        status = os.stat(self.path(key))
        look = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        note = _Note(look, etag, file_id or status.st_ino, checksum)
        self._notes[status.st_ino] = note
        os.write(self._descriptor, json.dumps([status.st_ino, *note]).encode() + b"\n")
        return self._node(key, status)

    @contextlib.contextmanager
    def _removing(self, temporary: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ClosedError from error
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(temporary)


class Writing:
    """What a client asked for with the file that it sends.

    Args:
        checksum: Its own, which nobody checks.
        modified_s: When the file was changed last.
        hashes: The hashes that it wants to know.
    """

    def __init__(self, checksum: str = "", modified_s: int | None = None, hashes: Iterable[str] = ()) -> None:
        self.checksum = checksum
        self.modified_s = modified_s
        self._digests = {name: hashlib.new(name) for name in hashes}

    def hash(self, piece: bytes) -> None:
        """Take in a piece of what was stored."""
        for digest in self._digests.values():
            digest.update(piece)

    def headers(self) -> dict[str, str]:
        """Return the headers that answer what was asked."""
        headers = {f"X-Hash-{name.upper()}": digest.hexdigest() for name, digest in self._digests.items()}
        if self.modified_s is not None:
            headers["X-OC-MTime"] = "accepted"
        return headers
