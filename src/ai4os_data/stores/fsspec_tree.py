"""Every file below a folder of an fsspec file system, and what of it could not be listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

Info = dict[str, Any]
Failures = dict[str, OSError]

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tree(NamedTuple):
    """What was found: files by path, and by path why something could not be listed."""

    files: dict[str, Info]
    failures: Failures


def tree(system: AbstractFileSystem, top: str) -> Tree:
    """Every file below a folder that is there.

    fsspec's own `find` leaves out a folder that it may not list, without a word. So folders are listed one by one,
    unless the file system has a way of its own: S3 lists a thousand keys at a time.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    if _has_own_way(system):
        found: dict[str, Info] = system.find(top, detail=True)
        return Tree({path: info for path, info in found.items() if info.get("type") == "file"}, {})
    files: dict[str, Info] = {}
    failures: Failures = {}
    folders, seen = [top.rstrip("/")], {top.rstrip("/")}
    while folders:
        folder = folders.pop()
        try:
            for path, info in _members(system, folder):
                if info.get("type") == "directory":
                    folders += [path] if path not in seen else []
                    seen.add(path)
                elif is_file(system, path, info):
                    files[path] = info
                elif info.get("islink") or info.get("type") == "link":
                    failures[path] = OSError("a link to something else than a file, which is not followed here")
        except FileNotFoundError:
            continue  # it went meanwhile
        except OSError as error:
            if folder == top.rstrip("/"):
                raise
            failures[folder] = error
    return Tree(files, failures)


def is_file(system: AbstractFileSystem, path: str, info: Info) -> bool:
    """Whether something is a file, or a link to one: of local links fsspec says no more than that they are links."""
    if info.get("type") == "file":
        return True
    return bool(info.get("islink") or info.get("type") == "link") and bool(system.isfile(path))


def _members(system: AbstractFileSystem, folder: str) -> Iterator[tuple[str, Info]]:
    for info in system.ls(folder, detail=True):
        path = info["name"].rstrip("/")
        if path != folder or info.get("type") == "file":
            yield path, info


def _has_own_way(system: AbstractFileSystem) -> bool:
    if isinstance(system, AsyncFileSystem):
        return type(system)._find is not AsyncFileSystem._find  # noqa: SLF001  what its implementations override
    return type(system).find is not AbstractFileSystem.find
