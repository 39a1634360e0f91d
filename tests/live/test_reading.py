"""What is read from a real Nextcloud is what was written to it, however it is asked for."""

from __future__ import annotations

import os
import time
import unicodedata
from typing import TYPE_CHECKING

import pytest
from torch.utils.data import DataLoader

from ai4os_data import StorageDataLoader, StorageDataset, errors, open_filesystem
from ai4os_data.stores import file_at, open_store
from tests.support.live_cloud import wanted
from tests.support.odd_names import NAMES
from tests.support.sources import content, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.live_cloud import Cloud

FILES = 192
SIZE_BYTES = 106_000
ARCHIVES_SINCE = 31
PROBES = 2 * 3  # two at a time, in this process and two workers, until the first answer


@pytest.fixture
def images(cloud: Cloud) -> dict[str, bytes]:
    """As many files as a small training set, in class folders, on the server."""
    keys = [f"train/{'abcd'[number % 4]}/img {number:03}.bin" for number in range(FILES)]
    files = {key: content(key, SIZE_BYTES) for key in keys}
    cloud.put(files)
    return files


def dataset(cloud: Cloud, cache: Path | None, **options: object) -> StorageDataset:
    """A dataset of the training set."""
    return StorageDataset(f"{cloud.location}/train", remote=cloud.remote, cache=cache, **options)  # type: ignore[arg-type]


def test_every_way_to_read_gives_the_bytes_that_were_written(
    cloud: Cloud, images: dict[str, bytes], tmp_path: Path
) -> None:
    """By warming, by our loader, by a plain loader, one by one; from 31 on in archives. Tells how fast each is."""
    expected = [images[f"train/{key}"] for key in dataset(cloud, None).keys]

    def ways(data: StorageDataset, name: str) -> list[bytes]:
        if name == "warm":
            data.warm(progress=False)
        if name == "one by one":
            return [data[index] for index in range(len(data))]
        if name == "plain loader":
            loader: DataLoader[bytes] = DataLoader(data, batch_size=32, num_workers=2, collate_fn=list)
        else:
            loader = StorageDataLoader(data, batch_size=32, num_workers=2, collate_fn=list)
        return [item for batch in loader for item in batch]

    for name in ("warm", "our loader", "plain loader", "one by one"):
        data = dataset(cloud, tmp_path / name)
        begun_s = time.perf_counter()
        assert ways(data, name) == expected, name
        tell(f"{name}: {FILES / (time.perf_counter() - begun_s):.0f} files/s")
        stats = data.stats()
        assert stats["misses"] == FILES
        asked_for_archives = stats["requests_archive"]
        if cloud.version < ARCHIVES_SINCE:
            assert asked_for_archives <= PROBES, name
        else:
            assert (asked_for_archives > 0) == (name != "one by one"), name


def test_files_whose_names_an_archive_confuses_come_right(cloud: Cloud) -> None:
    """The server takes the root's path out of a member's name wherever it stands."""
    inside = f"backup/{cloud.user}/files/{cloud.folder}/data"
    keys = ["data/a.npy", f"data/{inside}/img.npy", "data/backup/img.npy", f"data/x/{cloud.user}/files/img.npy"]
    files = {key: content(key, 500) for key in keys}
    cloud.put(files)
    for location, above in ((f"{cloud.location}/data", "data/"), (cloud.location, "")):
        data = StorageDataset(location, remote=cloud.remote, cache=None)
        found = dict(zip(data.keys, data.__getitems__(list(range(len(data)))), strict=True))
        assert found == {key.removeprefix(above): value for key, value in files.items()}


def test_odd_names_come_back_as_they_were_written(cloud: Cloud) -> None:
    """Each name by itself, by a listing, by a stat, by a GET and in an archive; those that are refused are named."""
    store = cloud.store("names")
    kept: dict[str, bytes] = {}
    for name in NAMES.values():
        try:
            store.write(name, os.fsencode(name))
        except errors.StorageError as error:
            tell(f"refused: {name!r}: {type(error).__name__}: {str(error)[-80:]}")
        else:
            kept[unicodedata.normalize("NFC", name)] = os.fsencode(name)  # one file, as the server has it
    listed = {entry.key: entry for entry in store.list()}
    assert listed.keys() == kept.keys()
    for name, data in kept.items():
        assert store.read(name) == data, name
    together = {entry.key: outcome for entry, outcome in store.read_many(listed.values())}
    assert not [outcome for outcome in together.values() if isinstance(outcome, errors.StorageError)]
    assert len(kept) >= len(NAMES) - 5


def test_a_missing_path_is_missing_at_the_old_address_too(cloud: Cloud) -> None:
    """At /remote.php/webdav some versions stream their listings: an error comes inside a 207."""
    old = f"{cloud.url}/remote.php/webdav"
    store = open_store(f"{old}/{cloud.folder}", cloud.remote.at(old))
    begun_s = time.perf_counter()
    assert file_at(store, "nothing.bin") is None
    assert store.list_below("nothing") == []
    with pytest.raises(errors.NotFoundError):
        store.stat("nothing/here.bin")
    assert time.perf_counter() - begun_s < 5


def test_a_listing_of_twenty_thousand_files_is_whole(cloud: Cloud, tmp_path: Path) -> None:
    """By one request; opened again by one that is small. Tells how long each takes."""
    wanted("_DATA", "_OCC")
    count = 20_000
    for number in range(count):
        path = cloud.files_on_disk / "many" / f"{number % 20:02}" / f"{number:05}.bin"
        if number < 20:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%05d" % number)
    cloud.scan()
    location = f"{cloud.location}/many"
    for name in ("listed", "opened again"):
        begun_s = time.perf_counter()
        data = StorageDataset(location, remote=cloud.remote, cache=tmp_path / "cache")
        tell(f"{name}: {time.perf_counter() - begun_s:.2f} s")
        assert len(data) == count
        assert data.keys[17] == "00/00340.bin"
    assert data.stats()["requests"] == 1
    assert data[17] == b"00340"


def test_a_file_rewritten_in_mid_epoch_comes_whole_in_one_of_its_versions(
    cloud: Cloud, images: dict[str, bytes], tmp_path: Path
) -> None:
    """Old or new, and with the listing made anew the new one."""
    data = dataset(cloud, tmp_path / "cache", on_drift="refresh")
    again = {key: content(f"again {key}", SIZE_BYTES + number % 3) for number, key in enumerate(images)}
    loader = StorageDataLoader(data, batch_size=8, num_workers=2, collate_fn=list)
    came: list[bytes] = []
    for number, batch in enumerate(loader):
        came += batch
        if number == 2:
            cloud.put(dict(list(again.items())[::2]))
    for key, data_bytes in zip(data.keys, came, strict=True):
        assert data_bytes in {images[f"train/{key}"], again[f"train/{key}"]}
    data.refresh()
    expected = [(again if number % 2 == 0 else images)[key] for number, key in enumerate(images)]
    found = dict(zip(data.keys, data.__getitems__(list(range(FILES))), strict=True))
    assert [found[key.removeprefix("train/")] for key in images] == expected


def test_a_table_is_read_through_the_file_system(cloud: Cloud) -> None:
    """What is written through fsspec is there when it is closed."""
    files = open_filesystem(cloud.location, cloud.remote)
    with files.open("table.csv", "wb") as file:
        file.write(b"a,b\n1,2\n")
    assert cloud.store().read("table.csv") == b"a,b\n1,2\n"
