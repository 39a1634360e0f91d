"""Chunked uploads: a folder of pieces, put together by one MOVE."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
from email.utils import formatdate
from typing import TYPE_CHECKING, NamedTuple

from tests.nextcloud import properties
from tests.nextcloud.answers import (
    Answer,
    RefusalError,
    bad_request,
    created,
    insufficient_storage,
    not_found,
    not_implemented,
)
from tests.nextcloud.files import destination_key, exists_already, writing
from tests.nextcloud.properties import DAV, Resource, quoted
from tests.nextcloud.versions import VERSIONS
from tests.nextcloud.wire import ClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nextcloud.faults import Faults
    from tests.nextcloud.files import Files
    from tests.nextcloud.settings import Settings
    from tests.nextcloud.wire import Incoming

_WHOLE = ".file"
_BLOCK_BYTES = 1 << 20
_TIMED_OUT = b"<!DOCTYPE HTML>\n<html><head>\n<title>504 Gateway Timeout</title>\n</head><body></body></html>\n"


class _Piece(NamedTuple):
    """A chunk that has arrived."""

    name: str
    etag: str
    size_bytes: int
    modified_s: int


class Uploads:
    """What is below ``/remote.php/dav/uploads/USER/``, kept where the user's files are not."""

    def __init__(self, directory: Path, files: Files, settings: Settings, faults: Faults) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._files = files
        self._settings = settings
        self._faults = faults
        self._lock = threading.Lock()
        self._moving: set[str] = set()

    def answer(self, incoming: Incoming, base: str, key: str, files_base: str) -> Answer:
        """Answer a request for a key below a base; ``files_base`` is that of the user's files."""
        upload, _, name = key.partition("/")
        method = incoming.method
        if method == "OPTIONS" or not upload:
            return Answer(200, {"Allow": VERSIONS[self._settings.version].allow, "DAV": self._files.dav_header(base)})
        if method == "MKCOL" and not name:
            return self._begin(upload)
        if method == "PUT" and name:
            return self._put(incoming, upload, name, files_base)
        if method == "PROPFIND":
            return self._propfind(incoming, base, upload, name)
        if method == "MOVE" and name == _WHOLE:
            return self._finish(incoming, upload, files_base)
        if method == "DELETE":
            return self._delete(upload, name)
        if method in {"GET", "HEAD"} and name:
            message = "Reading intermediate uploads is not allowed"
            raise RefusalError(405, r"Sabre\DAV\Exception\MethodNotAllowed", message)
        raise not_implemented(method)

    def _begin(self, upload: str) -> Answer:
        try:
            (self._directory / _safe(upload)).mkdir()
        except FileExistsError as error:
            raise exists_already(VERSIONS[self._settings.version].allow) from error
        return created()

    def _put(self, incoming: Incoming, upload: str, name: str, files_base: str) -> Answer:
        folder = self._folder(upload)
        total = incoming.headers.get("oc-total-length")
        if "destination" in incoming.headers:
            where = destination_key(incoming, files_base).rpartition("/")[0]
            self._files.check_space(where, int(total) if total else incoming.body.size_bytes or 0)
        path = folder / _safe(name)
        temporary = folder / f"{_WHOLE}{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.writelines(incoming.body.pieces())
            temporary.rename(path)
        except FileNotFoundError as error:
            raise ClosedError from error  # aborted meanwhile
        except OSError as error:
            message = f"Insufficient space in /{upload}"
            raise insufficient_storage(message) from error
        finally:
            temporary.unlink(missing_ok=True)
        return created()

    def _propfind(self, incoming: Incoming, base: str, upload: str, name: str) -> Answer:
        wanted = properties.read_wanted(incoming.body.read())
        folder = self._folder(upload)
        pieces = self._pieces(folder)
        total_bytes = sum(piece.size_bytes for piece in pieces)
        modified_s = int(folder.stat().st_mtime)
        found = [
            _resource(f"{base}/{upload}", _Piece(_WHOLE, f"{modified_s:013x}", total_bytes, modified_s)),
            *(_resource(f"{base}/{upload}", piece) for piece in pieces),
        ]
        if name:
            found = [resource for resource in found if resource.path == f"{base}/{upload}/{name}"]
            if not found:
                raise not_found(f"//{upload}/{name}")
        else:
            own = {
                f"{DAV}resourcetype": "<d:collection/>",
                f"{DAV}getlastmodified": formatdate(modified_s, usegmt=True),
            }
            below = [] if incoming.headers.get("depth", "1") == "0" else found
            found = [Resource(f"{base}/{upload}/", own), *below]
        zipped = "gzip" in incoming.headers.get("accept-encoding", "")
        return properties.multistatus(found, wanted, {"DAV": self._files.dav_header(base)}, zipped=zipped)

    def _finish(self, incoming: Incoming, upload: str, files_base: str) -> Answer:
        folder = self._folder(upload)
        with self._lock:
            if upload in self._moving:
                raise _locked(upload)
            self._moving.add(upload)
        fault = self._faults.of_a_move()
        if fault is None or fault.completes_after_s == 0:
            answer = self._completed(incoming, upload, folder, files_base)
            return answer if fault is None else _wrong(fault.status, upload)
        if fault.completes_after_s is None:
            self._moving.discard(upload)
        else:
            orders = (incoming, upload, folder, files_base)
            threading.Timer(fault.completes_after_s, self._complete_behind, orders).start()
        return _wrong(fault.status, upload)

    def _completed(self, incoming: Incoming, upload: str, folder: Path, files_base: str) -> Answer:
        try:
            pieces = self._pieces(folder)
            total_bytes = sum(piece.size_bytes for piece in pieces)
            asked = incoming.headers.get("oc-total-length")
            if asked is not None and int(asked) != total_bytes:
                message = f"Chunks on server do not sum up to {asked} but to {total_bytes} bytes"
                raise bad_request(message)
            key, _ = self._files.target(incoming, files_base)
            self._files.check_space(key, total_bytes)
            note = writing(incoming)
            is_new, node = self._files.store(key, _joined(folder, [piece.name for piece in pieces]), total_bytes, note)
            shutil.rmtree(folder)
            headers = note.headers() | self._files.file_headers(node)
            return created(**headers) if is_new else Answer(204, headers)
        finally:
            self._moving.discard(upload)

    def _complete_behind(self, incoming: Incoming, upload: str, folder: Path, files_base: str) -> None:
        with contextlib.suppress(RefusalError):  # there is nobody any more to tell it to
            self._completed(incoming, upload, folder, files_base)

    def _delete(self, upload: str, name: str) -> Answer:
        folder = self._folder(upload)
        if not name:
            shutil.rmtree(folder)
            return Answer(204)
        try:
            (folder / _safe(name)).unlink()
        except FileNotFoundError as error:
            raise not_found(f"//{upload}/{name}") from error
        return Answer(204)

    def _folder(self, upload: str) -> Path:
        folder = self._directory / _safe(upload)
        if not folder.is_dir():
            raise not_found(f"//{upload}")
        return folder

    def _pieces(self, folder: Path) -> list[_Piece]:
        """Return what has arrived, in the order in which it belongs."""
        found = []
        for path in folder.iterdir():
            if not path.name.startswith(_WHOLE):
                status = path.stat()
                etag = f"{status.st_ino:016x}{status.st_mtime_ns:016x}"
                found.append(_Piece(path.name, etag, status.st_size, int(status.st_mtime)))
        return sorted(found, key=lambda piece: _natural(piece.name))


def _joined(folder: Path, names: list[str]) -> Iterator[bytes]:
    for name in names:
        with (folder / name).open("rb", buffering=0) as file:
            while piece := file.read(_BLOCK_BYTES):
                yield piece


def _resource(base: str, piece: _Piece) -> Resource:
    return Resource(
        f"{base}/{piece.name}",
        {
            f"{DAV}resourcetype": "",
            f"{DAV}getetag": quoted(piece.etag),
            f"{DAV}getcontentlength": str(piece.size_bytes),
            f"{DAV}getlastmodified": formatdate(piece.modified_s, usegmt=True),
        },
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort as PHP's strnatcmp does: 10 after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _safe(name: str) -> str:
    if name in {".", ".."} or "/" in name or "\0" in name:
        raise not_found(f"//{name}")
    return name


def _wrong(status: int, upload: str) -> Answer:
    if status == 423:
        return _locked(upload).answer()
    return Answer(status, {"Content-Type": "text/html"}, _TIMED_OUT)


def _locked(upload: str) -> RefusalError:
    return RefusalError(423, r"OCA\DAV\Connector\Sabre\Exception\FileLocked", f'"{upload}" is locked')
