"""The look-ahead fetches coming files within its bounds, fetches nothing twice, and ends with its owner."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler

from ai4os_data import DiskCache, StorageDataLoader, StorageDataset, StorageSampler
from ai4os_data.cache import CachedStore, live_in, session_of
from ai4os_data.cache.claims import Claim
from ai4os_data.errors import SampleError, StorageError
from ai4os_data.http.retries import Patience
from ai4os_data.loader.look_ahead import default_bytes
from tests.nextcloud import NextcloudServer
from tests.support.epochs import FILES, NUMBER, dataset_of, flat, loader_of, look_ahead_threads, only_key, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

TOTAL_BYTES = sum(map(len, FILES.values()))


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait for a condition; whether it came."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def settled(share: Share) -> int:
    """The number of files requested, once no more are."""
    before = -1
    while before != (now := len(share.requests("GET"))):
        before = now
        time.sleep(0.4)
    return now


def test_coming_batches_are_in_the_cache_before_they_are_asked_for(share: Share, tmp_path: Path) -> None:
    """After the first batch the look-ahead fetches the rest, in the order of the epoch."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    loader = loader_of(dataset)
    coming = iter(loader)
    first = next(coming)
    assert until(lambda: len(share.read_keys()) == NUMBER)
    wanted = [dataset.keys[index] for index in loader.sampler.order(0)]  # type: ignore[attr-defined]
    asked = share.read_keys()
    assert set(asked[: len(first)]) == set(first)
    assert max(abs(asked.index(key) - place) for place, key in enumerate(wanted)) <= 32, "as many as are in flight"
    share.server.forget()
    assert flat([first, *coming]) == wanted
    assert share.requests() == []


def test_what_is_staged_is_bounded(share: Share, tmp_path: Path) -> None:
    """It waits for a loop that stands still, and continues when the loop does."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    loader = loader_of(dataset, look_ahead_bytes=6 * 700)
    coming = iter(loader)
    seen = [next(coming)]
    assert 4 + 4 <= settled(share) <= 4 + 6
    seen += [next(coming), next(coming)]
    assert 12 + 4 <= settled(share) <= 12 + 6
    assert len(flat([*seen, *coming])) == NUMBER
    assert len(share.requests("GET")) == NUMBER


def test_nothing_is_staged_where_nobody_wants_it(share: Share, tmp_path: Path) -> None:
    """With ``look_ahead_bytes=0``, or without a cache, the loop fetches everything."""
    for directory, options in ((tmp_path, {"look_ahead_bytes": 0}), (None, {})):
        loader = loader_of(dataset_of(share, directory, decode=only_key), **options)
        coming = iter(loader)
        next(coming)
        assert look_ahead_threads() == []
        assert settled(share) == 4
        share.server.forget()


@pytest.mark.parametrize("workers", [0, 2])
def test_warm_epoch_costs_nothing(share: Share, tmp_path: Path, workers: int) -> None:
    """It makes no request, reads no file, and its thread ends before the second batch."""
    dataset = dataset_of(share, tmp_path, "warm", decode=only_key)
    share.server.forget()
    loader = loader_of(dataset, workers)
    coming = iter(loader)
    next(coming)
    assert until(lambda: look_ahead_threads() == [], 1.0)
    list(coming)
    list(loader)
    assert share.requests() == []
    assert loader.stats()["look_ahead_files"] == 0
    assert loader.stats()["hit_rate"] == 1.0


def test_what_another_is_fetching_is_left_to_it(share: Share, tmp_path: Path) -> None:
    """A file that another process is fetching is neither fetched nor waited for."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    store = dataset.reader.files
    assert isinstance(store, CachedStore)
    entries = dataset.reader.own_files(range(NUMBER))
    claim: Any = session_of(store.cache).claim(store.name(entries[3]))
    came = [entry.key for entry, _ in store.fetch_ahead(entries)]
    assert sorted(came) == [key for key in dataset.keys if key != "03.bin"]
    assert store.absent(entries) == [entries[3]]
    session_of(store.cache).give_up(claim)
    assert [entry.key for entry, came_bytes in store.fetch_ahead(entries) if came_bytes] == ["03.bin"]
    assert store.absent(entries, trusting=True) == []


