"""Which file system lies under a path, as the mount table tells: local disk, network share, rclone mount."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_NETWORK_TYPES = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "beegfs",
        "gpfs",
        "ocfs2",
        "davfs",
        "sshfs",
    }
)
# rclone names a remote of the environment with a hash of its options: rshare{OhDHS}:sub
_RCLONE_SOURCE = re.compile(r"(?P<name>[^:{]+)(\{[^}]*\})?:(?P<path>.*)")

MOUNT_TABLE = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Mount:
    """One line of the mount table.

    Attributes:
        source: what is mounted.
        point: the directory it is mounted on.
        kind: the file system's type.
    """

    source: str
    point: str
    kind: str

    @property
    def is_network(self) -> bool:
        """Whether its files come over a network, or from a user's process that may be gone."""
        return self.kind in _NETWORK_TYPES or self.kind.startswith("fuse")

    @property
    def is_memory(self) -> bool:
        """Whether its files take main memory."""
        return self.kind in {"tmpfs", "ramfs"}

    @property
    def is_rclone(self) -> bool:
        """Whether it is an rclone mount."""
        return self.kind == "fuse.rclone"

    def remote_path(self) -> tuple[str, str] | None:
        """The remote's name and the path below it that an rclone mount shows; None for any other mount."""
        match = _RCLONE_SOURCE.fullmatch(self.source)
        if not self.is_rclone or match is None:
            return None
        return match["name"], match["path"].strip("/")


def mount_of(path: str | os.PathLike[str], table: Path = MOUNT_TABLE) -> Mount | None:
    """The mount that a path lies on; None where there is no mount table.

    It asks the table alone: to touch a path on a dead mount can block.
    """
    path = os.path.abspath(os.fspath(path))
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    found: Mount | None = None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        source, point, kind = (_unescaped(field) for field in fields[:3])
        covers = path == point or path.startswith(point.rstrip("/") + "/")
        if covers and (found is None or len(point) >= len(found.point)):  # the last mount on a point hides the others
            found = Mount(source, point, kind)
    return found


def _unescaped(field: str) -> str:
    r"""Undo the octal escapes of the mount table (``\040`` for a space)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
