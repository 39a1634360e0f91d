"""Masks and labels beside a sample: found by it, and fetched with it once the dataset has learned where they are."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

from ai4os_data import DiskCache, Sample, StorageDataLoader, StorageDataset
from ai4os_data.datasets.siblings import Siblings
from ai4os_data.errors import LocationError, NotFoundError, SampleError
from ai4os_data.telemetry import Counters
from tests.support.servers import FaultServer
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEMS = [f"photo {number}" for number in range(8)]
FILES = {f"images/{number % 2}/{stem}.jpg": f"image of {stem}" for number, stem in enumerate(STEMS)} | {
    f"masks/{number % 2}/{stem}.png": f"mask of {stem}" for number, stem in enumerate(STEMS)
}
PAIRS = [(f"image of {stem}".encode(), f"mask of {stem}".encode()) for stem in STEMS[::2] + STEMS[1::2]]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[FaultServer]:
    """A server whose requests take long enough to meet each other."""
    with FaultServer(tmp_path / "served", latency_s=0.1) as server:
        yield server


def with_mask(sample: Sample) -> tuple[bytes, bytes]:
    """Decode an image together with its mask."""
    mask = sample.sibling(sample.key.replace("images/", "masks/").replace(".jpg", ".png"))
    return sample.bytes(), mask.bytes()


def open_pairs(share: Share, **options: Any) -> StorageDataset:
    """Open a dataset of images that ask for their masks."""
    share.put(FILES)
    options = {"pattern": "images/**/*.jpg", "decode": with_mask, "cache": None, **options}
    return StorageDataset(share.location, remote=share.remote, **options)


def epoch(dataset: Any, **options: Any) -> list[Any]:
    """Return the samples of one epoch, in batches of four."""
    return [item for batch in DataLoader(dataset, batch_size=4, collate_fn=list, **options) for item in batch]


# --- what comes


@pytest.mark.parametrize("cached", [False, True])
def test_each_sample_comes_with_its_own_sibling(share: Share, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    """Over two epochs; every file is fetched once an epoch, or once where there is a cache."""
    dataset = open_pairs(share, cache=tmp_path / "cache" if cached else None)
    for _ in range(2):
        assert epoch(dataset) == PAIRS
    assert sorted(share.read_keys()) == sorted(FILES if cached else [*FILES, *FILES])


def test_siblings_come_in_workers(share: Share, tmp_path: Path) -> None:
    """Every worker learns for itself; together they fetch each file once."""
    dataset = open_pairs(share, cache=tmp_path / "cache")
    assert epoch(dataset, num_workers=2) == PAIRS
    assert sorted(share.read_keys()) == sorted(FILES)


def test_sibling_may_be_named_relative_to_its_sample(share: Share) -> None:
    """With ``./`` and ``../`` a key is read from the sample's own folder."""
    share.put({"train/images/1.jpg": "image", "train/images/1.json": "boxes", "train/labels/1.txt": "label"})

    def decode(sample: Sample) -> tuple[bytes, bytes]:
        return sample.sibling("./1.json").bytes(), sample.sibling("../labels/1.txt").bytes()

    dataset = StorageDataset(share.location, remote=share.remote, pattern="**/*.jpg", decode=decode, cache=None)
    assert dataset[0] == (b"boxes", b"label")


def test_target_may_come_from_a_sibling(share: Share) -> None:
    """A function for ``target`` sees the same sample, so a label file is its sibling too."""
    share.put(FILES)
    dataset = StorageDataset(
        share.location,
        remote=share.remote,
        pattern="images/**/*.jpg",
        target=lambda sample: with_mask(sample)[1],
        cache=None,
    )
    for _ in range(2):
        assert epoch(dataset) == PAIRS
    assert len(share.requests("GET")) == 2 * len(FILES)


def test_missing_sibling_is_named(share: Share) -> None:
    """The error tells sample and sibling; under ``skip`` the sample is left out."""
    dataset = open_pairs(share)
    share.remove("masks/0/photo 4.png")
    dataset.refresh()
    with pytest.raises(SampleError, match=r"'images/0/photo 4\.jpg' has no sibling 'masks/0/photo 4\.png'") as caught:
        epoch(dataset)
    assert isinstance(caught.value.__cause__, NotFoundError)
    skipping = open_pairs(share, on_error="skip")
    share.remove("masks/1/photo 7.png")  # after it was listed
    assert epoch(skipping) == [pair for pair in PAIRS if pair[0] != b"image of photo 7"]


@pytest.mark.parametrize("key", ["../../outside.png", "../../../etc/passwd"])
def test_sibling_outside_of_the_location_is_refused(share: Share, key: str) -> None:
    """A relative key cannot lead out of the dataset's location."""
    share.put({"images/1.jpg": "image"})
    dataset = StorageDataset(share.location, remote=share.remote, decode=lambda sample: sample.sibling(key), cache=None)
    with pytest.raises(SampleError, match="outside of the dataset's location") as caught:
        dataset[0]
    assert isinstance(caught.value.__cause__, LocationError)


# --- fetched together


