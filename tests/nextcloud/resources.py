"""What Nextcloud tells of its files and folders: their WebDAV properties."""

from __future__ import annotations

import mimetypes
from email.utils import formatdate
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.nextcloud.gate import INSTANCE
from tests.nextcloud.properties import DAV, NC, OC, Resource, quoted
from tests.nextcloud.tree import Node, Tree, base_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.nextcloud.properties import Wanted
    from tests.nextcloud.settings import Settings

_UNLIMITED = -3
# A folder is measured only for one of these: all that is below it has to be looked at.
_MEASURED = (f"{DAV}getetag", f"{OC}size", f"{DAV}quota-used-bytes", f"{DAV}quota-available-bytes")


class Resources:
    """Describes what is in a tree, as it is seen below a base, whose path has no slash at its end."""

    def __init__(self, tree: Tree, settings: Settings, base: str) -> None:
        self._tree = tree
        self._settings = settings
        self._base = base
        # Each tells the content of a property as XML, or None when the node has no such property.
        self._tellers: dict[str, Callable[[Node], str | None]] = {
            f"{DAV}resourcetype": lambda node: "<d:collection/>" if node.is_folder else "",
            f"{DAV}getetag": lambda node: quoted(node.etag),
            f"{DAV}getlastmodified": lambda node: formatdate(node.modified_s, usegmt=True),
            f"{DAV}getcontentlength": lambda node: None if node.is_folder else str(node.size_bytes),
            f"{DAV}getcontenttype": lambda node: None if node.is_folder else content_type(node.key),
            f"{DAV}displayname": lambda node: escape(base_name(node.key) or settings.user),
            f"{DAV}quota-used-bytes": lambda node: str(node.size_bytes) if node.is_folder else None,
            f"{DAV}quota-available-bytes": self._free,
            f"{OC}checksums": lambda node: (
                f"<oc:checksum>{escape(node.checksum)}</oc:checksum>" if node.checksum else None
            ),
            f"{OC}fileid": lambda node: str(node.file_id),
            f"{OC}id": file_id,
            f"{OC}size": lambda node: str(node.size_bytes),
            f"{OC}permissions": _permissions,
            f"{OC}owner-id": lambda _: escape(settings.user),
            f"{NC}is-encrypted": lambda _: "0",
        }

    def below(self, node: Node, depth: int | None, wanted: Wanted) -> Iterator[Resource]:
        """Describe a node and what is below it, as deep as that; None for all."""
        tellers = [(name, self._tellers[name]) for name in wanted.names if name in self._tellers]
        listings: dict[str, list[Node]] | None = None
        if node.is_folder and wanted.any_of(*_MEASURED):
            listings = {}
            node = self._tree.measure(node, listings)
        for each in self._walk(node, -1 if depth is None else depth, listings):
            path = f"{self._base}/{each.key}" if each.key else self._base
            told = {name: value for name, tell in tellers if (value := tell(each)) is not None}
            yield Resource(f"{path}/" if each.is_folder else path, told)

    def _walk(self, node: Node, depth: int, listings: dict[str, list[Node]] | None) -> Iterator[Node]:
        yield node
        if node.is_folder and depth:
            children = self._tree.children(node.key) if listings is None else listings[node.key]
            for child in children:
                yield from self._walk(child, depth - 1, listings)

    def _free(self, node: Node) -> str | None:
        if not node.is_folder:
            return None
        quota_bytes = self._settings.quota_bytes
        return str(_UNLIMITED if quota_bytes is None else max(0, quota_bytes - self._tree.used_bytes()))


def file_id(node: Node) -> str:
    """Return the id of a node as headers have it: with that of the server after it."""
    return f"{node.file_id:08}{INSTANCE}"


def content_type(key: str) -> str:
    """Return the type of a file, by its name."""
    if key.lower().endswith(".bin"):
        return "application/x-bin"
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


def _permissions(node: Node) -> str:
    if not node.is_folder:
        return "RGDNVW"
    return "RGDNVCK" if node.key else "GDNVCK"
