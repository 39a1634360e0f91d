"""Where things are on a Nextcloud: the user's files, chunked uploads and trash bin."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from ai4os_data.stores.forms import quoted, unquoted

if TYPE_CHECKING:
    from ai4os_data.locations import Remote

_DAV_URL = re.compile(r"(?P<server>.*)/remote\.php/(?:dav/files/(?P<user>[^/]+)|webdav)(?P<below>(?:/.*)?)")


class NextcloudUrls(NamedTuple):
    """Addresses, percent-encoded, without a slash at the end.

    Attributes:
        server_url: the server.
        uploads_url: the user's chunked uploads.
        files_url: the remote's folder, at the endpoint that uploads are moved to.
        trash_url: the user's trash bin.
        below: the path of the remote's folder below the user's files, decoded, without a slash at its beginning or end.
    """

    server_url: str
    uploads_url: str
    files_url: str
    trash_url: str
    below: str

    @classmethod
    def of(cls, remote: Remote) -> NextcloudUrls | None:
        """Those of a remote; None if they do not follow from its address."""
        match = _DAV_URL.fullmatch(remote.url.rstrip("/"))
        if match is None:
            return None
        user = match["user"] or (quote(remote.user, safe="") if remote.user else None)
        if user is None:
            return None
        dav = f"{match['server']}/remote.php/dav"
        return cls(
            match["server"],
            f"{dav}/uploads/{user}",
            f"{dav}/files/{user}{match['below']}",
            f"{dav}/trashbin/{user}/trash",
            unquoted(match["below"]).strip("/"),
        )

    def destination(self, path: str) -> str:
        """Where a file belongs, by its path below the remote's folder."""
        return f"{self.files_url}/{quoted(path)}"

    def upload_url(self, destination: str, sha256: str) -> str:
        """Where the chunks of a file go, by its destination and content: the name is made from both."""
        name = hashlib.sha256(f"{destination}\0{sha256}".encode()).hexdigest()[:32]
        return f"{self.uploads_url}/ai4os-data-{name}"
