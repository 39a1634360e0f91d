"""Whether a mount writes through: whether a file that it has closed is on the server, or still in its cache.

The flags of a mount cannot be seen from another container, so it is tried. A mount that writes through sends a file
while it is written, so that an earlier position cannot be written again. A mount that allows that keeps the file on its
own disk first, and its close succeeds whatever the server answers later.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai4os_data.machine import Mount

# On these file systems a close sends everything, as POSIX applications expect; going back works there too.
_SENT_WHEN_CLOSED = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "beegfs", "gpfs"})
_PROBE = ".ai4os-data-probe-"
_PROBE_BYTES = 4096


def writes_through(directory: str, mount: Mount) -> bool:
    """Whether a file that was closed on a mount has been sent to the server.

    Args:
        directory: one on the mount, to which two small files are written, and removed again.
        mount: the mount.

    Raises:
        OSError: nothing can be written there at all.
    """
    if mount.kind in _SENT_WHEN_CLOSED:
        return True
    try:
        _write(directory, goes_back=True)
    except OSError:
        _write(directory, goes_back=False)  # if this fails too, going back was not the reason
        return True
    return False


def _write(directory: str, *, goes_back: bool) -> None:
    """Write a small file from beginning to end, and then its beginning again if `goes_back`; close and remove it."""
    path = f"{directory}/{_PROBE}{secrets.token_hex(8)}"
    try:
        with open(path, "xb", buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
            if goes_back:
                file.seek(0)
                file.write(b"1")
    finally:
        with suppress(OSError):  # the mount may have refused the file
            os.unlink(path)
