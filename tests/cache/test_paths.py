"""A local path stays while its object lives, wherever it goes; afterwards its room is the cache's again."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader, Dataset

from ai4os_data import StorageDataLoader, StorageDataset
from ai4os_data.cache import CachedStore, DiskCache, LocalPath, UncachedStore, pins, temporaries
from ai4os_data.cache.pins import pins_in
from tests.support.crowd import Worker, together, wait_for, wrong_keys
from tests.support.disks import allocated_bytes, cached_files
from tests.support.sources import content, source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.shares import Share

KiB = 1024
MiB = 1024 * KiB


def evict_everything(cache: DiskCache) -> None:
    """Read so much that everything not in use is evicted."""
    flood = source([100 * KiB] * 300, f"flood {id(object())}")
    assert wrong_keys(CachedStore(flood, cache), flood, flood.list()) == []


@pytest.fixture
def local_cache(tmp_path: Path) -> DiskCache:
    """A small cache that goes by last use."""
    return DiskCache(tmp_path / "cache", 8 * MiB, "lru")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that only this test uses."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_file_stays_while_its_path_lives(local_cache: DiskCache) -> None:
    """Evictions and `clear` pass over it; once the path is gone, it is evicted like any other."""
    files = source([50 * KiB] * 2, "pinned")
    cached = CachedStore(files, local_cache)
    path = cached.path(files.list()[0])
    for _ in range(2):
        evict_everything(local_cache)
        local_cache.clear()
        assert Path(path).read_bytes() == files.files["pinned/00000.bin"]
        assert (allocated_bytes(Path(local_cache.directory)) or 0) <= 8 * MiB
    assert cached.holds(files.list()[0])
    name = str(path)
    del path
    gc.collect()
    evict_everything(local_cache)
    assert not os.path.exists(name)


def test_path_is_pinned_against_other_processes(local_cache: DiskCache) -> None:
    """Another process that fills the same directory evicts what it likes, but not what is in use here."""
    files = source([50 * KiB], "shared")
    path = CachedStore(files, local_cache).path(files.list()[0])
    together([Flood(local_cache)])
    assert Path(path).read_bytes() == files.files["shared/00000.bin"]


@dataclass
class Flood:
    """Evicts everything, in a process of its own."""

    cache: DiskCache

    def __call__(self) -> None:
        """Do it."""
        evict_everything(self.cache)
        self.cache.clear()


def test_cache_full_of_paths_in_use_lets_the_rest_pass_through(local_cache: DiskCache, temporary: Path) -> None:
    """Where everything is in use, nothing is evicted, the limit holds, and more paths are files of their own."""
    files = source([200 * KiB] * 60, "busy")
    cached = CachedStore(files, local_cache)
    paths = [cached.path(entry) for entry in files.list()]
    directory = Path(local_cache.directory)
    inside = [path for path in paths if path.startswith(local_cache.directory)]
    assert 30 < len(inside) < 40
    assert len(list(temporary.iterdir())) == 60 - len(inside)
    assert (allocated_bytes(directory) or 0) <= 8 * MiB
    for entry, path in zip(files.list(), paths, strict=True):
        assert Path(path).read_bytes() == files.files[entry.key]
    local_cache.clear()
    assert len(cached_files(directory)) == len(inside)
    del paths, inside, path
    gc.collect()
    assert list(temporary.iterdir()) == []
    local_cache.clear()
    assert cached_files(directory) == set()


@pytest.mark.parametrize("size_bytes", [20 * KiB, 9 * MiB], ids=["cached", "passed through"])
def test_copies_of_a_path_share_its_file(local_cache: DiskCache, temporary: Path, size_bytes: int) -> None:
    """Copies of a path are the same value: the file stays until the last of them is gone."""
    files = source([size_bytes], "copied")
    path = CachedStore(files, local_cache).path(files.list()[0])
    copies: list[Any] = [copy.copy(path), copy.deepcopy(path), copy.deepcopy({"path": [path]})]
    del path
    gc.collect()
    evict_everything(local_cache)
    while copies:
        last = copies.pop()
        name = last["path"][0] if isinstance(last, dict) else last
        assert os.path.getsize(name) == size_bytes
    del last, name
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_passed_through_file_vanishes_with_its_path(local_cache: DiskCache, temporary: Path) -> None:
    """What is too large for the cache comes as a file of its own, with its suffix, and goes with the object."""
    files = source([9 * MiB], "huge")
    files.files["huge/picture of 1.TIFF"] = files.files.pop("huge/00000.bin")
    cached = CachedStore(files, local_cache)
    path = cached.path(files.list()[0])
    assert Path(path).parent == temporary
    assert path.endswith(".tiff")
    assert Path(path).read_bytes() == files.files["huge/picture of 1.TIFF"]
    assert Path(path).stat().st_mode & 0o777 == 0o600
    del path
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_odd_suffixes_give_plain_files(local_cache: DiskCache, temporary: Path) -> None:
    """A key whose suffix is long, or no word, still gives a path; its bytes are right."""
    files = source([1000] * 5, "suffixes")
    names = ["a." + "x" * 200, "b.fill", "c.tar.gz", "d.a b'c", ".hidden"]
    for name, old in zip(names, list(files.files), strict=True):
        files.files[name] = files.files.pop(old)
    for cached in (CachedStore(files, local_cache), UncachedStore(files)):
        for entry in files.list():
            path = cached.path(entry)
            assert Path(path).read_bytes() == files.files[entry.key]
            assert path.endswith(".gz") == (entry.key == "c.tar.gz")
    assert len(cached_files(Path(local_cache.directory))) == 5
    del path
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_without_a_cache_a_path_is_a_temporary_file(temporary: Path) -> None:
    """`cache=None` gives paths too."""
    files = source([1000], "none")
    path = UncachedStore(files).path(files.list()[0])
    assert Path(path).read_bytes() == files.files["none/00000.bin"]
    del path
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_damaged_file_is_fetched_anew_for_a_path(local_cache: DiskCache) -> None:
    """A path is never given to a file whose bytes are not right."""
    files = source([50 * KiB], "rotten")
    cached = CachedStore(files, local_cache)
    for _ in range(2):
        path = cached.path(files.list()[0])
        assert Path(path).read_bytes() == files.files["rotten/00000.bin"]
        with open(path, "r+b") as file:
            file.write(b"rotten")


def plain_batch(items: Sequence[Any]) -> list[Any]:
    """Leave a batch as it is."""
    return list(items)


@pytest.fixture
def pictures(share: Share) -> Share:
    """A folder of a few files on a server, one of them larger than the cache."""
    share.put({f"{number:02d}.bin": content(str(number), 20 * KiB + number) for number in range(40)})
    share.put({"40.bin": content("40", 9 * MiB)})
    return share


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_path_survives_the_way_out_of_a_worker(pictures: Share, tmp_path: Path, temporary: Path, method: str) -> None:
    """The trainer is given paths by workers that are gone by then, out of a cache that has evicted all it could."""
    cache = DiskCache(tmp_path / "cache", 8 * MiB, "lru")
    dataset = StorageDataset(pictures.location, remote=pictures.remote, decode="path", cache=cache)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=plain_batch, multiprocessing_context=method)
    paths = [path for batch in loader for path in batch]
    del loader
    gc.collect()
    together([Flood(cache)])
    for number, path in enumerate(paths):
        assert isinstance(path, LocalPath)
        assert Path(path).read_bytes() == content(str(number), 20 * KiB + number if number < 40 else 9 * MiB)
    del paths, path
    gc.collect()
    cache.clear()
    assert cached_files(tmp_path / "cache") == set()
    assert [item.name for item in temporary.iterdir() if item.name.startswith("ai4os-data-")] == []


def test_file_that_never_arrived_is_swept_up(pictures: Share, tmp_path: Path, temporary: Path) -> None:
    """Files that an abandoned loader had ready are removed later; files in use stay."""
    dataset = StorageDataset.from_keys(
        pictures.location,
        ["40.bin"] * 12,
        remote=pictures.remote,
        decode="path",
        cache=DiskCache(tmp_path / "c", "4MiB"),
    )
    batches = iter(DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=plain_batch))
    (used,) = next(batches)

    def ready() -> list[Path]:
        found = [path for path in temporary.glob("ai4os-data-path-*") if str(path) != used]
        return [path for path in found if path.stat().st_size == 9 * MiB]

    wait_for(lambda: len(ready()) >= 2)
    del batches
    gc.collect()
    left = ready()
    assert left
    (temporary / "ai4os-data-path-1-foreign").write_text("of a living process")
    for path in temporary.iterdir():
        os.utime(path, (1, 1))
    temporaries._next_sweep = 0.0
    dataset[0]
    assert not any(path.exists() for path in left)
    assert os.path.getsize(used) == 9 * MiB
    assert (temporary / "ai4os-data-path-1-foreign").exists()


@dataclass
class ManyPaths:
    """Sends far more paths than a process may have files open."""

    cache: DiskCache

    def __call__(self) -> tuple[int, list[LocalPath]]:
        """Do it; how many files are open then, and the last paths."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
        files = source([1 * KiB] * 2000, "many")
        cached = CachedStore(files, self.cache)
        batch: list[LocalPath] = []
        for begin in range(0, 2000, 20):
            batch = [cached.path(entry) for entry in files.list()[begin : begin + 20]]
            pickle.dumps(batch)
        return len(os.listdir("/proc/self/fd")), batch


