"""The mount of the linked storage: which location it shows, whether it answers, and whether what it shows is fresh."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cli.finding import Finding
from ai4os_data.locations import LINKED, Remote, main_name
from ai4os_data.stores import Store, within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.machine import Mount


def linked(mount: Mount | None, environ: Mapping[str, str]) -> str | None:
    """The location of the storage that is linked: the mount's own remote, else ``rshare``, else the only one."""
    shown = mount.remote_path() if mount is not None else None
    names = [remote.name for remote in Remote.known(environ) if remote.name]
    if shown is not None and shown[0] in names:
        return f"{shown[0]}:{shown[1]}"
    name = LINKED if LINKED in names else next(iter(names), None) or main_name(environ)  # this one says what is wrong
    return f"{name}:" if name else None


def mounted(storage: str, mount: Mount | None, deadline_s: float, *, has_remote: bool) -> Finding:
    """Whether the storage is mounted, and answers."""
    if mount is None or not mount.is_network:
        if not os.path.isdir(storage):
            return Finding("fair", "mounted", f"there is no {storage}", "nothing to do: WebDAV needs no mount")
        return Finding(
            "fair",
            "mounted",
            f"{storage} is a plain directory: nothing that is written there is kept",
            "link a storage to the deployment, or read and write 'rshare:path'; never write to this directory",
        )
    try:
        names = within(deadline_s, lambda: os.listdir(storage), f"{storage} does not answer")
    except (OSError, errors.StorageError) as error:
        advice = (
            "to have it back; 'rshare:path' works without it"
            if has_remote
            else ": it does not come back by itself; with the credentials of the remote, which `rclone config` can "
            "set, 'rshare:path' works without it"
        )
        return Finding(
            "fair" if has_remote else "bad",
            "mounted",
            f"{storage} is a mount of {mount.source}, and dead ({error})",
            f"restart the deployment{' ' if has_remote else ''}{advice}",
        )
    return Finding("good", "mounted", f"{storage} shows {mount.source} ({mount.kind}), {len(names)} names at its top")


def fresh(storage: str, store: Store, deadline_s: float) -> Finding:
    """Whether the mount shows what the server has; a mount keeps its listings for five minutes."""
    late = "{}: no answer within the deadline".format
    try:
        seen = within(deadline_s, lambda: set(os.listdir(storage)), late(storage))
        files, folders = within(deadline_s, lambda: store.members(""), late(store.location))
    except (OSError, errors.StorageError) as error:
        return Finding("fair", "fresh", str(error), "read 'rshare:path', which needs no mount")
    there = {entry.key for entry in files} | set(folders)
    if seen == there:
        return Finding("good", "fresh", "the mount shows what the server has")
    return Finding(
        "fair",
        "fresh",
        f"the mount misses {len(there - seen)} names and shows {len(seen - there)} that are gone",
        "wait five minutes, or read 'rshare:path', which is never stale",
    )
