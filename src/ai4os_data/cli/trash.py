"""How much of ours lies in the trash bin of a Nextcloud: checkpoints that were removed, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint import MANIFEST, CheckpointName
from ai4os_data.cli.finding import Finding
from ai4os_data.machine import shown_size
from ai4os_data.stores import NextcloudUrls, TrashBin

if TYPE_CHECKING:
    from ai4os_data.stores import NextcloudStore


def trash_of(store: NextcloudStore) -> Finding | None:
    """What lies there; None if there is no trash bin, or it cannot be read."""
    urls = NextcloudUrls.of(store.remote)
    if urls is None:
        return None
    try:
        entries = TrashBin(store.dav, urls).entries()
    except errors.StorageError:
        return None
    ours = [entry for entry in entries if is_of_checkpoint(entry.location)]
    if not ours:
        return Finding("good", "trash bin", "no checkpoint lies in it")
    size = shown_size(sum(entry.size_bytes for entry in ours))
    return Finding(
        "fair",
        "trash bin",
        f"{len(ours)} entries of removed checkpoints, {size}",
        "they do not count against the quota, and fill the server's disk until it expires them; to remove them now, "
        "delete them on the server's web page, under 'Deleted files'",
    )


def is_of_checkpoint(location: str) -> bool:
    """Whether a checkpoint was at a path, or its manifest, or another file of it."""
    parts = location.split("/")
    if parts[-1] == MANIFEST or parts[-1].startswith("state-"):
        parts.pop()
    return CheckpointName.parse("/".join(parts[-2:])) is not None