def test_worker_that_sends_many_paths_keeps_few_files_open(tmp_path: Path) -> None:
    """Two thousand paths, sent within seconds, do not use up the open files of a process."""
    (result,) = together([ManyPaths(DiskCache(tmp_path, 64 * MiB))])
    open_files, last = result
    assert open_files < 400
    assert Path(last[-1]).read_bytes() == content("many/01999.bin", KiB)


@pytest.mark.parametrize("loader_of", [DataLoader, StorageDataLoader])
def test_many_paths_on_their_way_stay(share: Share, tmp_path: Path, loader_of: Any) -> None:
    """A trainer that takes its time finds every file, with far more in flight than any default has."""
    share.put({f"{number:04d}.bin": content(str(number), 4 * KiB) for number in range(1500)})
    dataset = StorageDataset(
        share.location, remote=share.remote, decode="path", cache=DiskCache(tmp_path, 4 * MiB, "lru")
    )
    loader = loader_of(dataset, batch_size=150, num_workers=1, prefetch_factor=4, collate_fn=plain_batch)
    number = 0
    for batch in loader:
        time.sleep(0.3)
        for path in batch:
            assert Path(path).read_bytes() == content(str(number), 4 * KiB)
            number += 1
    assert number == 1500


@dataclass
class Counted(Dataset[Any]):
    """Gives paths, each with the number of sent pins that its worker keeps."""

    cached: CachedStore
    directory: str

    def __len__(self) -> int:
        """As many as there are files."""
        return len(self.cached.store.list())

    def __getitem__(self, index: int) -> tuple[LocalPath, int]:
        """One of them."""
        return self.cached.path(self.cached.store.list()[index]), len(pins_in(self.directory)._sent)


