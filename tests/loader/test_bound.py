"""What a pass is bound by is measured, and the advice in its log line gives the gain that it promises."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

from ai4os_data import DiskCache, Remote, Sample, StorageDataLoader, StorageDataset, shrink
from ai4os_data.datasets import Look
from ai4os_data.loader.bound import Sums, Times
from ai4os_data.loader.gains import Epoch
from ai4os_data.loader.holding import Holding
from ai4os_data.loader.spent import Spent, Stopwatch
from ai4os_data.telemetry import reading
from tests.nextcloud import NextcloudServer
from tests.support.servers.proxy import ShapedProxy
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import WsgidavServer

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

NUMBER = 96
FILES = {f"{number:03}.bin": os.urandom(4000 + number) for number in range(NUMBER)}
BATCH = 8
SHORT_S, LONG_S = 0.0002, 0.012
GENEROUS = 1.5  # times more or less than promised


class Decode:
    """Takes a while for each sample."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, sample: Sample) -> int:
        """The length of a file."""
        length = len(sample.bytes())
        time.sleep(self.seconds)
        return length


def key_of(sample: Sample) -> str:
    """A label."""
    return sample.key


class Wrapped(Dataset[Any]):
    """Somebody else's dataset, which reads one of ours."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """As many as there."""
        return NUMBER

    def __getitem__(self, index: int) -> Any:
        """A sample of it, in a tuple."""
        return (self.dataset[index],)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files on the local disk."""
    path = tmp_path / "files"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="module")
def slow_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Share]:
    """The files on a Nextcloud that gives about 120 of them a second."""
    root = tmp_path_factory.mktemp("slow")
    with NextcloudServer(root, request_cost_s=0.02, member_cost_s=0.008, concurrency=1) as server:
        share = Share(server)
        share.put(FILES)
        yield share


@pytest.fixture
def distant(wsgidav: WsgidavServer) -> Iterator[tuple[str, Remote]]:
    """The files on a plain server, each request to which takes 60 ms."""
    share = Share(wsgidav)
    share.put({**FILES, **{f"large/{number}.bin": bytes(17 * 2**20) for number in range(4)}})
    with ShapedProxy("127.0.0.1", wsgidav.port, rtt_s=0.06) as proxy:
        location = share.location.replace(wsgidav.url, proxy.url)
        yield location, Remote(proxy.url, wsgidav.user, wsgidav.password)


def loader_of(dataset: Any, workers: int = 0, **options: Any) -> StorageDataLoader:
    """A loader of batches of eight."""
    return StorageDataLoader(dataset, **{"batch_size": BATCH, "shuffle": True, "num_workers": workers, **options})


def epoch(loader: StorageDataLoader, loop_s: float = 0.0) -> Any:
    """The figures of an epoch with a loop that takes a while for each batch."""
    for _ in loader:
        time.sleep(loop_s)
    return loader.stats()


def epoch_s(loader: StorageDataLoader, loop_s: float = 0.0) -> float:
    """How long an epoch takes."""
    return float(epoch(loader, loop_s)["seconds"])


def assert_bound(said: Any, by: str) -> None:
    """Check what an epoch was bound by, and that its shares say the same."""
    shares = {name: said[f"{name}_share"] for name in ("storage", "decode", "loop")}
    assert said["bound_by"] == by, shares
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]) == by


# --- storage, decode, loop


@pytest.mark.parametrize("workers", [0, 2])
def test_slow_decoding_is_the_bound(folder: Path, workers: int) -> None:
    """Whether the caller makes the batches, or workers."""
    assert_bound(epoch(loader_of(StorageDataset(folder, decode=Decode(LONG_S)), workers)), "decode")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", ["transform", "target", "collate_fn"])
def test_all_that_makes_a_batch_is_decoding(folder: Path, workers: int, part: str) -> None:
    """Also a transform, a label, and what puts samples together."""

    def slow(value: Any) -> Any:
        time.sleep(LONG_S)
        return value

    def collate(samples: list[Any]) -> int:
        time.sleep(LONG_S * BATCH)
        return len(samples)

    options: dict[str, Any] = {part: slow} if part == "transform" else {}
    if part == "target":
        options["target"] = lambda sample: len(slow(sample).key)
    dataset = StorageDataset(folder, decode=Decode(0), **options)
    loader = loader_of(dataset, workers, **({"collate_fn": collate} if part == "collate_fn" else {}))
    assert_bound(epoch(loader), "decode")