def test_what_is_not_wanted_any_more_is_left_out(share: Share, tmp_path: Path) -> None:
    """After the claim it looks once more: another process may have fetched the file without room to keep it."""
    store = dataset_of(share, tmp_path, decode=only_key).reader.files
    assert isinstance(store, CachedStore)
    entries = store.absent(store.store.list())
    claimed: list[bool] = []

    def is_wanted() -> bool:
        claimed.append(session_of(store.cache).claim(store.name(entries[len(claimed)])) is None)
        return len(claimed) < 4

    assert len(list(store.fetch_ahead(entries, is_wanted))) == 3
    assert claimed == [True] * 4
    assert isinstance(session_of(store.cache).claim(store.name(entries[3])), Claim), "it was given up"


def test_nothing_is_fetched_that_cannot_be_kept(share: Share, tmp_path: Path) -> None:
    """In a full cache each batch fetches its own files, once."""
    files = {f"{number:03}.bin": os.urandom(30_000) for number in range(120)}
    share.put(files)
    cache = DiskCache(tmp_path, "2MiB")
    dataset = StorageDataset(share.location, remote=share.remote, cache=cache)
    loader = StorageDataLoader(dataset, batch_size=10, shuffle=True)
    for _ in range(2):
        share.server.forget()
        assert sorted(flat(list(loader))) == sorted(files.values())
        asked = share.read_keys()
        assert len(asked) == len(set(asked)), "one was fetched twice"
    assert 0 < len(share.read_keys()) < 120
    assert cache.stats()["bytes"] <= 2 * 2**20


def test_prepared_files_are_staged(share: Share, tmp_path: Path) -> None:
    """``prepare`` runs once for each file, ahead of the loop."""
    made: list[int] = []

    def shortened(data: bytes) -> bytes:
        made.append(len(data))
        return data[:10]

    dataset = dataset_of(share, tmp_path, decode="bytes", prepare=shortened)
    loader = loader_of(dataset)
    coming = iter(loader)
    begun = next(coming)
    assert until(lambda: len(made) == NUMBER)
    assert {len(data) for data in flat([*begun, *coming]) if isinstance(data, bytes)} <= {10}
    list(loader)
    assert sorted(made) == sorted(map(len, FILES.values()))


def test_archives_bring_many_at_once(cloud_share: Share, tmp_path: Path) -> None:
    """On a Nextcloud the coming files are asked for together."""
    dataset = dataset_of(cloud_share, tmp_path, decode=only_key)
    cloud_share.server.forget()
    assert len(flat(list(loader_of(dataset)))) == NUMBER
    assert len(cloud_share.requests("GET")) <= 4


def asked_together(share: Share) -> list[list[str]]:
    """The keys of each request for files, all of them if it was for an archive; in the order of the answers."""
    top = unquote(urlsplit(share.location).path)
    groups = []
    for request in share.requests("GET"):
        folder = request.path[len(top) :].strip("/")
        names = json.loads(parse_qs(request.headers[":query"])["files"][0]) if ":query" in request.headers else [""]
        groups.append([f"{folder}/{name}".strip("/") for name in names])
    return groups


@pytest.mark.parametrize("workers", [0, 2])
def test_archives_of_a_nextcloud_are_as_large_as_those_of_warm(
    cloud_share: Share, tmp_path: Path, workers: int
) -> None:
    """Workers fetch the first batch of each, and the look-ahead all that follows, however small batches are."""
    files = {f"{number % 3}/{number:03}.bin": b"%d" % number for number in range(400)}
    cloud_share.put(files)
    dataset = dataset_of_all(cloud_share, tmp_path)
    cloud_share.server.forget()
    with costs(cloud_share, request_cost_s=0.05, member_cost_s=0.001):
        assert sorted(flat(list(loader_of(dataset, workers, batch_size=16)))) == sorted(files)
    groups = asked_together(cloud_share)
    assert sorted(key for group in groups for key in group) == sorted(files), "each was asked for once"
    small = [group for group in groups if len(group) <= 16]
    assert len(small) <= max(workers, 2)  # without workers the first batch comes in halves
    assert len(groups) - len(small) == 3