def test_after_the_first_batch_siblings_are_fetched_with_their_samples(slow: FaultServer) -> None:
    """At first four images alone are on their way at once; from the second batch on, images and masks."""
    dataset = open_pairs(Share(slow))
    dataset.__getitems__([0, 1, 2, 3])
    assert slow.most_in_flight() == 4
    assert dataset.__getitems__([4, 5, 6, 7]) == PAIRS[4:]
    assert slow.most_in_flight() > 4


def test_siblings_come_together_where_the_samples_are_cached(slow: FaultServer, tmp_path: Path) -> None:
    """Where only the images are there, the masks of a batch are fetched at once and not one by one."""
    share = Share(slow)
    open_pairs(share, cache=tmp_path / "cache", decode="bytes").warm(progress=False)
    dataset = open_pairs(share, cache=tmp_path / "cache")
    dataset[0]
    slow.stop()
    slow.start()  # it counts anew
    slow.forget()
    assert dataset.__getitems__([1, 2, 3, 4, 5, 6, 7]) == PAIRS[1:]
    assert [request.path.rpartition(".")[2] for request in slow.requests()] == ["png"] * 7
    assert slow.most_in_flight() > 4


def test_archive_brings_samples_and_siblings_together(cloud_share: Share) -> None:
    """On Nextcloud the second batch, eight files from four folders, is one request."""
    dataset = open_pairs(cloud_share)
    dataset.__getitems__([0, 1, 2, 3])
    cloud_share.server.forget()
    assert dataset.__getitems__([2, 3, 4, 5]) == PAIRS[2:6]
    assert [request.method for request in cloud_share.requests()] == ["GET"]
    assert "accept=zip" in cloud_share.requests()[0].headers[":query"]


@pytest.mark.parametrize(
    ("key", "sibling", "other", "expected"),
    [
        ("images/1.jpg", "labels/1.txt", "images/2.jpg", "labels/2.txt"),
        ("images/cat/1.jpg", "masks/cat/1.png", "images/dog/2.jpg", "masks/dog/2.png"),
        ("cat/images/1.jpg", "cat/masks/1.png", "dog/images/2.jpg", "dog/masks/2.png"),
        ("train/images/1.jpg", "train/labels/1.txt", "val/images/2.jpg", "val/labels/2.txt"),
        ("images/cat/1.jpg", "masks/cat/mask_1.png", "images/dog/2.jpg", "masks/dog/mask_2.png"),
        ("1.jpg", "1.json", "2.jpg", "2.json"),
        ("a/1.jpg", "a/1.json", "b/2.jpg", "b/2.json"),
        ("a/1.jpg", "a/1_mask.png", "b/2.jpg", "b/2_mask.png"),
        ("a/1.jpg", "a/mask_1.png", "b/2.jpg", "b/mask_2.png"),
        ("1.jpg", "masks/1.png", "2.jpg", "masks/2.png"),
        ("cat/1.jpg", "masks/cat/1.png", "dog/2.jpg", "masks/dog/2.png"),
        ("images/1", "labels/1", "images/2", "labels/2"),
        ("v/4.mp4", "v/4.srt", "v/5.mp4", "v/5.srt"),
        ("i/e.jpeg", "m/e.png", "i/f.jpeg", "m/f.png"),
        ("deep/er/images/a b.jpg", "deep/er/labels/a b.txt", "other/images/c d.jpg", "other/labels/c d.txt"),
    ],
)
def test_where_siblings_are_is_learned_from_one(key: str, sibling: str, other: str, expected: str) -> None:
    """One pair of keys tells how the next follows: parallel folders, other suffixes, words before and after."""
    siblings = Siblings(Counters())
    siblings.learn(key, sibling)
    assert siblings.of(key) == [sibling]
    assert siblings.of(other) == [expected]


def test_nothing_is_learned_where_names_do_not_follow() -> None:
    """A file that all samples share, such as a palette, tells nothing about the next sample."""
    siblings = Siblings(Counters())
    siblings.learn("images/17.jpg", "palette.json")
    assert siblings.learned() == 0
    siblings.learn("images/17.jpg", "masks/17.png")
    assert siblings.of("images/18.jpg") == ["masks/18.png"]
    assert siblings.of("images/18.png") == siblings.of("photos/18.jpg") == siblings.of("18.jpg") == []


# --- not second to the samples


def shout(data: bytes) -> bytes:
    """Prepare a file in a way that shows."""
    return data.upper()


