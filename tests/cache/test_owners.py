"""Nothing that another user has put into a place of ours is followed, waited for, written to or removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors, telemetry
from ai4os_data.cache import CachedStore, DiskCache, placement, session_of
from ai4os_data.cache.temporaries import TemporaryBody
from ai4os_data.http.refusals import Refusals
from ai4os_data.locations.remotes import Remote
from ai4os_data.machine import ownership, shared_memory
from tests.support.crowd import Warnings, wrong_keys
from tests.support.owners import NOBODY, as_root, public_folder
from tests.support.sources import source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that everybody may write to."""
    return public_folder(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["objects", "listings", "index", "leases", "lock", "names", placement.MARKER])
def test_link_among_the_parts_of_a_cache_is_refused(tmp_path: Path, name: str) -> None:
    """The target of the link is neither written to nor truncated, and the error names the part."""
    directory, victim = tmp_path / "cache", tmp_path / "victim"
    directory.mkdir()
    victim.write_bytes(b"years of work")
    (directory / name).symlink_to(victim)
    with pytest.raises(errors.CacheError, match=rf"{name}.* is a symbolic link of user"):
        DiskCache(directory, "8MiB")
    assert victim.read_bytes() == b"years of work"


@as_root
@pytest.mark.parametrize("name", ["objects", "lock", placement.MARKER])
def test_part_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    """Another user's part is refused: its owner could replace the bytes that are stored."""
    DiskCache(tmp_path / "cache", "8MiB").stats()
    os.chown(tmp_path / "cache" / name, NOBODY, NOBODY)
    with pytest.raises(errors.CacheError, match=rf"{name}.* belongs to another user \(user {NOBODY}"):
        DiskCache(tmp_path / "cache", "8MiB")


@as_root
def test_directory_of_another_user_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Another user's directory is refused to root too; a folder that this process makes in it is accepted."""
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    with pytest.raises(errors.CacheError, match="belongs to another user"):
        DiskCache(tmp_path / "theirs", "8MiB")
    assert [*(tmp_path / "theirs").iterdir()] == []
    assert DiskCache(tmp_path / "theirs" / "mine", "8MiB").stats()["entries"] == 0


@as_root
def test_directory_that_another_user_makes_after_a_removal_is_not_used(tmp_path: Path) -> None:
    """Reading goes on over the network, with one warning, and nothing is written there."""
    directory = tmp_path / "cache"
    files = source([10_000] * 8, "remade")
    cached = CachedStore(files, DiskCache(directory, "8MiB"))
    assert wrong_keys(cached, files, files.list()[:4]) == []
    shutil.rmtree(directory)
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    with Warnings() as warnings:
        assert wrong_keys(cached, files, files.list()) == []
    assert [*directory.iterdir()] == []
    assert len(warnings) == 1
    assert "belongs to another user" in warnings[0]


@pytest.mark.parametrize("name", ["names.new", ".ai4os-data-probe"])
def test_link_under_a_name_that_is_written_later_is_not_followed(tmp_path: Path, name: str) -> None:
    """Neither a new file of names nor the probe for write access truncates the target of a link."""
    directory, victim = tmp_path / "cache", tmp_path / "victim"
    victim.write_bytes(b"years of work")
    files = source([10_000] * 8, "links")
    cache = DiskCache(directory, "8MiB")
    cached = CachedStore(files, cache)
    assert wrong_keys(cached, files, files.list()) == []
    (directory / name).symlink_to(victim)
    if name == "names.new":
        with pytest.raises(OSError, match="symbolic links"):
            session_of(cache).objects.rewrite_names()
    else:
        with pytest.raises(errors.CacheError, match="symbolic links"):
            DiskCache(directory, "8MiB")
    assert victim.read_bytes() == b"years of work"
    assert wrong_keys(cached, files, files.list()) == []


