"""Which file system lies under a path, as the mount table says: local disk, network share, rclone mount."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_NETWORK_TYPES = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "davfs", "sshfs"),
        *("ceph", "glusterfs", "lustre", "beegfs", "gpfs", "ocfs2"),
    )
)
# rclone names a remote of the environment with a hash of its options: rshare{OhDHS}:sub
_RCLONE_SOURCE = re.compile(r"(?P<name>[^:{]+)(\{[^}]*\})?:(?P<path>.*)")

MOUNT_TABLE = Path("/proc/self/mounts")

_MOST_LINKS = 40  # as many as the kernel follows


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
    """The mount that a path lies on; None if there is no mount table.

    Only the table is read: touching a path on a dead mount can block.
    """
    mounts = _read(table)
    return _covering(_resolved(os.path.abspath(os.fspath(path)), mounts), mounts)


def remote_path(path: str | os.PathLike[str], table: Path = MOUNT_TABLE) -> tuple[str, str] | None:
    """The remote's name and the path below it that a local path shows; None if it is on no rclone mount."""
    mount = mount_of(path, table)
    found = mount.remote_path() if mount else None
    if mount is None or found is None:
        return None
    name, top = found
    below = os.path.relpath(resolved(path, table), mount.point)
    return name, "/".join(part for part in (top, "" if below == "." else below) if part)


def resolved(path: str | os.PathLike[str], table: Path = MOUNT_TABLE) -> str:
    """The path without symbolic links, except those on a network mount: looking at a dead one can block."""
    return _resolved(os.path.abspath(os.fspath(path)), _read(table))


def _resolved(path: str, mounts: list[Mount]) -> str:
    for _ in range(_MOST_LINKS):
        above = ""
        for part in path.strip("/").split("/"):
            above = f"{above}/{part}"
            mount = _covering(above, mounts)
            if mount is not None and mount.is_network:
                return path
            try:
                target = os.readlink(above)
            except OSError:
                continue  # it is no link
            path = os.path.normpath(os.path.join(os.path.dirname(above), target, path[len(above) + 1 :]))
            break
        else:
            return path
    return path


def _read(table: Path) -> list[Mount]:
    try:
        lines = os.fsdecode(table.read_bytes()).split("\n")
    except OSError:
        return []
    fields = [[_unescaped(field) for field in line.split(" ")[:3]] for line in lines]
    return [Mount(*three) for three in fields if len(three) == 3]


def _covering(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount with the longest point above a path; the last one on a point hides the others."""
    found: Mount | None = None
    for mount in mounts:
        covers = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if covers and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _unescaped(field: str) -> str:
    r"""Undo the octal escapes of the mount table (``\040`` for a space)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
