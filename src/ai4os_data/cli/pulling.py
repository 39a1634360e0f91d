"""A checkpoint as local files: each verified by the manifest, which comes last; whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.cache import spool_room
from ai4os_data.checkpoint import MANIFEST
from ai4os_data.cli.progress import growing
from ai4os_data.machine import locks, ownership, sha256_of, shown_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.checkpoint import CheckpointName, RunView
    from ai4os_data.folders import Show
    from ai4os_data.stores import Store

_STAGED = ".ai4os-data-pull-"


class Pulled(NamedTuple):
    """A checkpoint on the local disk.

    Attributes:
        paths: of its files, without the manifest.
        size_bytes: of them all.
        fetched: how many of them came now.
    """

    paths: list[str]
    size_bytes: int
    fetched: int


def pull(store: Store, view: RunView, name: CheckpointName, directory: str, show: Show) -> Pulled:
    """Download a checkpoint; what is there already is not fetched again.

    Raises:
        OverwriteError: other files are in the way.
        OutOfSpaceError: the disk has no room for it.
        IntegrityError: it is damaged on the storage.
        StorageError: it cannot be read.
        OSError: the directory cannot be written.
    """
    manifest = view.manifest(name)
    written = {Path(directory, file): facts.sha256 for file, facts in manifest.files.items()}
    text = manifest.to_json()
    whole = {**written, Path(directory, MANIFEST): sha256_of(text)}
    there = {path for path in whole if os.path.lexists(path)}
    wrong = [path for path in there if not ownership.is_regular_file(path) or sha256_of(path) != whole[path]]
    if wrong:
        raise errors.OverwriteError(
            f"{directory}: {', '.join(sorted(path.name for path in wrong))} is no file of {name}. Nothing was "
            "overwritten; give another directory"
        )
    missing = [path for path in written if path not in there]
    with _staging(directory) as staging:
        _check_room(directory, sum(manifest.files[path.name].size_bytes for path in missing))
        for path in missing:
            facts, staged = manifest.files[path.name], staging / path.name
            if path.name not in view.files(name):
                raise errors.IntegrityError(f"{store.location}: {path.name} of {name} is not there")
            with growing(staged, facts.size_bytes, show):
                store.read_into(view.files(name)[path.name], staged, facts.sha256)
        (staging / MANIFEST).write_bytes(text)
        for path in (*missing, Path(directory, MANIFEST)):
            os.replace(staging / path.name, path)
    return Pulled([str(path) for path in written], manifest.size_bytes, len(missing))


def _check_room(directory: str, need_bytes: int) -> None:
    free, reserve = spool_room(directory)
    if need_bytes and need_bytes + reserve > free:
        raise errors.OutOfSpaceError(
            f"{directory}: the checkpoint needs {shown_size(need_bytes)}. {shown_size(free)} are free on that disk, of "
            f"which {shown_size(reserve)} stay in reserve. Nothing was fetched; make room, or give another directory"
        )


@contextmanager
def _staging(directory: str) -> Iterator[Path]:
    """A folder in the directory for what is not whole yet. If it comes to nothing, the directory goes too, if new."""
    is_new = not os.path.lexists(directory)
    os.makedirs(directory, exist_ok=True)
    with ExitStack() as end:
        if is_new:
            end.callback(_remove_if_empty, directory)
        _remove_abandoned(directory)
        staging = Path(tempfile.mkdtemp(prefix=_STAGED, dir=directory))
        end.callback(shutil.rmtree, staging, ignore_errors=True)
        lock = ownership.open_folder(staging)
        end.callback(locks.release, lock)
        locks.lock(lock)
        yield staging


def _remove_if_empty(directory: str) -> None:
    with suppress(OSError):
        os.rmdir(directory)


def _remove_abandoned(directory: str) -> None:
    """Remove what a killed process has staged."""
    for path in Path(directory).glob(f"{_STAGED}*"):
        if ownership.is_own_folder(path) and (lock := locks.lock_of_the_dead(path, is_folder=True)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            locks.release(lock)
