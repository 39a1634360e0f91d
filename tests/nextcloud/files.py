"""The verbs of WebDAV on the user's files."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tests.nextcloud import archive, properties
from tests.nextcloud.answers import (
    HTML,
    XML,
    Answer,
    RefusalError,
    Slice,
    bad_request,
    conflict,
    created,
    decoded,
    forbidden,
    insufficient_storage,
    not_found,
    not_implemented,
    precondition_failed,
)
from tests.nextcloud.conditions import check_conditions, wanted_ranges
from tests.nextcloud.properties import DAV, Resource
from tests.nextcloud.resources import Resources, content_type, file_id
from tests.nextcloud.tree import Node, Tree, Writing, base_name
from tests.nextcloud.versions import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.nextcloud.faults import Faults
    from tests.nextcloud.settings import Settings
    from tests.nextcloud.trashbin import TrashBin
    from tests.nextcloud.wire import Incoming

_COLLECTION = (
    b"This is the WebDAV interface. "
    b"It can only be accessed by WebDAV clients such as the Nextcloud desktop sync client."
)
_ARCHIVE_TYPES = {"zip": "application/zip", "tar": "application/x-tar"}
_DEPTHS = {"0": 0, "1": 1, "infinity": None}
_HASHES = ("md5", "sha1", "sha256")
_FOLDER_BYTES = 4096
_LONGEST_NAME_BYTES = 250
_TIMEOUT = re.compile(r"Second-\d+")


class Files:
    """What is below ``/remote.php/dav/files/USER/`` and ``/remote.php/webdav/``."""

    def __init__(self, tree: Tree, settings: Settings, faults: Faults, trash: TrashBin) -> None:
        self._tree = tree
        self._trash = trash
        self._settings = settings
        self._faults = faults
        self.verbs: dict[str, Callable[[Incoming, str, str], Answer]] = {
            "OPTIONS": self._options,
            "GET": self._get,
            "HEAD": self._get,
            "PROPFIND": self._propfind,
            "PROPPATCH": self._proppatch,
            "PUT": self._put,
            "PATCH": self._patch,
            "MKCOL": self._mkcol,
            "DELETE": self._delete,
            "MOVE": self._move,
            "COPY": self._copy,
            "LOCK": self._lock,
            "UNLOCK": self._unlock,
        }

    def answer(self, incoming: Incoming, base: str, key: str) -> Answer:
        """Answer a request for a key below a base, whose path has no slash at its end."""
        verb = self.verbs.get(incoming.method)
        if verb is None:
            raise not_implemented(incoming.method)
        reading = incoming.method in {"GET", "HEAD"}
        unchanged = check_conditions(incoming.headers, lambda: self._quoted_etag(key), reading=reading)
        return unchanged or verb(incoming, base, key)

    def dav_header(self, base: str) -> str:
        """Return what the header DAV says there."""
        version = VERSIONS[self._settings.version]
        return version.legacy_dav if base.endswith("/webdav") else version.dav

    def store(self, key: str, pieces: Iterator[bytes], expected_bytes: int | None, note: Writing) -> tuple[bool, Node]:
        """Write a file; say whether it is new."""
        is_new = self._tree.find(key) is None
        return is_new, self._tree.write(key, self._faults.damaged_put(pieces), expected_bytes, note)

    def check_space(self, where: str, needed_bytes: int) -> None:
        """Refuse with 507 what does not fit into the quota."""
        quota_bytes = self._settings.quota_bytes
        if quota_bytes is None:
            return
        free_bytes = max(0, quota_bytes - self._tree.used_bytes())
        if needed_bytes > free_bytes:
            message = f"Insufficient space in /{where}"
            if VERSIONS[self._settings.version].tells_free_space:
                message += f", {needed_bytes} required, {free_bytes} available"
            raise insufficient_storage(message)

    def target(self, incoming: Incoming, base: str) -> tuple[str, Node | None]:
        """Return the key that Destination names and what is there, or refuse what cannot be put there."""
        key = destination_key(incoming, base)
        parent = self._tree.find(_parent(key))
        if parent is None or not parent.is_folder:
            message = "The destination node is not found"
            raise conflict(message)
        self._check_name(key)
        there = self._tree.find(key)
        if there is not None and incoming.headers.get("overwrite", "T").upper() == "F":
            message = "The destination node already exists, and the overwrite header is set to false"
            raise precondition_failed(message, "Overwrite")
        return key, there

    def file_headers(self, node: Node) -> dict[str, str]:
        """Return what a MOVE tells of what is there now."""
        headers = {"OC-FileId": file_id(node)}
        if not node.is_folder:
            headers |= {"OC-ETag": f'"{node.etag}"', "ETag": f'"{node.etag}"'}
        return headers

    # --- reading

    def _options(self, _: Incoming, base: str, __: str) -> Answer:
        version = VERSIONS[self._settings.version]
        headers = {"Allow": version.allow, "DAV": self.dav_header(base), "MS-Author-Via": "DAV"}
        return Answer(200, {**headers, "Accept-Ranges": "bytes", "Content-Type": HTML})

    def _get(self, incoming: Incoming, _: str, key: str) -> Answer:
        descriptor, node = self._tree.open(key)
        if node.is_folder:
            os.close(descriptor)
            return self._get_folder(incoming, node)
        try:
            answer = self._get_file(incoming, descriptor, node)
        except RefusalError as refusal:
            os.close(descriptor)
            refusal.headers |= {"Last-Modified": formatdate(node.modified_s, usegmt=True), "ETag": f'"{node.etag}"'}
            raise
        if not isinstance(answer.body, Slice):
            os.close(descriptor)
        return answer

    def _get_file(self, incoming: Incoming, descriptor: int, node: Node) -> Answer:
        etag = f'"{node.etag}"'
        kind = content_type(node.key)
        headers = {
            "Last-Modified": formatdate(node.modified_s, usegmt=True),
            "ETag": etag,
            "OC-ETag": etag,
            "Content-Disposition": _disposition(base_name(node.key)),
            # A page that somebody uploaded is not shown as a page.
            "Content-Type": "text/plain; charset=UTF-8" if kind == "text/html" else kind,
        }
        if node.checksum:
            headers["OC-Checksum"] = node.checksum
        ranges = wanted_ranges(incoming.headers, node.size_bytes, etag)
        if not ranges:
            return Answer(200, headers, Slice(descriptor, 0, node.size_bytes))
        if len(ranges) == 1:
            start, stop = ranges[0]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{node.size_bytes}"
            return Answer(206, headers, Slice(descriptor, start, stop - start))
        boundary = secrets.token_hex(8)
        body = b""
        for start, stop in ranges:
            body += (
                f"\r\n--{boundary}\r\nContent-type: {headers['Content-Type']}\r\n"
                f"Content-range: bytes {start}-{stop - 1}/{node.size_bytes}\r\n\r\n"
            ).encode() + os.pread(descriptor, stop - start, start)
        headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        return Answer(206, headers, body + f"\r\n--{boundary}--\r\n".encode())

    def _get_folder(self, incoming: Incoming, folder: Node) -> Answer:
        order = archive.read_order(incoming.query) if incoming.method == "GET" else None
        if order is None or not VERSIONS[self._settings.version].archives:
            return Answer(200, {"Content-Type": HTML}, _COLLECTION)
        content = archive.members(self._tree, folder, order.names, self._settings.user)
        headers = {
            "Last-Modified": formatdate(usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Disposition": _disposition(f"{archive.archive_name(folder)}.{order.kind}"),
            "Content-Type": _ARCHIVE_TYPES[order.kind],
        }
        if order.kind == "tar" and not order.names:
            return Answer(200, headers, archive.failing_tar(folder))
        stream = archive.zipped if order.kind == "zip" else archive.tarred
        faults = self._faults.of_an_archive()
        return Answer(200, headers, stream(self._tree, content, self._settings.member_cost_s, faults))

    # --- properties

    def _propfind(self, incoming: Incoming, base: str, key: str) -> Answer:
        headers = {"DAV": self.dav_header(base)}
        wanted = properties.read_wanted(incoming.body.read())
        try:
            node = self._tree.get(key)
        except RefusalError as refusal:
            if base.endswith("/webdav") and VERSIONS[self._settings.version].streams_legacy:
                return properties.torn_multistatus(refusal, headers)
            refusal.headers |= headers
            raise
        depth = _DEPTHS.get(incoming.headers.get("depth", "1").lower(), 1)
        found = Resources(self._tree, self._settings, base).below(node, depth, wanted)
        zipped = "gzip" in incoming.headers.get("accept-encoding", "")
        return properties.multistatus(found, wanted, headers, zipped=zipped)

    def _proppatch(self, incoming: Incoming, base: str, key: str) -> Answer:
        """Set the time of the last change, which is all that rclone wants of it."""
        node = self._tree.get(key)
        body = incoming.body.read().decode()
        time_s = re.search(r"lastmodified[^>]*>(\d+)<", body)
        if time_s is None:
            raise not_implemented("PROPPATCH")
        self._tree.set_modified(node, int(time_s[1]))
        wanted = properties.Wanted([f"{DAV}lastmodified"], all=False)
        return properties.multistatus(
            [Resource(f"{base}/{key}", {f"{DAV}lastmodified": ""})],
            wanted,
            {"DAV": self.dav_header(base)},
            zipped=False,
        )

    # --- writing

    def _put(self, incoming: Incoming, _: str, key: str) -> Answer:
        there = self._tree.find(key)
        if there is not None and there.is_folder:
            message = "PUT is not allowed on non-files."
            raise conflict(message)
        self._need_parent(key)
        self._check_name(key)
        self.check_space(key, incoming.body.size_bytes or 0)
        note = writing(incoming)
        is_new, node = self.store(key, incoming.body.pieces(), incoming.body.size_bytes, note)
        headers = self.file_headers(node) | note.headers()
        if VERSIONS[self._settings.version].tells_owner:
            headers |= {"X-NC-OwnerId": self._settings.user, "X-NC-Permissions": "RGDNVW"}
        return created(**headers) if is_new else Answer(204, headers)

    def _patch(self, incoming: Incoming, _: str, key: str) -> Answer:
        """Read the file back, and tell its hash."""
        kind = incoming.headers.get("x-recalculate-hash", "").lower()
        descriptor, node = self._tree.open(key)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if node.is_folder or kind not in _HASHES:
                raise not_implemented("PATCH")
            digest = hashlib.new(kind)
            while piece := file.read(1 << 20):
                digest.update(piece)
        checksum = f"{kind.upper()}:{digest.hexdigest()}"
        self._tree.set_checksum(node, checksum)
        return Answer(204, {"OC-Checksum": checksum})

    def _mkcol(self, _: Incoming, __: str, key: str) -> Answer:
        if self._tree.find(key) is not None:
            raise exists_already(VERSIONS[self._settings.version].allow)
        parent = self._tree.find(_parent(key))
        if parent is None or not parent.is_folder:
            message = "Parent node does not exist"
            raise conflict(message)
        self._check_name(key)
        self._check_room_for_folder(key)
        return created(**{"OC-FileId": file_id(self._tree.make_folder(key))})

    def _check_room_for_folder(self, key: str) -> None:
        """Refuse a folder on a full account: tried on 32.0.1 and on 29.0.6, which calls it forbidden."""
        quota_bytes = self._settings.quota_bytes
        version = VERSIONS[self._settings.version]
        if version.checks_folders:
            self.check_space(_parent(key), _FOLDER_BYTES)
        elif quota_bytes is not None and self._tree.used_bytes() >= quota_bytes:
            message = f"Could not create directory //{key}"
            raise forbidden(message)

    def _delete(self, incoming: Incoming, _: str, key: str) -> Answer:
        self._tree.get(key)
        if not key:
            raise forbidden()
        is_skipped = incoming.headers.get("x-nc-skip-trashbin") == "true"
        if is_skipped and VERSIONS[self._settings.version].skips_trash:
            self._tree.remove(key)
        else:
            self._trash.take(os.fsdecode(self._tree.path(key)), key)
        return Answer(204)

    def _move(self, incoming: Incoming, base: str, key: str) -> Answer:
        to, there = self._transfer(incoming, base, key)
        headers = self.file_headers(self._tree.move(key, to))
        return created(**headers) if there is None else Answer(204, headers)

    def _copy(self, incoming: Incoming, base: str, key: str) -> Answer:
        to, there = self._transfer(incoming, base, key)
        self.check_space(to, self._tree.get(key).size_bytes)
        headers = {"OC-FileId": file_id(self._tree.copy(key, to))}
        return created(**headers) if there is None else Answer(204, headers)

    def _transfer(self, incoming: Incoming, base: str, key: str) -> tuple[str, Node | None]:
        to, there = self.target(incoming, base)
        self._tree.get(key)
        if to == key:
            message = "Source and destination uri are identical."
            raise forbidden(message)
        if not key or to.startswith(f"{key}/"):
            message = "The destination may not be part of the same subtree as the source path."
            raise conflict(message)
        return to, there

    # --- locks, which bind nobody

    def _lock(self, incoming: Incoming, base: str, key: str) -> Answer:
        if not VERSIONS[self._settings.version].locks:
            raise not_implemented("LOCK")
        timeout = _TIMEOUT.match(incoming.headers.get("timeout", ""))
        href = properties.encode_path(f"{base}/{key}")
        token = secrets.token_hex(16)
        token = "-".join([token[:8], token[8:12], token[12:16], token[16:20], token[20:]])
        lines = [
            '<?xml version="1.0"?>',
            f"<d:prop {properties.NAMESPACES}>",
            " <d:lockdiscovery>",
            "  <d:activelock>",
            "   <d:lockscope>",
            "    <d:exclusive/>",
            "   </d:lockscope>",
            "   <d:locktype>",
            "    <d:write/>",
            "   </d:locktype>",
            "   <d:lockroot>",
            f"    <d:href>{href}</d:href>",
            "   </d:lockroot>",
            "   <d:depth>infinity</d:depth>",
            f"   <d:timeout>{timeout[0] if timeout else 'Second-1800'}</d:timeout>",
            "   <d:locktoken>",
            f"    <d:href>opaquelocktoken:{token}</d:href>",
            "   </d:locktoken>",
            "  </d:activelock>",
            " </d:lockdiscovery>",
            "</d:prop>",
            "",
        ]
        return Answer(200, {"Content-Type": XML}, "\n".join(lines).encode())

    def _unlock(self, _: Incoming, __: str, ___: str) -> Answer:
        if not VERSIONS[self._settings.version].locks:
            raise not_implemented("UNLOCK")
        return Answer(204)

    # --- what several verbs ask

    def _quoted_etag(self, key: str) -> str | None:
        node = self._tree.find(key)
        if node is None:
            return None
        return f'"{(self._tree.measure(node) if node.is_folder else node).etag}"'

    def _need_parent(self, key: str) -> None:
        parent = self._tree.find(_parent(key))
        if parent is None:
            raise not_found(f"/{_parent(key)}")
        if not parent.is_folder:
            message = "Files can only be created as children of collections"
            raise conflict(message)

    def _check_name(self, key: str) -> None:
        name = base_name(key).lower()
        version = VERSIONS[self._settings.version]
        if name == ".htaccess":
            if version.archives:
                raise RefusalError(500, r"OCP\Files\ForbiddenException", f"Invalid path: files/{key}")
            raise forbidden()
        # As Nextcloud's FilenameValidator; what it says of the last two is not recorded.
        refused = [f'"{end}" is a forbidden file type.' for end in version.forbidden_endings if name.endswith(end)]
        if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME_BYTES:
            refused.append("Filename is too long")
        if any(letter < " " or letter == "\\" for letter in name):
            refused.append("Filename contains at least one invalid character")
        for message in refused:
            more = f'\n  <o:retry xmlns:o="o:">false</o:retry>\n  <o:reason xmlns:o="o:">{message}</o:reason>'
            raise RefusalError(400, r"OCA\DAV\Connector\Sabre\Exception\InvalidPath", message, more=more)


def destination_key(incoming: Incoming, base: str) -> str:
    """Return the key below a base that the header Destination names."""
    header = incoming.headers.get("destination")
    if header is None:
        message = "The destination header was not supplied"
        raise bad_request(message)
    path = decoded(urlsplit(header).path)
    if not path.startswith(f"{base}/"):
        message = f"Requested uri ({header}) is out of base uri ({base}/)"
        raise forbidden(message)
    return "/".join(part for part in path[len(base) :].split("/") if part)


def writing(incoming: Incoming) -> Writing:
    """Return what the headers of an upload ask for."""
    modified = incoming.headers.get("x-oc-mtime", "")
    asked = incoming.headers.get("x-hash", "").lower()
    hashes = _HASHES if asked == "all" else [asked] if asked in _HASHES else []
    return Writing(incoming.headers.get("oc-checksum", ""), int(float(modified)) if modified else None, hashes)


def exists_already(allow: str) -> RefusalError:
    """Return the 405 for a folder that is there."""
    message = "The resource you tried to create already exists"
    return RefusalError(405, r"Sabre\DAV\Exception\MethodNotAllowed", message, headers={"Allow": allow})


def _parent(key: str) -> str:
    return key.rpartition("/")[0]


def _disposition(name: str) -> str:
    encoded = quote(os.fsencode(name), safe="")
    return f"attachment; filename*=UTF-8''{encoded}; filename=\"{encoded}\""
