"""The cache command looks at a cache, checks it and empties it, and touches nothing else."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data.cache import CachedStore, DiskCache, session_of
from ai4os_data.cli.main import main
from tests.support.crowd import wrong_keys
from tests.support.disks import tmpfs
from tests.support.sources import source

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

KiB = 1024
MiB = 1024 * KiB


@pytest.fixture
def auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where "auto" puts its cache first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ai4os-data"


def filled(directory: Path, entries: int = 5, limit: int | str = "20MB") -> DiskCache:
    """A cache with entries of 100 KiB, and one kept listing."""
    files = source([100 * KiB] * entries, f"command {entries}")
    cache = DiskCache(directory, limit)
    assert wrong_keys(CachedStore(files, cache), files, files.list()) == []
    session_of(cache).keep_listing("0" * 32, b"listing")
    cache.stats()
    return cache


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(4 * KiB))


def entries(directory: Path) -> list[Path]:
    """The cached files."""
    return [path for path in (directory / "objects").rglob("*") if path.is_file()]


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    """Every file, with its size and when it was changed."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.rglob("*") if not path.is_dir()}


def test_info_tells_what_is_there_and_changes_nothing(auto: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default it shows the directory that "auto" uses; the limit is shown as given, in both units."""
    filled(auto).close()
    before = snapshot(auto)
    assert main(["cache", "info"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{auto}\n")
    for line in ("19 MiB (20,000,000 bytes)", "5 files of datasets, 500 KiB", "1 kept", 'size_limit="auto" would give'):
        assert line in told
    assert snapshot(auto) == before


def test_info_tells_who_made_it_small(auto: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A note says how much is left to a checkpoint, and until when; a cache in use is shown as such."""
    cache = filled(auto)
    cache.give_way(4 * MiB)
    assert main(["cache", "info"]) == 0
    told = capsys.readouterr().out
    assert "left to a checkpoint" in told
    assert "in use" in told
    assert cache.stats()["size_limit"] == 20_000_000


def test_info_of_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command needs no room itself, and can clear a cache on a full disk."""
    with tmpfs(tmp_path / "disk", 8 * MiB) as disk:
        filled(disk / "cache").close()
        fill(disk)
        assert main(["cache", "info", str(disk / "cache")]) == 0
        assert "nearly full" in capsys.readouterr().out
        assert main(["cache", "clear", str(disk / "cache"), "--yes"]) == 0
        assert "5 entries removed" in capsys.readouterr().out
        assert entries(disk / "cache") == []


def test_missing_cache_is_an_error_that_says_where_it_looked(auto: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made, neither there nor at a directory that was misspelt."""
    for action in (["info"], ["verify"], ["clear", "--yes"]):
        assert main(["cache", *action]) == 1
        told = capsys.readouterr().err
        assert str(auto) in told
        assert f"ai4os-data-cache-{os.getuid()}" in told
        assert main(["cache", action[0], str(auto / "nosuch"), *action[1:]]) == 1
        assert "no such directory" in capsys.readouterr().err
    assert not auto.exists()


def test_a_directory_that_is_no_cache_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without a cache is refused, whatever the names in it look like."""
    precious = tmp_path / "objects" / "a" / f"{'a' * 32}-1-{'0' * 16}.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    for action in (["clear", str(tmp_path), "--yes"], ["verify", str(tmp_path)], ["info", str(tmp_path)]):
        assert main(["cache", *action]) == 1
        assert "no cache" in capsys.readouterr().err
    assert precious.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["objects"]


def test_clear_leaves_what_the_cache_did_not_write(auto: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's own files stay; everything else goes, and the next training fills the cache again."""
    filled(auto).close()
    for place in (auto / "notes.txt", auto / "objects" / "notes.txt", auto / "objects" / "a" / "notes.txt"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("mine")
    assert main(["cache", "clear", "--yes"]) == 0
    told = capsys.readouterr().out
    assert "5 entries removed" in told
    assert [path.name for path in entries(auto)] == ["notes.txt", "notes.txt"]
    assert list((auto / "listings").iterdir()) == []
    assert (auto / "notes.txt").read_text() == "mine"
    filled(auto)


def test_clear_asks_and_does_nothing_where_nobody_answers(
    auto: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a script clear needs --yes; at a terminal the answer counts."""
    filled(auto).close()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer in (io.StringIO("y\n"), Terminal("\n"), Terminal("n\n"), Terminal("")):
        monkeypatch.setattr(sys, "stdin", answer)
        assert main(["cache", "clear"]) == 1
    told = capsys.readouterr()
    assert "--yes" in told.err
    assert "Remove 5 entries (500 KiB)" in told.out
    assert len(entries(auto)) == 5
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert main(["cache", "clear"]) == 0
    assert entries(auto) == []


def test_verify_reports_and_removes_what_is_damaged(auto: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run exits with 1 and removes the damaged entries; the second one exits with 0."""
    filled(auto).close()
    first = entries(auto)[0]
    first.write_bytes(b"x" * first.stat().st_size)
    assert main(["cache", "verify"]) == 1
    assert "5 entries read, 1 damaged" in capsys.readouterr().out
    assert main(["cache", "verify"]) == 0
    assert "4 entries read, all intact" in capsys.readouterr().out


def use(directory: str, answer: Connection) -> None:
    """Hold an entry as a local path, clear from elsewhere, and read all again."""
    files = source([100 * KiB] * 5, "command 5")
    cached = CachedStore(files, DiskCache(directory, "20MB"))
    path = cached.path(files.list()[0])
    answer.send(str(path))
    answer.recv()
    answer.send((Path(path).read_bytes() == files.files[files.list()[0].key], wrong_keys(cached, files, files.list())))


def test_others_use_it_meanwhile(auto: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A local path that a training holds stays; the training reads on, and fetches the others again."""
    filled(auto).close()
    context: Any = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=use, args=(str(auto), theirs))
    process.start()
    assert ours.poll(60)
    path = ours.recv()
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "info"]) == 0
    assert main(["cache", "clear", "--yes"]) == 0
    assert "1 entries are in use" in capsys.readouterr().out
    assert [str(entry) for entry in entries(auto)] == [path]
    ours.send(None)
    assert ours.poll(60)
    assert ours.recv() == (True, [])
    process.join()
