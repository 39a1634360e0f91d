"""Folders to copy, what `diff -r` says of a copy, and which of its files are missing."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.support.odd_names import NAMES
from tests.support.sources import content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

KIB, MIB = 1024, 1024 * 1024
IN_RANGES_BYTES = 17 * MIB
DIR_CACHE_S = 0.1
"""How long a mount of these tests may hide what others did."""

STAGING = ".ai4os-data-"
_FIRST_S = 1_600_000_000  # long ago, so that no date is right by chance
_ODD = ("space", "hash", "percent-41", "plus", "question", "ampersand", "quotes", "tilde", "nfc", "emoji", "200 bytes")


def small_files(count: int, version: int = 1) -> dict[str, bytes]:
    """Files of up to 20 KB in three folders, one of them empty."""
    return {
        f"class-{number % 3}/{number:04d}.bin": content(f"{number} {version}", number * 977 % 20_000)
        for number in range(count)
    }


def mixed_files() -> dict[str, bytes]:
    """Files of every kind: small and empty, with odd names, one that is too large for memory, and one for ranges."""
    return {
        **small_files(12),
        **{f"odd/{NAMES[name]}": content(name, 100) for name in _ODD},
        "top.txt": b"top",
        "a/deep/folder/to disk.bin": content("to disk", 3 * MIB // 2),
        "in ranges.bin": content("in ranges", IN_RANGES_BYTES),
    }


def put(root: Path, files: Mapping[str, bytes], *, later_s: int = 0) -> None:
    """Let files appear, each as a new one in the place of the old, with dates of long ago.

    Args:
        root: where.
        files: their bytes.
        later_s: how much later their dates are; servers tell versions by whole seconds.
    """
    for number, (key, data) in enumerate(sorted(files.items())):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name("staged.new")
        staged.write_bytes(data)
        os.utime(staged, (_FIRST_S + number, _FIRST_S + number + later_s))
        staged.replace(path)


def remove(root: Path, keys: Iterable[str]) -> None:
    """Take files away, and the folders that are empty then, which no copy has."""
    for key in keys:
        (root / key).unlink()
        for folder in (root / key).parents:
            if folder == root or any(folder.iterdir()):
                break
            folder.rmdir()


def differences(source: Path, copy: Path | os.PathLike[str]) -> str:
    """What ``diff -r`` says; nothing if the two are the same."""
    command = ["diff", "-r", "-q", "--no-dereference", str(source), os.fspath(copy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="surrogateescape")
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def keys_of(root: Path) -> list[str]:
    """The keys of all files below a folder, in order, except for what a copier has under way there."""
    keys = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(STAGING)]
        keys += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(keys)


def left_over(target: Path) -> list[str]:
    """What a copier has left in its own folder, but for the parts of large files, which the next one goes on with."""
    return [path.name for path in target.glob(f"{STAGING}*/*") if not path.name.startswith("part-")]


def missing(source: Path, copy: Path) -> list[str]:
    """The keys of the files that a copy has not, or in another version."""
    return [
        key
        for key in keys_of(source)
        if not (copy / key).is_file() or (copy / key).read_bytes() != (source / key).read_bytes()
    ]


def dates(root: Path) -> dict[str, int]:
    """When each file changed, in whole seconds, as a server gives it."""
    return {key: int((root / key).stat().st_mtime) for key in keys_of(root)}