def test_a_large_batch_size_leaves_enough_to_look_ahead_for(cloud_share: Share, tmp_path: Path) -> None:
    """What has been handed out to workers, and cannot have been begun, is fetched for them."""
    files = {f"{number:03}.bin": b"%d" % number for number in range(480)}
    cloud_share.put(files)
    dataset = dataset_of_all(cloud_share, tmp_path)
    with costs(cloud_share, request_cost_s=0.05, member_cost_s=0.001):
        loader = loader_of(dataset, 4, batch_size=60)  # all eight are handed out before one has come
        assert sorted(flat(list(loader))) == sorted(files)
    assert loader.stats()["look_ahead_files"] == 480 - 4 * 60


@pytest.mark.parametrize("workers", [0, 2])
def test_what_found_no_room_is_not_fetched_again(cloud_share: Share, tmp_path: Path, workers: int) -> None:
    """In a cache that is full, what a worker has fetched is not looked ahead for."""
    files = {f"{number:03}.bin": os.urandom(30_000) for number in range(160)}
    cloud_share.put(files)
    dataset = StorageDataset(cloud_share.location, remote=cloud_share.remote, cache=DiskCache(tmp_path, "2MiB"))
    loader = StorageDataLoader(dataset, batch_size=10, shuffle=True, num_workers=workers)
    for _ in range(3):
        cloud_share.server.forget()
        assert sorted(flat(list(loader))) == sorted(files.values())
        keys = [key for group in asked_together(cloud_share) for key in group]
        assert len(keys) == len(set(keys)), "one was fetched twice"


def dataset_of_all(share: Share, directory: Path) -> StorageDataset:
    """The files of a share, as their keys."""
    return StorageDataset(share.location, remote=share.remote, cache=DiskCache(directory), decode=only_key)


@contextmanager
def costs(share: Share, **seconds: float) -> Iterator[None]:
    """Let requests take their time."""
    server = share.server
    assert isinstance(server, NextcloudServer)
    server.set_costs(**seconds)
    try:
        yield
    finally:
        server.set_costs(**dict.fromkeys(seconds, 0.0))


def test_dead_server_is_met_by_the_loop_in_its_place(share: Share, tmp_path: Path) -> None:
    """Files that had come are given; then the batch that misses one raises, with a key."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    store: Any = dataset.reader.files.store
    store.transport.patience = Patience(tries=2, first_pause_s=0.01, longest_pause_s=0.02, connect_s=1.0, total_s=2.0)
    loader = loader_of(dataset, look_ahead_bytes=6 * 700)
    coming = iter(loader)
    seen = next(coming)
    settled(share)
    with share.down():
        with pytest.raises(SampleError) as caught:
            seen.extend(key for batch in coming for key in batch)
        assert isinstance(caught.value.__cause__, StorageError)
        assert caught.value.key not in seen
        assert len(seen) == loader.state_dict()["done"] >= 8
    del caught
    resumed = loader_of(dataset)
    resumed.load_state_dict(loader.state_dict())
    assert sorted(seen + flat(list(resumed))) == sorted(FILES)


def test_failing_user_code_ends_it_quietly(
    share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails in the thread, the epoch is complete, and the log says that prefetching stopped."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    monkeypatch.setattr(type(dataset.reader.files), "fetch_ahead", lambda *_: 1 / 0)
    assert len(flat(list(loader_of(dataset)))) == NUMBER
    assert "prefetching stopped; samples are fetched when they are needed: ZeroDivisionError" in caplog.text


def test_forked_child_has_no_such_thread(share: Share, tmp_path: Path) -> None:
    """A child that is forked in mid-epoch reads by itself, and ends nothing of its parent's."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    loader = loader_of(dataset, look_ahead_bytes=6 * 700)
    coming = iter(loader)
    begun = next(coming)
    assert look_ahead_threads() != []
    child = os.fork()
    if child == 0:
        code = 1
        try:
            del coming
            gc.collect()
            if len(threading.enumerate()) == 1 and len(flat(taken(loader_of(dataset)))) == NUMBER:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert look_ahead_threads() != []
    assert len(flat([begun, *coming])) == NUMBER
    assert len(share.requests("GET")) == NUMBER


ORDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * NUMBER, NUMBER, replacement=False)},
    "distributed": lambda: {"sampler": DistributedSampler(range(NUMBER), 1, 0)},  # type: ignore[arg-type]
    "sequential": lambda: {"sampler": SequentialSampler(range(NUMBER))},
    "list": lambda: {"sampler": list(range(NUMBER))},
    "batches": lambda: {"batch_sampler": BatchSampler(RandomSampler(range(NUMBER)), 4, False), "batch_size": 1},  # noqa: FBT003
    "ours inside": lambda: {"batch_sampler": BatchSampler(StorageSampler(range(NUMBER)), 4, False), "batch_size": 1},  # noqa: FBT003
    "list of batches": lambda: {"batch_sampler": [[0, 1], list(range(2, NUMBER))], "batch_size": 1},
}


@pytest.mark.parametrize("kind", ORDERS)
def test_order_of_anybody_is_looked_ahead_along(share: Share, tmp_path: Path, kind: str) -> None:
    """For any sampler with a length the rest is fetched after the first batch, each file once."""
    loader = loader_of(dataset_of(share, tmp_path, decode=only_key), shuffle=None, **ORDERS[kind]())
    coming = iter(loader)
    first = next(coming)
    assert until(lambda: len(share.read_keys()) == NUMBER)
    share.server.forget()
    assert sorted(flat([first, *coming])) == sorted(FILES)
    assert share.requests() == []
    assert loader.stats()["look_ahead_files"] == NUMBER - len(first)


def test_index_that_leads_nowhere_is_an_error_of_its_batch(share: Share, tmp_path: Path) -> None:
    """The look-ahead skips a batch with a bad index, and continues after it."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    loader = loader_of(
        dataset, shuffle=None, batch_size=1, batch_sampler=[[0], [1], [99], *([[n] for n in range(2, NUMBER)])]
    )
    coming = iter(loader)
    next(coming)
    assert until(lambda: len(share.read_keys()) == NUMBER)
    next(coming)
    with pytest.raises(IndexError, match="index 99 is out of range"):
        next(coming)


def test_under_lru_what_comes_is_not_evicted_by_what_comes_later(share: Share, tmp_path: Path) -> None:
    """It fetches no more than the loop alone would, since cached files count as used."""
    data = bytes(50_000)
    share.put({f"{number:02}.bin": data for number in range(60)})
    fetched = []
    for ahead_bytes in (0, None):
        cache = DiskCache(tmp_path / f"{ahead_bytes}", 45 * 53_000, policy="lru")
        dataset = StorageDataset(share.location, remote=share.remote, decode=lambda sample: sample.key, cache=cache)
        loader = loader_of(dataset, look_ahead_bytes=ahead_bytes)
        for _ in loader:
            time.sleep(0.01)
        before = dataset.stats()["misses"]
        for _ in range(4):
            for _ in loader:
                time.sleep(0.01)
        fetched.append(dataset.stats()["misses"] - before)
    assert loader.stats()["look_ahead_files"] > 15
    assert fetched[1] <= fetched[0] + 4 * 2, "as many, but for a few at the edge"


def test_default_is_a_part_of_the_cache() -> None:
    """The default is a quarter of the cache's limit, 1 GiB at most."""
    assert default_bytes(400) == 100
    assert default_bytes(2**40) == 2**30


def test_the_cache_knows_what_the_epoch_still_needs(share: Share, tmp_path: Path) -> None:
    """The plan has the epoch in the global order, and moves on with what the caller was given."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    loader = loader_of(dataset)
    coming = iter(loader)
    next(coming)
    cache = dataset.reader.files.cache
    assert cache is not None
    (plan,) = live_in(cache.directory).plans()
    order: Any = loader.sampler
    names = [dataset.reader.names()[index] for index in order.order(0)]
    assert plan.position == 4
    assert [plan.is_needed(name) for name in names] == [False] * 4 + [True] * (NUMBER - 4)
    assert list(plan.victims(names, names[4])) == names[:4]
    del plan, loader, coming
    gc.collect()
    assert live_in(cache.directory).plans() == []