def test_link_to_a_larger_disk_is_the_users_own(tmp_path: Path) -> None:
    """A cache directory may be a link that the user has made."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert DiskCache(tmp_path / "cache", "8MiB").stats()["entries"] == 0


@pytest.mark.parametrize("kind", ["link", "mode", pytest.param("owner", marks=as_root)])
def test_auto_does_not_take_what_others_have_made_among_temporary_files(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The fallback's name can be guessed, so the folder must belong to this user alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "target").mkdir()
    path = shared / f"ai4os-data-cache-{os.getuid()}"
    if kind == "link":
        path.symlink_to(tmp_path / "target")
    else:
        path.mkdir()
        path.chmod(0o777)
        if kind == "owner":
            path.chmod(0o700)
            os.chown(path, NOBODY, NOBODY)
    with pytest.raises(errors.CacheError, match=r"symbolic link|written by others|belongs to another user"):
        DiskCache(size_limit="8MiB")
    assert [*path.iterdir()] == []


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "~"}, {"XDG_CACHE_HOME": "here", "HOME": "there"}])
def test_no_candidate_lies_below_the_current_directory(environ: dict[str, str]) -> None:
    """Every candidate is absolute, also if the user's home is unknown."""
    found = [*placement.candidates(environ), *placement.spool_candidates(environ)]
    assert all(os.path.isabs(path) for path in found)


def test_home_comes_from_the_environment_or_the_table_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The home is None if neither says, as for a container's user of any number."""
    assert ownership.home({"HOME": "/home/mine"}) == "/home/mine"
    assert os.path.isabs(ownership.home({}) or "")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert ownership.home({}) is None
    assert ownership.user(54321) == "user 54321"


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for counters."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(folder))
    return folder


def dead_name() -> str:
    """Return the name of counters of an owner that is dead."""
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return f"ai4os-data-counters-{int(child.stdout)}-0123456789ab-01234567"


def test_pipes_and_links_among_counters_are_left_alone(counting: Path, tmp_path: Path) -> None:
    """A pipe under the name of counters is not opened: each process that starts would wait for it."""
    os.mkfifo(counting / dead_name())
    (counting / f"{dead_name()}-link").symlink_to(tmp_path)
    os.mkfifo(counting / f"ai4os-data-new-{'0' * 24}")
    os.utime(counting / f"ai4os-data-new-{'0' * 24}", (0, 0))
    before = sorted(path.name for path in counting.iterdir())
    counters = telemetry.Counters()
    counters.row[telemetry.HITS] += 1
    assert counters.totals()["hits"] == 1
    assert set(before) <= {path.name for path in counting.iterdir()}


@as_root
def test_counters_of_another_user_are_left_alone(counting: Path) -> None:
    """Root leaves them alone: their owner may live in a container whose processes root does not see."""
    theirs, ours = counting / dead_name(), counting / dead_name()
    for path in (theirs, ours):
        path.write_bytes(bytes(100))
    os.chown(theirs, NOBODY, NOBODY)
    telemetry.Counters()
    assert theirs.exists()
    assert not ours.exists()


def test_pipes_and_links_among_paths_are_left_alone(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead process's file is removed; a pipe or link under such a name stays, and is not waited for."""
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr("ai4os_data.cache.temporaries._next_sweep", 0.0)
    victim = tmp_path / "victim"
    victim.write_bytes(b"years of work")
    dead = dead_name().split("-")[3]
    pipe, link, ours = (shared / f"ai4os-data-path-{dead}-{name}" for name in ("pipe", "link", "ours"))
    os.mkfifo(pipe)
    link.symlink_to(victim)
    ours.write_bytes(b"")
    for path in (pipe, ours, victim):
        os.utime(path, (time.time() - 1000,) * 2)
    os.unlink(TemporaryBody("x.jpg").take())
    assert pipe.exists()
    assert link.is_symlink()
    assert not ours.exists()
    assert victim.exists()


def test_mark_of_a_refusal_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that somebody else has made nothing is written; a link is no mark of ours."""
    folder, victim = tmp_path / "marks", tmp_path / "victim"
    monkeypatch.setattr("ai4os_data.http.refusals._folder", lambda: str(folder))
    victim.write_bytes(b"years of work")
    refusals = Refusals(Remote("https://cloud.example/dav", user="u", password="p"))
    folder.mkdir(mode=0o700)
    (folder / os.path.basename(refusals._mark)).symlink_to(victim)
    assert not refusals.stands()
    refusals.record()
    assert victim.read_bytes() == b"years of work"
    refusals.accepted()
    folder.chmod(0o777)
    refusals.record()
    assert [*folder.iterdir()] == []
    assert not refusals.stands()
    folder.chmod(0o700)
    refusals.record()
    assert refusals.stands()
