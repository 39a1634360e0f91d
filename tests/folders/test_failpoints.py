"""Killed at any step of a copy, what lies under a name is whole and ours, and the next call fetches just the rest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ai4os_data import local_copy
from tests.support.copies import differences, keys_of, missing, put, remove
from tests.support.failpoints import run_until
from tests.support.shares import Folder, Share
from tests.support.sources import content, tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.nextcloud import NextcloudServer
    from tests.support.servers import ApacheServer, WsgidavServer

MADE = {"open", "write", "link", "unlink", "mkdir", "utime"}
LARGE = 17 * 1024 * 1024


class Changes(NamedTuple):
    """What a source has, at first and later.

    Attributes:
        first: the files of a copy that is whole before anybody dies; none for one that begins.
        then: the files that are new or changed in each of two versions later.
        gone: those that vanish with the first of them.
    """

    first: dict[str, bytes]
    then: tuple[dict[str, bytes], dict[str, bytes]]
    gone: tuple[str, ...] = ()


def files(version: int, *keys: str) -> dict[str, bytes]:
    """Some small files, in a version that has a size of its own."""
    return {key: content(f"{key} {version}", 500 + version) for key in keys}


# Two names that would be one on some disks, which is tried.
NEW = Changes({}, (files(1, "a.bin", "A.bin", "b/c.bin"), files(2, "a.bin")))
UPDATE = Changes(
    files(0, "same.bin", "a.bin", "b/c.bin", "b/gone.bin", "only/gone.bin"),
    (files(1, "a.bin", "b/c.bin", "new/e.bin"), files(2, "a.bin", "b/c.bin")),
    ("b/gone.bin", "only/gone.bin"),
)
IN_RANGES = Changes({}, ({"large.bin": content("large", LARGE)}, files(2, "a.bin")))


def die_everywhere(source_of: Callable[[int], Folder], tmp_path: Path, changes: Changes) -> set[str]:
    """Let a copier die at its step n = 1, 2, … until one comes to its end, and again at the same of the next version.

    A file that is under its name is whole: the old one, or the new one. The next call takes none of ours for somebody
    else's, fetches exactly the files that are not there in the newest version, and then `diff -r` is empty.
    """
    fatal = 0
    while True:
        fatal += 1
        source, target = source_of(fatal), tmp_path / f"copy-{fatal}"

        def copy(_: object = None, source: Folder = source, target: Path = target) -> float:
            done = local_copy(source.location, target, remote=source.remote, progress=False)
            return done.stats()["fetched"]

        if changes.first:
            put(source.root, changes.first)
            copy()
        versions, trials = [changes.first], []
        for number, changed in enumerate(changes.then):
            put(source.root, changed, later_s=1000 * (number + 1))
            remove(source.root, () if number else changes.gone)
            versions.append(changed)
            trials.append(run_until(fatal, copy).steps)
            for key in keys_of(target):
                assert (target / key).read_bytes() in [some.get(key) for some in versions], f"{key}, at {fatal}"
        left = missing(source.root, target)
        assert copy() == len(left), f"at {fatal}"
        assert differences(source.root, target) == "", f"at {fatal}"
        if None not in trials:
            steps = trials[0] or Counter()
            tell(f"N = {steps.total()} {dict(sorted(steps.items()))}")
            return set(steps)


def directories(tmp_path: Path) -> Callable[[int], Folder]:
    """Sources on this disk, each time another."""
    return lambda number: Folder(tmp_path / f"source-{number}")


@pytest.mark.parametrize("changes", [NEW, UPDATE], ids=["new", "update"])
def test_killed_anywhere_over_a_directory(changes: Changes, tmp_path: Path) -> None:
    """Every step that writes, links, renames or removes."""
    steps = die_everywhere(directories(tmp_path), tmp_path, changes)
    assert (MADE if changes is NEW else MADE | {"rename", "rmdir"}) <= steps


def test_killed_anywhere_over_nextcloud(nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """Every request too."""
    assert {"PROPFIND", "GET"} <= die_everywhere(lambda _: Share(nextcloud), tmp_path, UPDATE)


def test_killed_anywhere_in_a_large_file(wsgidav: WsgidavServer, tmp_path: Path) -> None:
    """It comes in ranges, and what came of it is no file of the copy."""
    assert {"PROPFIND", "GET"} <= die_everywhere(lambda _: Share(wsgidav), tmp_path, IN_RANGES)


@pytest.mark.long
def test_killed_anywhere_over_webdav(wsgidav: WsgidavServer, tmp_path: Path) -> None:
    """Single files."""
    assert {"PROPFIND", "GET"} <= die_everywhere(lambda _: Share(wsgidav), tmp_path, UPDATE)


@pytest.mark.long
def test_killed_anywhere_over_apache(apache: ApacheServer, tmp_path: Path) -> None:
    """A server that lists folder by folder."""
    assert {"PROPFIND", "GET"} <= die_everywhere(lambda _: Share(apache), tmp_path, UPDATE)