@pytest.mark.parametrize("workers", [0, 2])
def test_slow_loop_is_the_bound(folder: Path, workers: int) -> None:
    """The loader keeps up with it."""
    dataset = StorageDataset(folder, pattern="0[0-4]*", decode=Decode(SHORT_S))
    said = epoch(loader_of(dataset, workers), loop_s=0.2)
    assert_bound(said, "loop")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ours", "subset", "concat", "wrapped", "subset of wrapped"])
def test_slow_storage_is_the_bound(slow_cloud: Share, tmp_path: Path, workers: int, kind: str) -> None:
    """Until the cache has the files; it makes no difference whose dataset reads ours."""
    cache = DiskCache(tmp_path, "64MiB")
    ours = StorageDataset(slow_cloud.location, remote=slow_cloud.remote, cache=cache, decode=Decode(SHORT_S))
    halves = [Subset(ours, range(48)), Subset(ours, range(48, NUMBER))]
    kinds: dict[str, Dataset[Any]] = {
        "ours": ours,
        "subset": Subset(ours, range(NUMBER)),
        "concat": ConcatDataset(halves),
        "wrapped": Wrapped(ours),
        "subset of wrapped": Subset(Wrapped(ours), range(NUMBER)),
    }
    loader = loader_of(kinds[kind], workers, persistent_workers=workers > 0)
    assert_bound(epoch(loader), "storage")
    assert epoch(loader)["storage_share"] < 0.3


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_function_reads_is_storage(distant: tuple[str, Remote], folder: Path, workers: int) -> None:
    """A transform that reads another dataset waits for the storage, and so does a sibling that comes by itself."""
    location, remote = distant
    other = StorageDataset(location, remote=remote, cache=None, pattern="00[0-3].bin")

    def transform(value: int) -> int:
        return value + len(other[value % 4])

    dataset = StorageDataset(folder, pattern="0[0-3]*.bin", decode=Decode(0), transform=transform)
    assert_bound(epoch(loader_of(dataset, workers)), "storage")


def test_a_file_that_is_read_in_ranges_is_storage(distant: tuple[str, Remote]) -> None:
    """The blocks come while the user's own function decodes."""
    location, remote = distant

    def middle(sample: Sample) -> int:
        with sample.open() as file:
            file.seek(8 * 2**20)
            return len(file.read(100))

    dataset = StorageDataset(location, remote=remote, cache=None, pattern="large/*", decode=middle)
    said = epoch(loader_of(dataset, batch_size=1))
    assert_bound(said, "storage")


