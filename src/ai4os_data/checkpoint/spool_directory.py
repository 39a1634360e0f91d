"""The directory of spools: it is on a local disk, and belongs to this user alone.

Checkpoints in it are restored and sent, so another user who can write to it could replace them; and removing must not
reach files elsewhere. See docs/decisions/2026-11-28-whose-a-spool-is.md.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import fallback, spool_candidates
from ai4os_data.machine import mounts, ownership
from ai4os_data.stores import nearest
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_RUN = re.compile(r"[0-9a-f]{24}")
_ELSEWHERE = "give StorageCheckpoint another, as spool= or AI4OS_DATA_SPOOL"


def named_directory(spool: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """The directory that a ``spool=`` argument means; without it the first usable one.

    Raises:
        CheckpointError: none is given, and no directory can be used.
    """
    return usable_directory(environ) if spool is None else _absolute(spool)


def usable_directory(environ: Mapping[str, str]) -> Path:
    """The directory of spools if the user names none: beside the cache, or in the directory for temporary files.

    The second is used if the first cannot be made or written, or belongs to another user.

    Raises:
        CheckpointError: neither can be used.
    """
    reasons: list[str] = []
    for candidate in spool_candidates(environ):
        try:
            directory = prepared(_absolute(candidate))
        except errors.CheckpointError as error:
            reasons.append(str(error))
        else:
            if reasons:
                tell_once(f"{reasons[0]}. Until then checkpoints wait in {directory}")
            return directory
    raise errors.CheckpointError("; ".join(reasons))


def foreseen_directory(environ: Mapping[str, str]) -> tuple[Path, str | None]:
    """The directory that `usable_directory` would give, without making it; and why not, if none can be used."""
    judged = [(path, _refusal(path)) for path in map(_absolute, spool_candidates(environ))]
    return next((each for each in judged if each[1] is None), judged[0])


def _refusal(directory: Path) -> str | None:
    try:
        reason = _elsewhere(directory) or (_foreign(directory) if os.path.lexists(directory) else None)
    except OSError as error:  # a link to nothing
        return f"cannot be used: {error.strerror}"
    is_writable = os.access(nearest(str(directory)), os.W_OK | os.X_OK)
    return reason or (None if is_writable else "cannot be written")


def _absolute(directory: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(os.path.expanduser(directory)))


def _elsewhere(directory: Path) -> str | None:
    mount = mounts.mount_of(directory)
    if mount is None or not mount.is_network:
        return None
    return f"is on {mount.kind} ({mount.source}): a spool belongs on a local disk"


def _foreign(directory: Path) -> str | None:
    return ownership.refusal(directory, is_fallback=str(directory) == os.path.abspath(fallback("spool")))


def prepared(directory: Path) -> Path:
    """A directory for spools, made if it is missing. A link of the user's own is resolved here, once for all.

    Raises:
        CheckpointError: it cannot be made or written, is another user's, or is not on a local disk.
    """
    if (elsewhere := _elsewhere(directory)) is not None:
        raise errors.CheckpointError(f"{directory} {elsewhere}; {_ELSEWHERE}")
    try:
        try:
            _prepare(directory)
        except FileNotFoundError:  # somebody is removing it
            _prepare(directory)
    except OSError as error:
        raise errors.CheckpointError(
            f"{directory} cannot be used as a spool: {error.strerror}; {_ELSEWHERE}"
        ) from error
    return directory.resolve()


def _prepare(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (reason := _foreign(directory)) is not None:
        raise errors.CheckpointError(
            f"{directory} cannot be used as a spool: it {reason}, so that others could put checkpoints there, or move "
            f"yours; {_ELSEWHERE}: a folder that this process makes, such as {directory}-{os.geteuid()}"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(directory).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number))


def make_run_folder(folder: Path) -> None:
    """Make the folder of a run in the directory, which `prepared` has given, unless it is there.

    Another process that starts may remove it while it is empty.

    Raises:
        CheckpointError: there is something else, or it cannot be made.
    """
    try:
        if prepared(folder.parent) == folder.parent:
            with suppress(FileExistsError):  # something is there, which may be gone at the next look
                folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise errors.CheckpointError(
            f"{folder.parent} cannot be used as a spool: {error.strerror}; {_ELSEWHERE}"
        ) from error
    for path in (folder.parent, folder):
        if path.is_symlink() or (path == folder and not ownership.is_own_folder(path) and os.path.lexists(path)):
            raise errors.CheckpointError(f"{path} cannot be used as a spool: {_described(path)}; {_ELSEWHERE}")


def run_folders(directory: Path) -> Iterator[Path]:
    """The folders of runs in a directory: those with such a name that belong to this user."""
    with suppress(FileNotFoundError):
        for folder in sorted(directory.iterdir()):
            if _RUN.fullmatch(folder.name) and ownership.is_own_folder(folder):
                yield folder


def _described(path: Path) -> str:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return "somebody removes it as often as it is made"
    kind = "a symbolic link" if path.is_symlink() else "a folder" if path.is_dir() else "no folder"
    return f"it is {kind} of {ownership.user(found.st_uid)}"
