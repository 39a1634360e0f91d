"""Whose a folder or a file on the local disk is: nothing of ours goes through what another user has put there.

A name in a folder that everybody may write to, such as the one for temporary files, can be taken by anybody first: by a
folder of their own, or by a symbolic link to somewhere else. So a folder is looked at before anything is written below
it, and files in it are opened without following links, and without waiting for the other end of a pipe.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_OTHERS = 0o022  # may be written by the group, or by everybody
_BY_EVERYBODY = 0o002
_NO_DETOUR = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def user(number: int) -> str:
    """A user for people to read: the number, and the name if there is one."""
    try:
        return f"user {number} ({pwd.getpwuid(number).pw_name})"
    except KeyError:
        return f"user {number}"


def refusal(path: str | os.PathLike[str], *, is_fallback: bool = False) -> str | None:
    """Why our files must not go into a folder, as the end of a sentence; None if they may.

    A folder that the user has named may belong to root. It may be a link of the user's own, or one in a folder that
    only its owner writes to. On a file system that gives every file to one user, it belongs to that user.

    Args:
        path: the folder.
        is_fallback: whether nobody has named it, so that its name can be guessed. Then it must be ours alone, and no
            link.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        if is_fallback or (_is_open(os.path.dirname(os.path.abspath(path))) and found.st_uid != os.geteuid()):
            return f"is a symbolic link of {user(found.st_uid)}"
        found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid == os.geteuid():
        is_loose = is_fallback and found.st_mode & _BY_OTHERS
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})" if is_loose else None
    if not is_fallback and (found.st_uid == 0 or _gives_all_to(path, found.st_uid)):
        return None
    return _of_another(found)


def is_own_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder of this user's at a path itself, and no link to one."""
    found = _found(path)
    return found is not None and stat.S_ISDIR(found.st_mode) and _is_ours(path, found)


def own_file(path: str | os.PathLike[str]) -> os.stat_result | None:
    """What is known of a regular file of this user's at a path itself; None if there is none."""
    found = _found(path)
    return found if found is not None and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() else None


def is_regular_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file at a path itself, and no link to one."""
    found = _found(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def open_file(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file, made with mode 0600 if flags say so; a link is not followed, a pipe not waited for.

    Raises:
        OSError: there is something else (``ELOOP`` for a link, ``EINVAL`` for others), or what `os.open` says.
    """
    descriptor = os.open(path, flags | _NO_DETOUR, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return descriptor


def open_folder(path: str | os.PathLike[str]) -> int:
    """Open a folder itself; a link to one is not followed.

    Raises:
        OSError: there is something else (``ENOTDIR``), or what `os.open` says.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_DETOUR)


def home(environ: Mapping[str, str]) -> str | None:
    """The user's own folder: ``$HOME``, or what the table of users says; None if nothing says."""
    given = environ.get("HOME", "")
    if os.path.isabs(given):
        return given
    try:
        given = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container may run under a number that has no name
        return None
    return given if os.path.isabs(given) else None


def foreign(path: str | os.PathLike[str]) -> str | None:
    """Why something in a folder of ours must not be used, as the end of a sentence; None if it may be, or is missing.

    What root has made may be used, by reading it. A link of ours that leads to itself is damage.
    """
    found = _found(path)
    if found is None:
        return None
    if stat.S_ISLNK(found.st_mode):
        is_own_loop = found.st_uid == os.geteuid() and _is_loop(path)
        return None if is_own_loop else f"is a symbolic link of {user(found.st_uid)}"
    if found.st_uid == 0 or _is_ours(os.path.dirname(path), found):
        return None
    return _of_another(found)


def _found(path: str | os.PathLike[str]) -> os.stat_result | None:
    """What is at a path itself; None if there is nothing, or it cannot be looked at."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def _of_another(found: os.stat_result) -> str:
    return f"belongs to another user ({user(found.st_uid)}; this process runs as {user(os.geteuid())})"


def _is_ours(path: str | os.PathLike[str], found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() or _gives_all_to(path, found.st_uid)


def _is_loop(path: str | os.PathLike[str]) -> bool:
    """Whether a link leads back to itself: damage, through which nothing can be written or read elsewhere."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _is_open(folder: str) -> bool:
    """Whether anybody may have put something there."""
    return bool(os.stat(folder).st_mode & _BY_EVERYBODY)


def _gives_all_to(folder: str | os.PathLike[str], owner: int) -> bool:
    """Whether a folder's file system knows one user alone: then what we make there belongs to the folder's owner."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:  # it has no name, and leaves nothing
            return os.fstat(file.fileno()).st_uid == owner
    except OSError:
        return False