def test_sender_lets_go_of_what_was_received(local_cache: DiskCache) -> None:
    """A sender keeps pins of paths in flight, and of some that it has not asked about yet."""
    dataset = Counted(CachedStore(source([1 * KiB] * 400, "received"), local_cache), local_cache.directory)
    kept = []
    for batch in DataLoader(dataset, batch_size=10, num_workers=1, prefetch_factor=2, collate_fn=plain_batch):
        kept += [count for _, count in batch]
    assert 60 <= max(kept) <= 120


def test_path_pickled_and_unpickled_here_is_received(local_cache: DiskCache) -> None:
    """Sender and receiver may be one process; what is lost on its way goes when very many were sent after it."""
    files = source([1 * KiB] * 200, "here")
    cached = CachedStore(files, local_cache)
    for entry in files.list():
        copied = pickle.loads(pickle.dumps(cached.path(entry)))  # noqa: S301  our own
        assert Path(copied).read_bytes() == files.files[entry.key]
    del copied
    gc.collect()
    local_cache.clear()
    assert len(cached_files(Path(local_cache.directory))) <= 64
    path = cached.path(files.list()[0])
    lost = pickle.dumps(path)
    for _ in range(pins.MOST_SENT + 64):
        path.__reduce__()
    name = str(path)
    del path
    gc.collect()
    pins_in(local_cache.directory).after_fork()  # the rest that was never received
    local_cache.clear()
    assert not os.path.exists(name)
    with pytest.raises(FileNotFoundError, match="16,384 paths at most"):
        pickle.loads(lost)  # noqa: S301  our own


def test_path_stays_in_a_forked_child(local_cache: DiskCache) -> None:
    """A forked child keeps the file of a path that its parent drops."""
    files = source([1 * KiB], "inherited")
    paths = [CachedStore(files, local_cache).path(files.list()[0])]
    name = str(paths[0])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0 if os.path.exists(paths[0]) else 1)
    time.sleep(0.2)
    paths.clear()
    local_cache.clear()
    assert os.path.exists(name)
    os.write(writing, b"!")
    assert os.waitpid(child, 0)[1] == 0
    os.close(reading)
    os.close(writing)
    local_cache.clear()
    assert not os.path.exists(name)


def test_pins_of_a_killed_process_are_gone(local_cache: DiskCache, tmp_path: Path) -> None:
    """A process that dies with paths in use does not block the cache."""
    worker = Worker(Holder(local_cache, str(tmp_path / "held")))
    while not (tmp_path / "held").exists():
        worker.process.join(0.01)
    local_cache.clear()
    assert len(cached_files(Path(local_cache.directory))) == 10
    worker.kill()
    local_cache.clear()
    assert cached_files(Path(local_cache.directory)) == set()


@dataclass
class Holder:
    """Holds ten paths for ever."""

    cache: DiskCache
    mark: str

    def __call__(self) -> None:
        """Do it."""
        files = source([1000] * 10, "held")
        cached = CachedStore(files, self.cache)
        paths = [cached.path(entry) for entry in files.list()]
        Path(self.mark).write_text(str(len(paths)))
        while paths:
            os.read(os.pipe()[0], 1)


def test_open_file_of_a_large_entry_keeps_its_room(tmp_path: Path) -> None:
    """A file object given out of the cache is in use like a path: what it reads is not evicted under it."""
    files = source([20 * MiB], "large")
    cache = DiskCache(tmp_path, 64 * MiB, "lru")
    cached = CachedStore(files, cache)
    assert wrong_keys(cached, files, files.list()) == []
    with cached.open(files.list()[0]) as file:
        cache.clear()
        assert file.read() == files.files["large/00000.bin"]
        assert cache.stats()["bytes"] >= 20 * MiB
    cache.clear()
    assert cached_files(tmp_path) == set()
