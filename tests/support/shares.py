"""Folders that one test fills and a dataset reads: one on this disk, or one that a server shows."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from PIL import Image

from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import open_store
from tests.support.servers.rclone import obscure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Store
    from tests.support.servers import Request, Server


class Folder:
    """A folder of this disk.

    Args:
        root: Where; made if it is absent.
    """

    remote: Remote | None = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)

    @property
    def location(self) -> str:
        """What a user types for it."""
        return str(self.root)

    def put(self, files: Mapping[str, bytes | str]) -> None:
        """Let files appear, or change, each as a new file in the place of the old one."""
        for key, content in files.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            # A new inode, so that wsgidav's ETag (inode, seconds, size) changes with every put.
            staged = path.with_name(f"{uuid.uuid4().hex}.new")
            staged.write_bytes(content.encode() if isinstance(content, str) else content)
            staged.replace(path)

    def remove(self, *keys: str) -> None:
        """Take files away."""
        for key in keys:
            (self.root / key).unlink()


class Share(Folder):
    """A folder of its own on a server.

    Args:
        server: What shows it.
    """

    def __init__(self, server: Server) -> None:
        self.name = f"share {uuid.uuid4().hex[:8]}"  # the space has to survive
        super().__init__(server.root / self.name)
        self.server = server
        self.remote = Remote(server.url, server.user, server.password)

    @property
    def location(self) -> str:
        """Its address."""
        return f"{self.server.url}{quote(self.name)}"

    def environ(self, name: str = "rshare", *, password: str | None = None) -> dict[str, str]:
        """Tell of its server as a deployment does, and of no other remote."""
        prefix = f"RCLONE_CONFIG_{name.upper()}"
        return {
            "RCLONE_CONFIG": os.devnull,
            f"{prefix}_TYPE": "webdav",
            f"{prefix}_URL": self.server.url,
            f"{prefix}_VENDOR": "nextcloud" if self.server.name == "nextcloud" else "other",
            f"{prefix}_USER": self.server.user,
            f"{prefix}_PASS": obscure(password or self.server.password),
        }

    def store(self, patience: Patience, *, password: str | None = None) -> Store:
        """Open it with another patience than a user has, and with another password where one is given."""
        remote = Remote(self.server.url, self.server.user, password or self.server.password)
        return open_store(self.location, remote, patience=patience)

    def requests(self, method: str | None = None) -> list[Request]:
        """Return what was asked of this folder since the last ``forget`` of the server, oldest first."""
        top = unquote(urlsplit(self.location).path)
        return [
            request
            for request in self.server.requests()
            if (request.path.rstrip("/") == top or request.path.startswith(f"{top}/"))
            and method in {None, request.method}
        ]

    def read_keys(self) -> list[str]:
        """Return the keys of what was fetched by itself, in the order that the server saw."""
        top = unquote(urlsplit(self.location).path)
        return [request.path[len(top) + 1 :] for request in self.requests("GET")]

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Let the server refuse connections inside the ``with``."""
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


def png(color: tuple[int, int, int], side: int = 4, mode: str = "RGB") -> bytes:
    """Return a small picture of one color, as a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).convert(mode).save(file, "PNG")
    return file.getvalue()
