"""A Nextcloud that somebody runs, and what its administrator lets these tests do to it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sqlite3
import subprocess
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ai4os_data import Remote, errors
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Store

PREFIX = "AI4OS_DATA_LIVE_NEXTCLOUD"
REASONS = {
    "": "its address, such as https://cloud.example",
    "_USER": "a user whose files may be written to, in a folder that is removed again",
    "_PASSWORD": "the user's app password",
    "_OCC": "a command that runs occ, to switch maintenance, quota and app passwords",
    "_STOP": "a command that stops the server",
    "_START": "a command that starts it again",
    "_DATA": "its data directory, with owncloud.db in it, to put many files and a lock there",
}


def wanted(*names: str) -> tuple[str, ...]:
    """Return what these variables hold, or skip the test that asks, by name."""
    missing = [name for name in names if not os.environ.get(PREFIX + name)]
    if missing:
        pytest.skip("; ".join(f"no {PREFIX}{name} ({REASONS[name]})" for name in missing))
    return tuple(os.environ[PREFIX + name] for name in names)


@dataclass(frozen=True)
class Cloud:
    """One folder of one account."""

    url: str
    user: str
    password: str = field(repr=False)
    folder: str = field(default_factory=lambda: f"ai4os-data live {uuid.uuid4().hex[:8]}")

    @property
    def remote(self) -> Remote:
        """Its account."""
        return Remote(f"{self.url}/remote.php/dav/files/{quote(self.user)}", self.user, self.password)

    @property
    def location(self) -> str:
        """The folder's address."""
        return f"{self.remote.url}/{quote(self.folder)}"

    @property
    def version(self) -> int:
        """The major version, as the server tells everybody."""
        with urllib.request.urlopen(f"{self.url}/status.php") as answer:  # noqa: S310  the address is the tester's own
            found = re.search(rb'"versionstring":"(\d+)', answer.read())
        assert found is not None
        return int(found[1])

    def store(self, below: str = "", patience: Patience | None = None) -> Store:
        """Open the folder, or one below it that may be missing yet."""
        return open_store(f"{self.location}/{quote(below)}".rstrip("/"), self.remote, patience=patience, create=True)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Upload files, one after the other."""
        store = self.store()
        for key, data in files.items():
            store.write(key, data)

    def remove(self) -> None:
        """Remove all that was made."""
        with suppress(errors.NotFoundError):
            open_store(self.remote.url, self.remote).remove_tree(self.folder)

    # --- what takes an administrator

    def occ(self, *arguments: str, **environ: str) -> str:
        """Run occ, and return what it prints."""
        (command,) = wanted("_OCC")
        ended = subprocess.run(
            [*shlex.split(command), *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **environ},
        )
        return ended.stdout

    @contextmanager
    def maintenance(self) -> Iterator[None]:
        """Be in maintenance inside the ``with``."""
        self.occ("maintenance:mode", "--on")
        try:
            yield
        finally:
            self.occ("maintenance:mode", "--off")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let nothing listen inside the ``with``."""
        stop, start = wanted("_STOP", "_START")
        subprocess.run(shlex.split(stop), check=True, capture_output=True)
        try:
            yield
        finally:
            time.sleep(1)  # the address has to be free again
            subprocess.run(shlex.split(start), check=True, capture_output=True)

    @contextmanager
    def quota(self, size: str) -> Iterator[None]:
        """Let the account have no more than this inside the ``with``."""
        before = self.occ("user:setting", self.user, "files", "quota", "--default-value=none").strip()
        self.occ("user:setting", self.user, "files", "quota", size)
        try:
            yield
        finally:
            self.occ("user:setting", self.user, "files", "quota", before)

    @property
    def files_on_disk(self) -> Path:
        """Where the folder lies on the server's own disk."""
        (data,) = wanted("_DATA")
        return Path(data, self.user, "files", self.folder)

    def scan(self) -> None:
        """Let the server take up what was put onto its disk."""
        owner = self.files_on_disk.parent.stat()
        for path in [self.files_on_disk, *self.files_on_disk.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)
        self.occ("files:scan", "--path", f"{self.user}/files/{self.folder}")

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock on a file that a request which died has left behind, inside the ``with``."""
        (data,) = wanted("_DATA")
        path = f"files/{self.folder}/{key}"
        name = "files/" + hashlib.md5(f"home::{self.user}::{path}".encode(), usedforsecurity=False).hexdigest()
        database = sqlite3.connect(Path(data, "owncloud.db"), timeout=30, isolation_level=None)
        try:
            database.execute(
                'INSERT OR REPLACE INTO oc_file_locks ("lock", "key", ttl) VALUES (-1, ?, ?)',
                (name, int(time.time()) + 3600),
            )
            yield
        finally:
            database.execute('DELETE FROM oc_file_locks WHERE "key" = ?', (name,))
            database.close()
