"""Nextcloud: WebDAV whose folder ETags change with anything below them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.stores.webdav import WebDAVStore

if TYPE_CHECKING:
    from ai4os_data.remotes import Remote

_DAV_ROOT = re.compile(r"/remote\.php/(dav/files/[^/]+|webdav)(/|$)")


def is_nextcloud(remote: Remote) -> bool:
    """Whether a remote is a Nextcloud, by its vendor or by the form of its URL."""
    return remote.vendor == "nextcloud" or _DAV_ROOT.search(remote.url) is not None


class NextcloudStore(WebDAVStore):
    """The files of one folder of a Nextcloud account."""

    def token(self) -> str | None:
        """The folder's ETag, by one PROPFIND of Depth 0: it changes when anything below does."""
        try:
            return self.folder_etag()
        except errors.NotFoundError as error:
            message = f"{self.location}: there is no such folder on the server; check the spelling, or list its parent"
            raise errors.LocationError(message) from error
