"""The paths that Lightning passes to a plugin: the locations that they mean, and which of them it sees as taken."""

from __future__ import annotations

import os
import posixpath
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import fsspec.core

from ai4os_data import errors
from ai4os_data.http import PASSING, Patience
from ai4os_data.locations import LINKED, Remote
from ai4os_data.locations import parsing as locations
from ai4os_data.stores import open_store
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# A Path turns two slashes into one.
_COLLAPSED = re.compile(r"^(?P<scheme>ai4os|webdavs?|davs?|https?):/(?!/)")
_OURS = "ai4os://"
_SCRATCH = re.compile(r"\.(lr_find|scale_batch_size)_[0-9a-f-]{36}\.ckpt")


def meant_by(path: str | os.PathLike[str]) -> str:
    """The location that a path means: also ``Path("ai4os://rshare/x")``."""
    return _COLLAPSED.sub(r"\g<scheme>://", os.fspath(path))


def is_scratch(location: str) -> bool:
    """Whether it is a temporary file of Lightning's tuner."""
    return _SCRATCH.fullmatch(posixpath.basename(location)) is not None


def target_of(location: str) -> str:
    """What a link of this machine leads to, as ``save_last="link"`` makes one; any other location as it is."""
    return os.path.realpath(location) if os.path.islink(location) else location


def shown_paths(locations_: Iterable[str]) -> Iterator[str]:
    """The paths in the file system ``ai4os://`` of those locations that it can show."""
    return (one.removeprefix(_OURS).strip("/") for one in locations_ if one.startswith(_OURS))


def is_shown_as_taken(location: str, remote: str | Remote | None) -> bool:
    """Let Lightning see that a path is taken while its save is on its way: it then gives the next one a version.

    Returns:
        Whether Lightning sees it; if not, the save has to arrive first.
    """
    kind = locations.parse(location)
    if isinstance(kind, locations.DirectoryLocation):  # the listing of a mount may be minutes old
        with suppress(OSError):  # the save itself raises the error
            os.makedirs(location, exist_ok=True)
        return os.path.exists(location)
    if isinstance(kind, locations.FsspecLocation):
        above, name = posixpath.split(location.rstrip("/"))
        with suppress(*PASSING):
            open_store(above, remote, create=True, patience=Patience()).make_folder(name)
        files, path = fsspec.core.url_to_fs(location)
        files.invalidate_cache()
        return bool(files.exists(path))
    if "://" in location and not location.startswith(_OURS):
        log.warning(
            "Lightning cannot look at %s, so names that repeat take each other's place: write ai4os://REMOTE/PATH",
            locations.shown(location),
        )
    return True


def refuse_local(location: str, remote: str | Remote | None) -> None:
    """Refuse a local path that was meant as a location: Lightning puts the current directory before it.

    Raises:
        LocationError: it is one.
    """
    if not location.startswith("/") or ":" not in location:
        return
    given = remote.name if isinstance(remote, Remote) else remote
    names = {"ai4os", LINKED, (given or LINKED).lower()}
    names |= {known.name.lower() for known in Remote.known() if known.name}
    parts = location.split("/")
    for number, part in enumerate(parts):
        name, colon, begin = part.partition(":")
        if colon and name.lower() in names:
            meant = [*([] if name == "ai4os" else [name]), *([begin] if begin else []), *parts[number + 1 : -1]]
            raise errors.LocationError(
                f"{location} is a path of this machine, made of a location by Lightning: write it as a string, "
                f"dirpath='ai4os://{'/'.join(meant)}'"
            )
