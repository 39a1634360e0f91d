"""Where copies go if nobody says, and where the records of all copies lie: on a local disk, this user's alone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import copies_candidates, digest, fallback, placement
from ai4os_data.machine import mounts, ownership
from ai4os_data.stores import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.stores import Store

_PLAIN = re.compile(r"[^\w.-]+")


def home(environ: Mapping[str, str]) -> str:
    """The folder for records, and for copies without a directory of their own.

    Raises:
        LocationError: none can be used.
    """
    reasons = []
    for candidate in copies_candidates(environ):
        path = os.path.abspath(os.path.expanduser(candidate))
        if (reason := _refusal(path)) is None:
            return path
        reasons.append(f"{path} {reason}")
    raise errors.LocationError(
        f"no folder for the records of local copies: {'; '.join(reasons)}. Set AI4OS_DATA_COPIES to a folder of yours"
    )


def _refusal(path: str) -> str | None:
    mount = mounts.mount_of(path)
    if mount is not None and mount.is_network:
        return f"is on {mount.kind} ({mount.source})"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        reason = ownership.refusal(path, is_fallback=path == os.path.abspath(fallback("copies")))
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    return reason or (None if os.access(path, os.W_OK | os.X_OK) else "cannot be written")


def record_of(home_path: str, directory: Path, identity: str) -> str:
    """The folder of the record of a copy.

    Args:
        home_path: of all records.
        directory: that of the copy, without links.
        identity: of the store that it is a copy of.
    """
    return f"{home_path}/records/{digest(str(directory), identity)}"


def check_place(directory: Path, store: Store) -> None:
    """See that a copy may be made in a directory.

    Args:
        directory: without links.
        store: what is copied.

    Raises:
        LocationError: it is on a network, or belongs to a cache, or is, contains or lies in what is copied.
    """
    mount = mounts.mount_of(directory)
    if mount is not None and mount.is_network:
        raise errors.LocationError(
            f"{directory} is on {mount.kind} ({mount.source}), and a copy belongs on a local disk. Give a directory on "
            "one, or none: then it goes beside the cache"
        )
    cache = next((path for path in (directory, *directory.parents) if placement.is_cache(str(path))), None)
    if cache is not None:
        raise errors.LocationError(f"{directory} is in the cache {cache}; give a directory of its own")
    if isinstance(store, DirectoryStore):
        source = Path(os.path.realpath(store.root)) if store.is_local else Path(store.root)
        if source == directory or source in directory.parents or directory in source.parents:
            raise errors.LocationError(
                f"{directory} and {store.root}, which is to be copied, lie in each other; give a directory beside it"
            )


def own_directory(home_path: str, location: str, identity: str) -> Path:
    """A directory for a copy without one: the same for the same location, with its name at the end."""
    name = _PLAIN.sub("-", location.rstrip("/").rpartition("/")[2].rpartition(":")[2]).strip("-.") or "copy"
    return Path(home_path, digest(identity)[:12], name)
