"""Where the folder of a store is on its WebDAV server: as a URL, as a path, and below the remote."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ai4os_data.stores.base import checked
from ai4os_data.stores.forms import quoted, unquoted

if TYPE_CHECKING:
    from ai4os_data.locations import Remote


class Address:
    """The address of a folder. All copies of a store share it, and so the Unicode form in which the folder was found.

    Args:
        remote: the server and the credentials.
        path: the folder below the remote's URL, not percent-encoded.
        location: what messages call it.

    Attributes:
        base_path: the path on the server, decoded, without a slash at its end.
        base_url: percent-encoded, without a slash at its end.
        identity: distinguishes this folder from all others.
    """

    def __init__(self, remote: Remote, path: str, location: str | None) -> None:
        self.remote = remote
        self.move_to(path)
        self.location = location or self.base_url

    def move_to(self, path: str) -> None:
        """Make it the address of another folder below the remote's URL."""
        self.path = path
        self.base_path = unquoted(urlsplit(self.remote.url).path).rstrip("/") + (f"/{path}" if path else "")
        self.base_url = self.url_below_remote(path)
        self.identity = f"webdav {self.remote.origin}{self.base_path} {self.remote.user or ''}"

    def url(self, key: str) -> str:
        """The URL of a key."""
        return f"{self.base_url}/{quoted(checked(key))}"

    def url_of_folder(self, key: str) -> str:
        """The URL of a folder; ``""`` is the root."""
        return self.url(key) if key else self.base_url

    def below_remote(self, key: str) -> str:
        """The path of a key below the remote's URL, not percent-encoded."""
        return "/".join(part for part in (self.path, key) if part)

    def url_below_remote(self, path: str) -> str:
        """The URL of a path below the remote's URL."""
        return f"{self.remote.url}/{quoted(path)}".rstrip("/")
