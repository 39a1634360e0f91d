"""Where a cache goes, how large it may be, and what is said where it cannot be."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.cache import CachedStore, DiskCache, placement, session_of
from tests.support.crowd import Reading, Warnings, Worker, read_all, together, wrong_keys
from tests.support.disks import cached_files, ext4, make_read_only, tmpfs, used_bytes
from tests.support.sources import source

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from tests.support.servers import RcloneMount
    from tests.support.shares import Share

KiB = 1024
MiB = 1024 * KiB
NOBODY = 65534


@pytest.fixture
def no_temporary_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave "auto" no place in the folder for temporary files."""
    blocked = tmp_path / "temporary"
    blocked.mkdir()
    (blocked / f"ai4os-data-cache-{os.getuid()}").write_text("not a folder")
    monkeypatch.setattr(tempfile, "tempdir", str(blocked))


def test_directories_are_0700_and_files_0600(tmp_path: Path) -> None:
    """Nobody else on the machine can read what is cached, whatever the umask is."""
    before = os.umask(0)
    try:
        files = source([10 * KiB] * 20, "modes")
        cache = DiskCache(tmp_path / "a" / "cache", "8MiB")
        cached = CachedStore(files, cache)
        assert wrong_keys(cached, files, files.list()) == []
        session_of(cache).keep_listing("0" * 32, b"listing")
        cache.stats()
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "cache").rglob("*")}
        assert len(modes) > 30
        assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
        assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
        assert stat.S_IMODE((tmp_path / "a" / "cache").stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_folders_of_entries_lie_apart_on_ext4(tmp_path: Path) -> None:
    """Folders lie apart, so the search for a new inode does not pass over those deleted in the last minutes."""
    with ext4(tmp_path / "disk", 1024 * MiB) as disk:
        files = source([10 * KiB] * 64, "apart")
        cached = CachedStore(files, DiskCache(disk / "cache", "64MiB"))
        assert wrong_keys(cached, files, files.list()) == []
        groups = 1024 // 128  # of 128 MiB, in each as many inodes
        inodes = os.statvfs(disk).f_files // groups
        assert len({path.stat().st_ino // inodes for path in (disk / "cache" / "objects").iterdir()}) > 2


def test_fuse_mount_is_refused(mount: RcloneMount, tmp_path: Path) -> None:
    """A cache on the share that it is to spare would be absurd: an explicit one raises, also behind a link."""
    (tmp_path / "link").symlink_to(mount.path)
    for directory in (mount.path / "cache", mount.path, tmp_path / "link", tmp_path / "link" / "cache"):
        with pytest.raises(errors.CacheError, match=r"fuse\.rclone.*local disk"):
            DiskCache(directory)
    assert not (mount.path / "cache").exists()


def test_auto_goes_elsewhere_than_a_fuse_mount(
    mount: RcloneMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the user's cache folder lies on the share, "auto" takes the folder for temporary files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(mount.path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert DiskCache().directory == f"{tmp_path}/ai4os-data-cache-{os.getuid()}"
    assert not (mount.path / "ai4os-data").exists()


@pytest.mark.usefixtures("no_temporary_place")
def test_auto_warns_once_where_there_is_no_place(
    mount: RcloneMount, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any disk for a cache, datasets say so once, and read over the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(mount.path))
    share.put({"a.txt": "a", "b.txt": "b"})
    with Warnings() as warnings:
        for _ in range(2):
            dataset = StorageDataset(share.location, remote=share.remote, decode="text")
            assert [dataset[0], dataset[1]] == ["a", "b"]
    (warning,) = warnings
    assert warning.startswith("no disk cache: ")
    assert str(mount.path) in warning


def test_main_memory_serves_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system in memory takes an explicit cache; "auto" leaves the memory to the training."""
    with tmpfs(tmp_path / "disk", 100 * MiB) as disk:
        assert DiskCache(disk / "cache", "8MiB").stats()["entries"] == 0
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert DiskCache().directory == f"{tmp_path}/ai4os-data-cache-{os.getuid()}"


def test_auto_works_on_a_disk_of_300_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk of 300 MB all but a reserve serves; a reader fills it to that and no further, and the next finds it."""
    with ext4(tmp_path / "disk", 300 * 1000 * 1000) as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        limit = DiskCache().size_limit
        assert 150 * MiB < limit < 236 * MiB
        files = source([3 * MiB] * 100, "small disk")
        empty = used_bytes(disk)
        cached = CachedStore(files, DiskCache())
        assert read_all(cached, Reading(store=files, directory="", size_limit=0)).wrong == []
        assert 0.9 * limit < used_bytes(disk) - empty <= limit
        assert os.statvfs(disk).f_bavail * 4096 >= 60 * MiB
        # What is cached is the cache's own: the limit does not shrink by it.
        assert abs(DiskCache().size_limit - limit) < 2 * MiB
        (disk / "ballast").write_bytes(bytes(40 * MiB))
        assert abs(DiskCache().size_limit - (limit - 40 * MiB)) < 2 * MiB


def test_auto_refuses_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free there is needed for everything else; another place is taken, or none with the reason."""
    with ext4(tmp_path / "disk", 90 * MiB) as disk:
        with pytest.raises(errors.CacheLimitError, match="too few for a cache"):
            placement.auto_limit(str(disk), 0)
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert DiskCache().directory == f"{tmp_path}/ai4os-data-cache-{os.getuid()}"
        assert DiskCache(size_limit="8MiB").directory == f"{disk}/ai4os-data"
        with pytest.raises(errors.CacheLimitError, match="too few for a cache"):
            DiskCache(disk / "explicit")


def test_reserve_is_a_fifth_of_the_disk_within_bounds(tmp_path: Path) -> None:
    """A fifth of the disk is left to everything else, 64 MiB at least, 5 GiB at most."""
    disk = os.statvfs(tmp_path)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    reserve = min(max(total // 5, 64 * MiB), 5 * 1024 * MiB)
    limit = placement.auto_limit(str(tmp_path), 7 * MiB)
    assert abs(limit - (free + 7 * MiB - reserve)) < 256 * MiB  # others write to this disk meanwhile


def unusable(tmp_path: Path) -> list[Path]:
    """Return places that no cache can be made in, even by root."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return [tmp_path / "file", tmp_path / "file" / "below", tmp_path / "loop", Path("/proc/cache"), Path("/sys/cache")]


def test_explicit_directory_that_cannot_be_used_raises(tmp_path: Path) -> None:
    """The error names the directory and the reason, and tells what to do; nothing else is thrown."""
    for directory in unusable(tmp_path):
        with pytest.raises(errors.CacheError, match="cannot be used as a cache") as caught:
            DiskCache(directory, "8MiB")
        assert str(directory) in str(caught.value)
        with pytest.raises(errors.CacheError, match="cannot be used as a cache"):
            StorageDataset(os.fspath(tmp_path), cache=directory)


@dataclass
class AsNobody:
    """Does something as a user who is not root."""

    task: Any

    def __call__(self) -> Any:
        """Do it."""
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return self.task()


@dataclass
class Opening:
    """Opens a cache, and tells what was said."""

    directory: str

    def __call__(self) -> str:
        """Do it."""
        try:
            DiskCache(self.directory, "8MiB")
        except errors.CacheError as error:
            return str(error)
        return ""


@pytest.fixture
def public() -> Any:
    """A folder that a user who is not root can work in too."""
    directory = Path(tempfile.mkdtemp(prefix="ai4os-data-test-"))
    directory.chmod(0o777)
    yield directory
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            path.chmod(0o777)
    shutil.rmtree(directory)


def test_directory_without_permission_raises(public: Path) -> None:
    """For a user who is not root: a folder that cannot be written, and one of another user."""
    (public / "closed").mkdir(mode=0o500)
    (public / "open").mkdir()
    (public / "open").chmod(0o777)
    if os.geteuid() == 0:
        os.chown(public / "closed", NOBODY, NOBODY)
    for name in ("closed", "closed/below"):
        (said,) = together([AsNobody(Opening(str(public / name)))])
        assert "cannot be used as a cache: Permission denied" in said
    if os.geteuid() == 0:
        os.chown(public / "open", 12345, 12345)
        (said,) = together([AsNobody(Opening(str(public / "open")))])
        assert "belongs to another user" in said


@dataclass
class Closing:
    """Fills half of a cache, lets its folders be closed, and reads on."""

    store: Any
    directory: str

    def __call__(self) -> tuple[list[str], list[str], dict[str, int]]:
        """Do it; what was wrong, what was warned of, what was counted."""
        with Warnings() as warnings:
            cache = DiskCache(self.directory, "8MiB", "lru")
            cached = CachedStore(self.store, cache)
            entries = self.store.list()
            half = len(entries) // 2
            wrong = wrong_keys(cached, self.store, entries[:half])
            folders = [path for path in Path(self.directory).rglob("*") if path.is_dir()]
            for path in (Path(self.directory), *folders):
                path.chmod(0o500)
            for _ in range(3):
                wrong += wrong_keys(cached, self.store, entries)
            wrong += [local for entry in entries if not (local := cached.path(entry)).startswith("/")]
            cache.close()
        return wrong, warnings, cached.counters.totals()


def test_directory_that_turns_read_only_warns_once(public: Path) -> None:
    """What is cached still serves, the rest comes over the network, and one warning says so."""
    files = source([20 * KiB] * 40, "closing")
    ((wrong, warnings, totals),) = together([AsNobody(Closing(files, str(public / "cache")))])
    assert wrong == []
    assert len(warnings) == 1
    assert "Permission denied" in warnings[0]
    assert "reading goes on" in warnings[0]
    assert totals["stored"] == 20
    assert totals["hits"] >= 60
    assert totals["damaged"] == 0


def test_read_only_disk_is_read_from(tmp_path: Path) -> None:
    """A cache on a disk that was mounted read-only meanwhile gives what it holds to new processes too."""
    files = source([20 * KiB] * 40, "read-only")
    with ext4(tmp_path / "disk", 40 * MiB) as disk:
        assert together([Reading(store=files, directory=str(disk / "cache"), size_limit="8MiB")])[0].wrong == []
        cache = DiskCache(disk / "cache", "8MiB")
        make_read_only(disk)
        cached = CachedStore(files, cache)
        with Warnings() as warnings:
            assert wrong_keys(cached, files, files.list()) == []
            cache.close()
        assert cached.counters.totals()["hits"] == 40
        more = source([20 * KiB] * 10, "more")
        more_cached = CachedStore(more, cache)
        with Warnings() as more_warnings:
            assert wrong_keys(more_cached, more, more.list()) == []
        assert warnings + more_warnings == [
            f"{disk}/cache: Read-only file system: reading goes on without storing more in the cache"
        ]
        with pytest.raises(errors.CacheError, match="Read-only file system"):
            DiskCache(disk / "cache", "8MiB")


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [
        (5 * MiB, 5 * MiB),
        ("20GiB", 20 * 1024**3),
        ("20 GiB", 20 * 1024**3),
        ("20G", 20 * 1024**3),
        ("20g", 20 * 1024**3),
        ("300MB", 300_000_000),
        ("300mib", 300 * MiB),
        ("1.5GiB", 3 * 512 * MiB),
        ("2TB", 2 * 10**12),
        ("1048576", MiB),
        ("1048576B", MiB),
        (" 4 MiB ", 4 * MiB),
        ("20 GB", 20 * 10**9),
        ("20 G", 20 * 1024**3),
        ("20Gi", 20 * 1024**3),
    ],
)
def test_size_limit_is_understood(tmp_path: Path, size: int | str, size_bytes: int) -> None:
    """A number of bytes, or a text with a binary or decimal unit."""
    assert DiskCache(tmp_path, size).size_limit == size_bytes


@pytest.mark.parametrize(
    "size",
    ["", "lots", "20i", "20iB", "20 G B", "-5GiB", "5GiBs", "1e9", "GiB", "5 5GiB", "0x10", True, None, 1e9, b"5GiB"],
)
def test_size_limit_that_is_none_says_how_to_write_one(tmp_path: Path, size: Any) -> None:
    """The error shows what was given, and what may be."""
    with pytest.raises(errors.CacheLimitError, match="20GiB") as caught:
        DiskCache(tmp_path, size)
    assert repr(size) in str(caught.value)


def test_the_error_tells_gib_from_gb() -> None:
    """The error shows both, since GiB and GB are 7 % apart."""
    with pytest.raises(errors.CacheLimitError, match=re.escape("'20GB' (20 * 1000**3 bytes, 18.6 GiB)")):
        placement.given_limit("20 gigs")


def test_unlike_limits_in_one_process_are_logged_once_and_the_smaller_holds(tmp_path: Path) -> None:
    """While two caches of a directory live, the smaller limit holds for both, whichever was made first."""
    files = source([256 * KiB] * 60, "unlike")
    with Warnings() as warnings:
        large = DiskCache(tmp_path, "12MiB")
        small = DiskCache(tmp_path / ".", "4MiB")
        again = DiskCache(tmp_path, 4 * MiB)
        assert wrong_keys(CachedStore(files, large), files, files.list()) == []
    (warning,) = warnings
    assert "4,194,304 and 12,582,912 bytes: the smaller one holds" in warning
    assert {cache.stats()["size_limit"] for cache in (large, small, again)} == {4 * MiB}
    assert large.stats()["bytes"] <= 4 * MiB
    del small, again
    with Warnings() as warnings:
        DiskCache(tmp_path, "12MiB")
    assert warnings == []
    gc.collect()
    assert large.stats()["size_limit"] == 12 * MiB


def test_limits_of_auto_are_never_unlike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two "auto" limits differ by what is free and are not logged; a given one beside "auto" is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Warnings() as warnings:
        first = DiskCache()
        (tmp_path / "something else").write_bytes(bytes(8 * MiB))
        second = DiskCache()
        assert first.directory == second.directory
    assert warnings == []
    with Warnings() as warnings:
        DiskCache(first.directory, "8MiB")
    assert "8,388,608" in warnings[0]


def hold_a_lease(directory: str, answer: Connection) -> None:
    """Store something, and stay."""
    files = source([256 * KiB] * 4, "unlike elsewhere")
    cached = CachedStore(files, DiskCache(directory, "8MiB"))
    answer.send(wrong_keys(cached, files, files.list()))
    answer.recv()


def test_another_limit_in_another_process_is_logged_while_it_lives(tmp_path: Path) -> None:
    """Each process keeps to its own limit, and the difference is logged while the other lives."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold_a_lease, args=(str(tmp_path), theirs))
    process.start()
    assert ours.poll(60)
    assert ours.recv() == []
    with Warnings() as warnings:
        DiskCache(tmp_path, "8MiB")
        assert warnings == []
        gc.collect()
        DiskCache(tmp_path, "16MiB")
        gc.collect()
    (warning,) = warnings
    assert "whose limit is 8,388,608 bytes; here it is 16,777,216" in warning
    ours.send(None)
    process.join()
    with Warnings() as warnings:
        DiskCache(tmp_path, "24MiB")
    assert warnings == []


@pytest.mark.parametrize("size", [0, 1000, "1000", "100KiB", -1, MiB - 1])
def test_size_limit_that_is_too_small_says_what_to_do(tmp_path: Path, size: int | str) -> None:
    """A limit too small for the bookkeeping raises; the error names the smallest limit and `cache=None`."""
    with pytest.raises(errors.CacheLimitError, match=r"give at least 1,048,576, or cache=None"):
        DiskCache(tmp_path, size)


def test_smallest_limit_works(tmp_path: Path) -> None:
    """A cache of one MiB holds a few small files, and never more than that."""
    files = source([20 * KiB] * 60, "smallest")
    with ext4(tmp_path / "disk", 40 * MiB) as disk:
        empty = used_bytes(disk)
        assert (
            together([Reading(store=files, directory=str(disk / "cache"), size_limit=MiB, policy="lru")])[0].wrong == []
        )
        assert len(cached_files(disk / "cache")) >= 10
        assert used_bytes(disk) - empty <= MiB


def test_policy_that_is_none_is_named(tmp_path: Path) -> None:
    """The error names the policies that exist."""
    with pytest.raises(ValueError, match="'auto' or 'lru', not 'fifo'"):
        DiskCache(tmp_path, "8MiB", "fifo")  # type: ignore[arg-type]


def test_directory_with_odd_letters_works(tmp_path: Path) -> None:
    """Spaces, percent signs, quotes, lone dollars, tildes and what is not UTF-8 are letters like any other."""
    files = source([KiB] * 5, "odd")
    for name in ("a b", "100% #1?", 'it\'s "so"', "ü ∆", "$", "$1 {x}", "~", "a\nb", os.fsdecode(b"\xff\xfe")):
        cache = DiskCache(tmp_path / name / "cache", "8MiB")
        cached = CachedStore(files, cache)
        for _ in range(2):
            assert wrong_keys(cached, files, files.list()) == []
        assert cache.stats()["entries"] == 5
        assert cache.directory == str(tmp_path / name / "cache")
        assert (tmp_path / name / "cache" / "index" / "cache.db").exists()


def test_home_and_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde means the user's home, as in a shell, and a variable its value; nothing is made beside it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    files = source([KiB] * 5, "home")
    for directory in ("~/cache", "$HOME/cache", "${HOME}/cache"):
        cache = DiskCache(directory, "8MiB")
        assert cache.directory == str(tmp_path / "cache")
        assert wrong_keys(CachedStore(files, cache), files, files.list()) == []
        assert cache.stats()["entries"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_killed_probe_is_no_lasting_orphan(tmp_path: Path) -> None:
    """The look whether a directory can be written leaves no more than its mark, whenever its process dies."""
    worker = Worker(Probing(str(tmp_path)))
    worker.process.join(0.3)
    worker.kill()
    placement.usable(str(tmp_path), memory_too=True)
    assert [path.name for path in tmp_path.iterdir()] == [placement.MARKER]


def test_directory_with_files_under_our_names_is_refused(tmp_path: Path) -> None:
    """What a user keeps under a name that a cache uses is never written over."""
    for name in ("names", "lock", "index", "leases"):
        directory = tmp_path / f"of {name}"
        directory.mkdir()
        (directory / name).write_bytes(b"mine" * 1000)
        (directory / ".probe").write_bytes(b"mine too")
        with pytest.raises(errors.CacheError, match="a directory of its own"):
            DiskCache(directory, "8MiB")
        assert (directory / name).read_bytes() == b"mine" * 1000
        assert (directory / ".probe").read_bytes() == b"mine too"


@dataclass
class Probing:
    """Looks again and again whether a directory is usable."""

    directory: str

    def __call__(self) -> None:
        """Do it."""
        while True:
            placement.usable(self.directory, memory_too=True)