def test_threads_are_not_mixed_up(folder: Path, slow_cloud: Share) -> None:
    """Two loaders in two threads of a process are each bound by what their own thread does."""
    slow = StorageDataset(slow_cloud.location, remote=slow_cloud.remote, cache=None, decode=Decode(SHORT_S))
    loaders = {"decode": loader_of(StorageDataset(folder, decode=Decode(LONG_S))), "storage": loader_of(slow)}
    threads = [threading.Thread(target=epoch, args=[loader]) for loader in loaders.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for by, loader in loaders.items():
        assert_bound(loader.stats(), by)


def test_nothing_is_said_before_the_second_batch(folder: Path) -> None:
    """Of the loop nothing is known until then."""
    loader = loader_of(StorageDataset(folder, decode=Decode(0.002)))
    assert "bound_by" not in loader.stats()
    coming = iter(loader)
    for known in (False, False, True):
        said = loader.stats()
        assert bool(said["bound_by"]) == known
        assert all(math.isnan(said[name]) != known for name in ("storage_share", "decode_share", "loop_share"))
        next(coming)


# --- the sums


def spent_of(total_s: float, reading_s: float, made_s: float) -> tuple[int, ...]:
    """The fields of a `Spent`."""
    made_ns, total_ns, reading_ns = (int(one * 1e9) for one in (made_s, total_s, reading_s))
    return (*Spent(made_ns, total_ns, reading_ns, reading_ns),)


def test_waiting_is_shared_out_by_what_the_batch_took() -> None:
    """A batch that was made a while ago was waited for on its way; else its reading and its making were."""
    sums = Sums()
    sums.add(10.0, 14.0, spent_of(1.0, 0.5, 14.0))  # three seconds were the start of a worker
    sums.add(15.0, 17.0, spent_of(4.0, 1.0, 16.0))  # a quarter of one second, and one on the way
    sums.add(19.0, 20.0, spent_of(4.0, 1.0, 18.0))  # on the way alone
    times = sums.times()
    assert times is not None
    assert times == pytest.approx(Times(1.5, 4 / 3, 0.25, 2 / 3, 0.0, 2.5 / 3, 6.5 / 3))
    bound = times.bound(2)
    assert bound.by == "decode"
    assert bound[1:] == pytest.approx((0.25 / (17 / 6), 1 - 1.75 / (17 / 6), 1.5 / (17 / 6)))


@pytest.mark.parametrize(
    ("loop", "storage", "decode", "alone", "beside"),
    [
        (0.5, 0.3, 0.2, "loop", "storage"),  # workers wait for nobody but the loop
        (0.5, 0.2, 0.3, "loop", "decode"),
        (0.3, 0.3, 0.4, "decode", "decode"),
        (0.92, 0.08, 0.0, "loop", "loop"),
        (0.89, 0.11, 0.0, "loop", "storage"),
    ],
)
def test_a_loop_beside_workers_is_the_bound_only_if_it_hardly_waits(
    loop: float, storage: float, decode: float, alone: str, beside: str
) -> None:
    """Without workers everything takes turns."""
    times = Times(loop, storage + decode, storage, 0.0, storage, 0.0, decode)
    assert times.bound(0).by == alone
    assert times.bound(2).by == beside


def test_nested_reading_counts_once() -> None:
    """What is recorded inside of a longer time is a part of it."""
    watch = Stopwatch()
    before_ns = reading.total_ns
    reading.add(3, fetching=True)
    reading.add(5, fetching=False, since_ns=before_ns)
    assert (reading.total_ns, reading.fetching_ns) == (before_ns + 5, watch._fetching_ns + 3)
    assert Spent(*watch.spent()).reading_ns == 5


def test_one_sample_of_a_batch_is_looked_at(folder: Path) -> None:
    """How long it takes to decode and to transform, and how large the picture is before and after."""
    Image.new("RGB", (40, 30)).save(folder / "000.png")

    def shrunk(image: Image.Image) -> torch.Tensor:
        time.sleep(0.02)
        return torch.from_numpy(np.asarray(image.resize((8, 6))).copy()).permute(2, 0, 1)

    dataset = StorageDataset(folder, pattern="*.png", decode="image", target=key_of, transform=shrunk)
    look = Look()
    dataset.reader.good([0, 0], look=look)
    assert (look.samples, look.decoded, look.given) == (1, (40, 30), (8, 6))
    assert 0.02e9 < look.transforming_ns < 0.04e9
    assert look.decoding_ns > 0


# --- the advice


@pytest.fixture
def advised(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Gives the advice in the last line of an epoch; empty if there is none."""
    caplog.set_level(logging.INFO, "ai4os_data")

    def last() -> str:
        lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
        return lines[-1].partition("; ")[2]

    return last


def promised(advice: str) -> float:
    """How many times as fast an epoch is to be."""
    found = re.search(r"(\d+\.\d) times as fast$", advice)
    assert found, advice
    return float(found[1])


def assert_kept(before_s: float, after_s: float, promise: float) -> None:
    """Check that the gain was the promised one, with generous bounds."""
    assert promise / GENEROUS < before_s / after_s < promise * GENEROUS


def test_more_workers_give_what_they_promise(folder: Path, advised: Callable[[], str], monkeypatch: Any) -> None:
    """As many as there are processors, in a loop that computes nothing."""
    monkeypatch.setattr("ai4os_data.loader.progress.usable_processors", lambda: 3)
    dataset = StorageDataset(folder, decode=Decode(LONG_S))
    before_s = epoch_s(loader_of(dataset))
    advice = advised()
    assert advice.startswith("num_workers=3 instead of 0 would make an epoch about ")
    loader = loader_of(dataset, 3, persistent_workers=True)
    epoch(loader)  # starts them
    assert_kept(before_s, epoch_s(loader), promised(advice))


def test_the_disk_gives_what_it_promises(slow_cloud: Share, tmp_path: Path, advised: Callable[[], str]) -> None:
    """After an epoch over the network."""
    cache, decode = DiskCache(tmp_path, "64MiB"), Decode(0.004)
    dataset = StorageDataset(slow_cloud.location, remote=slow_cloud.remote, cache=cache, decode=decode)
    loader = loader_of(dataset, look_ahead_bytes=0)
    before_s = epoch_s(loader)
    advice = advised()
    assert advice.startswith("the next epoch reads from the disk: about ")
    assert_kept(before_s, epoch_s(loader), promised(advice))


def test_a_larger_cache_gives_what_it_promises(
    slow_cloud: Share, tmp_path: Path, advised: Callable[[], str], monkeypatch: Any
) -> None:
    """If half of the files had no room in this one."""
    monkeypatch.setattr("ai4os_data.loader.progress.usable_processors", lambda: 1)
    slow_cloud.put({f"half/{name}": content * 14 for name, content in FILES.items()})
    options: dict[str, Any] = {"remote": slow_cloud.remote, "pattern": "half/*", "decode": Decode(0.008)}
    small = StorageDataset(slow_cloud.location, cache=DiskCache(tmp_path / "small", "3MiB"), **options)
    loader = loader_of(small, look_ahead_bytes=0)
    epoch(loader)
    before_s = epoch_s(loader)
    advice = advised()
    found = re.match(r"the cache holds (\d+) % of the files: size_limit='(\d+MiB)' would make an epoch about ", advice)
    assert found, advice
    assert 30 < int(found[1]) < 65
    large = StorageDataset(slow_cloud.location, cache=DiskCache(tmp_path / "large", found[2]), **options)
    large.warm(progress=False)
    assert_kept(before_s, epoch_s(loader_of(large)), promised(advice))
    assert large.stats()["passed_through"] == 0


def test_files_that_the_cache_has_room_for_are_there_next_time(slow_cloud: Share, tmp_path: Path) -> None:
    """Only those that it has no room for make it too small; files on a local disk need no cache."""
    options: dict[str, Any] = {"remote": slow_cloud.remote, "pattern": "[0-9]*.bin"}
    cache = DiskCache(tmp_path / "large", "64MiB")
    dataset = StorageDataset(slow_cloud.location, cache=cache, **options)
    dataset[0]
    assert Holding.of([dataset]) == Holding(1.0, has_caches=True)
    uncached = StorageDataset(slow_cloud.location, cache=None, **options)
    assert Holding.of([uncached]) == Holding(0.0, has_caches=False)
    both = Holding.of([dataset, uncached])
    assert both.share == pytest.approx(0.5 / NUMBER)
    assert not both.has_caches
    assert Holding.of([StorageDataset(tmp_path, cache=None)]) == Holding(1.0, has_caches=True)


def test_a_cache_is_advised_if_there_is_none(slow_cloud: Share, advised: Callable[[], str]) -> None:
    """Each epoch is read over the network otherwise."""
    dataset = StorageDataset(slow_cloud.location, remote=slow_cloud.remote, cache=None, decode=Decode(SHORT_S))
    epoch(loader_of(dataset))
    assert advised().startswith("a cache for these files would make later epochs ")


def test_smaller_pictures_give_at_least_what_they_promise(
    tmp_path: Path, advised: Callable[[], str], monkeypatch: Any
) -> None:
    """If pictures are decoded that are far larger than what the transform gives."""
    monkeypatch.setattr("ai4os_data.loader.progress.usable_processors", lambda: 1)
    noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(noise).resize((1600, 1200)).save(picture, "JPEG")
    for number in range(64):
        (tmp_path / f"{number}.jpg").write_bytes(picture.getvalue())

    def small(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.resize((160, 120))).copy()).permute(2, 0, 1)

    options: dict[str, Any] = {"pattern": "*.jpg", "decode": "image", "transform": small}
    before_s = epoch_s(loader_of(StorageDataset(tmp_path, **options)))
    advice = advised()
    assert advice.startswith("cache= and prepare=shrink(192) would make an epoch at least "), advice
    dataset = StorageDataset(tmp_path, cache=DiskCache(tmp_path / "cache", "64MiB"), prepare=shrink(192), **options)
    dataset.warm(progress=False)
    assert before_s / epoch_s(loader_of(dataset)) > promised(advice) / GENEROUS


def test_nothing_is_advised_of_a_short_epoch(folder: Path, advised: Callable[[], str]) -> None:
    """It says little of others."""
    epoch(loader_of(StorageDataset(folder, decode=Decode(SHORT_S))))
    assert advised() == ""


def an_epoch(times: Times, **options: Any) -> Epoch:
    """An epoch with nothing special about it."""
    given: dict[str, Any] = {
        "seen": Spent(),
        "batch_samples": 10.0,
        "workers": 2,
        "cores": 2,
        "cpu_s": 0.0,
        "missed": 0.0,
        "holding": Holding(1.0, has_caches=True),
        "gives_bytes": False,
        "own_decoder": False,
        "is_cached": True,
    }
    return Epoch(times, **{**given, **options})


DECODING = Times(0.02, 0.08, 0.0, 0.0, 0.002, 0.0, 0.198)
FETCHING = Times(0.02, 0.08, 0.08, 0.0, 0.0, 0.18, 0.02)


def seen(*sides: int) -> Spent:
    """Pictures whose decoding takes nine tenths of their time, of these sides before and after their transform."""
    return Spent(0, 0, 0, 0, 10, 180_000_000, 20_000_000, *(10 * side for side in sides))


@pytest.mark.parametrize(
    ("one", "advice"),
    [
        (an_epoch(DECODING, cores=4), "num_workers=4 instead of 2 would make an epoch about 2.0 times as fast"),
        (an_epoch(DECODING, cores=64), "num_workers=10 instead of 2 would make an epoch about 5.0 times as fast"),
        (
            an_epoch(DECODING, seen=seen(300, 200, 224, 149)),
            "prepare=shrink(300, keep='pixels') would make an epoch about 5.0 times as fast",
        ),
        (
            an_epoch(DECODING, seen=seen(300, 200, 224, 149), own_decoder=True),
            (
                "prepare=, for what decode= and transform= do alike in each epoch, would make an epoch up to 5.0 times "
                "as fast"
            ),
        ),
        (
            an_epoch(DECODING, seen=seen(3000, 2000, 224, 224), own_decoder=True),
            "prepare=shrink(384) would make an epoch at least 5.0 times as fast",
        ),
        (
            an_epoch(DECODING, seen=seen(3000, 2000, 224, 224)._replace(transforming_ns=180_000_000), is_cached=False),
            "cache= and prepare=shrink(384) would make an epoch at least 2.6 times as fast",
        ),
        (  # it cuts
            an_epoch(DECODING, seen=seen(3000, 2000, 224, 224)._replace(transforming_ns=2_000_000)),
            (
                "prepare=, for what decode= and transform= do alike in each epoch, would make an epoch up to 5.0 times "
                "as fast"
            ),
        ),
        (
            an_epoch(Times(0.02, 0.08, 0.0, 0.07, 0.01, 0.0, 0.0), gives_bytes=True),
            (
                "a transform= that gives tensors, which workers share with the loop, would make an epoch up to 3.3 "
                "times as fast"
            ),
        ),
        (an_epoch(FETCHING, missed=1.0), "the next epoch reads from the disk: about 5.0 times as fast"),
        (
            an_epoch(FETCHING, missed=1.0, holding=Holding(0.5, has_caches=True, wanted_limit="8GiB")),
            "the cache holds 50 % of the files: size_limit='8GiB' would make an epoch about 2.8 times as fast",
        ),
        (
            an_epoch(FETCHING, missed=1.0, holding=Holding(0.5, has_caches=True)),
            (
                "the cache holds 50 % of the files, and its disk has no room for more: a prepare= that makes them "
                "smaller would make an epoch up to 2.8 times as fast"
            ),
        ),
        (an_epoch(Times(0.095, 0.005, 0.0, 0.0, 0.0, 0.0, 0.1), cores=64), ""),  # the loop
    ],
)
def test_the_advice_is_what_gains_most(one: Epoch, advice: str) -> None:
    """By what a batch takes, what was seen of its samples, and what the machine and the cache have."""
    assert one.advice() == advice


def test_workers_do_not_compute_more_than_there_are_processors() -> None:
    """A loop that keeps both of them busy gains nothing by workers."""
    times = Times(0.05, 0.05, 0.0, 0.0, 0.0, 0.0, 0.05)
    assert an_epoch(times, workers=0, cpu_s=0.2).advice() == ""
    waits = an_epoch(times, workers=0, cpu_s=0.0).advice()
    assert waits == "num_workers=1 instead of 0 would make an epoch about 2.0 times as fast"


def test_ranks_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one machine, as torchrun says; else all of them are taken for being here."""
    from ai4os_data.loader import progress

    assert progress._ranks_here() == 1
    monkeypatch.setattr(progress, "group", lambda: (8, 0))
    assert progress._ranks_here() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert progress._ranks_here() == 4
