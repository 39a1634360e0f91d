"""Remembers that a server refused some credentials, for every process of this machine that holds them.

Nextcloud shuts an address out after a few wrong passwords, for the right one too. So the first 401 ends the asking
everywhere: whoever already held these credentials then asks no more. Who comes later may try once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai4os_data.remotes import Remote


class Refusals:
    """The mark that one set of credentials was refused: an empty file, whose name tells nothing."""

    def __init__(self, remote: Remote) -> None:
        self.held_since = time.time()
        self._mark = f"{_folder()}/{_fingerprint(remote)}"

    def record(self) -> None:
        """Tell everyone who holds these credentials that they were refused."""
        with suppress(OSError):  # without the mark each process finds out by itself
            os.makedirs(os.path.dirname(self._mark), mode=0o700, exist_ok=True)
            os.close(os.open(self._mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            now_ns = time.time_ns()
            os.utime(self._mark, ns=(now_ns, now_ns))  # the kernel's own stamp may be a tick older than held_since

    def stands(self) -> bool:
        """Whether these credentials were refused since we have held them."""
        try:
            refused = os.stat(self._mark)
        except OSError:
            return False
        return refused.st_uid == os.getuid() and refused.st_mtime >= self.held_since


def _folder() -> str:
    # Memory is in no snapshot of the disk, and the folder in it is our own, mode 0700.
    shared = "/dev/shm"  # noqa: S108
    return f"{shared if os.access(shared, os.W_OK) else tempfile.gettempdir()}/ai4os-data-{os.getuid()}"


def _fingerprint(remote: Remote) -> str:
    """A name for the credentials, keyed by the running kernel so that nobody can try guesses on it later."""
    try:
        key = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        key = b""
    secret = "\0".join(
        [remote.origin, remote.user or "", remote.password or "", remote.token or "", *map(repr, remote.headers)]
    )
    return hashlib.blake2b(secret.encode(), key=key[:64], digest_size=16).hexdigest()