@pytest.mark.parametrize("cached", [False, True])
def test_siblings_are_not_prepared(share: Share, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    """``prepare`` shrinks photographs; a mask would be another mask. Both are kept, each as it is given."""
    dataset = open_pairs(share, cache=tmp_path / "cache" if cached else None, prepare=shout)
    wanted = [(image.upper(), mask) for image, mask in PAIRS]
    for _ in range(2):
        assert epoch(dataset) == wanted
    assert len(share.requests("GET")) == (16 if cached else 32)
    assert open_pairs(share, cache=tmp_path / "cache")[0] == PAIRS[0]


def test_a_sample_that_is_a_sibling_too_is_not_prepared_as_one(share: Share, tmp_path: Path) -> None:
    """What a sibling is does not depend on which samples are in the same batch."""
    share.put({f"{name}.txt": f"text of {name}" for name in ("1", "1b", "2", "2b")})

    def decode(sample: Sample) -> tuple[bytes, bytes]:
        stem = sample.key.removesuffix(".txt").removesuffix("b")
        return sample.bytes(), sample.sibling(f"{stem}b.txt").bytes()

    for cache in (None, tmp_path / "cache"):
        dataset = StorageDataset(share.location, remote=share.remote, decode=decode, prepare=shout, cache=cache)
        for _ in range(2):
            assert dataset.__getitems__(range(4)) == [
                (f"TEXT OF {name.upper()}".encode(), f"text of {name[0]}b".encode()) for name in ("1", "1b", "2", "2b")
            ]


@pytest.mark.parametrize("cached", [False, True])
def test_split_file_is_not_prepared(share: Share, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    """``prepare`` is not applied to a split file that lies among the samples."""
    lines = "".join(f"images/{number % 2}/{stem}.jpg {number}\n" for number, stem in enumerate(STEMS))
    share.put({**FILES, "split.txt": lines})

    def prepare(data: bytes) -> bytes:
        assert data.startswith(b"image of")
        return shout(data)

    dataset = StorageDataset.from_split_file(
        share.location, "split.txt", remote=share.remote, prepare=prepare, cache=tmp_path / "c" if cached else None
    )
    assert dataset.__getitems__([0, 7]) == [(b"IMAGE OF PHOTO 0", 0), (b"IMAGE OF PHOTO 7", 7)]


@pytest.mark.parametrize("prepare", [None, shout])
def test_warm_brings_siblings_too(share: Share, tmp_path: Path, prepare: Any) -> None:
    """Which there are it learns from one sample, whose random numbers are its own."""

    def decode(sample: Sample) -> Any:
        random.random()
        return with_mask(sample)

    dataset = open_pairs(share, cache=tmp_path / "cache", decode=decode, prepare=prepare)
    random.seed(1)
    size_bytes = sum(map(len, FILES.values()))
    assert dataset.warm(progress=False) == {"files": len(FILES), "bytes": size_bytes}
    drawn = random.random()
    random.seed(1)
    assert drawn == random.random()
    share.server.forget()
    epoch(dataset)
    assert share.requests() == []
    assert dataset.warm(progress=False) == {"files": len(FILES), "bytes": 0}


@pytest.mark.parametrize("workers", [0, 1])
def test_look_ahead_brings_siblings_too(share: Share, tmp_path: Path, workers: int) -> None:
    """What a worker has learned is known to the look-ahead of the loader, and to the other workers."""
    files = {
        f"{folder}/{number:03}.bin": f"{folder} {number}" for folder in ("images", "masks") for number in range(60)
    }
    share.put(files)

    def decode(sample: Sample) -> tuple[bytes, bytes]:
        time.sleep(0.005)
        return sample.bytes(), sample.sibling(sample.key.replace("images", "masks")).bytes()

    dataset = StorageDataset(
        share.location, remote=share.remote, pattern="images/*", decode=decode, cache=DiskCache(tmp_path, "64MiB")
    )
    for ahead_bytes in (200, None):
        loader = StorageDataLoader(
            dataset,
            4,
            num_workers=workers,
            collate_fn=list,
            look_ahead_bytes=ahead_bytes,
            prefetch_factor=workers or None,
        )
        for batch in loader:
            time.sleep(0.02)
            assert all(image.replace(b"images", b"masks") == mask for image, mask in batch)
        if ahead_bytes:
            assert loader.stats()["hit_rate"] == 0.0
            assert loader.stats()["look_ahead_files"] > 80
            assert len(share.requests("GET")) == 120
    assert loader.stats()["hit_rate"] == 1.0
    assert dataset.reader.siblings.learned() == 1


def test_siblings_do_not_evict_each_other(share: Share, tmp_path: Path) -> None:
    """Where three quarters of images and masks find room, an epoch fetches hardly more than the rest."""
    data = bytes(100_000)
    share.put({f"{folder}/{number:03}.bin": data for folder in ("images", "masks") for number in range(40)})

    def decode(sample: Sample) -> int:
        return len(sample.bytes()) + len(sample.sibling(sample.key.replace("images", "masks")).bytes())

    cache = DiskCache(tmp_path, 64 * 110_000)
    dataset = StorageDataset(share.location, remote=share.remote, pattern="images/*", decode=decode, cache=cache)
    loader = StorageDataLoader(dataset, 4, shuffle=True, collate_fn=list)
    missed = []
    for _ in range(5):
        before = dataset.stats()["misses"]
        for _ in loader:
            time.sleep(0.005)
        missed.append(dataset.stats()["misses"] - before)
    held = cache.stats()["entries"]
    assert 48 <= held <= 64
    assert max(missed[2:]) <= 80 - held + 5
    assert loader.stats()["hit_rate"] == pytest.approx(1 - missed[-1] / 80)
