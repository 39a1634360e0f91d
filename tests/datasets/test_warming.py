"""``warm()`` brings a dataset into the cache ahead of the first epoch, as far as it goes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import DiskCache, StorageDataset
from ai4os_data.errors import NotFoundError, SampleError
from ai4os_data.machine import processors

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share

FILES = {f"{number:02}.bin": os.urandom(1000 + number) for number in range(20)}
ALL_BYTES = sum(map(len, FILES.values()))


def everything(dataset: Any) -> list[Any]:
    """Return every sample."""
    return list(dataset)


@pytest.fixture(params=["wsgidav", "nextcloud"])
def place(request: pytest.FixtureRequest) -> Share:
    """Twenty files over WebDAV, and on a Nextcloud that sends them as archives."""
    place: Share = request.getfixturevalue({"wsgidav": "share", "nextcloud": "cloud_share"}[request.param])
    place.put(FILES)
    return place


def test_warm_brings_every_file_and_tells_how_much(place: Share, tmp_path: Path) -> None:
    """It returns files and bytes; the epoch after it asks the server nothing."""
    dataset = StorageDataset(place.location, remote=place.remote, cache=tmp_path / "cache")
    assert dataset.warm(progress=False) == {"files": 20, "bytes": ALL_BYTES}
    place.server.forget()
    assert everything(dataset) == [FILES[key] for key in dataset.keys]
    assert place.requests() == []


def test_second_warm_costs_no_request(place: Share, tmp_path: Path) -> None:
    """A second warm() makes no request, in the same process or in another one."""
    dataset = StorageDataset(place.location, remote=place.remote, cache=tmp_path / "cache")
    dataset.warm(progress=False)
    again = StorageDataset(place.location, remote=place.remote, cache=DiskCache(tmp_path / "cache"))
    place.server.forget()
    assert dataset.warm(progress=False) == {"files": 20, "bytes": 0}
    assert again.warm(progress=False) == {"files": 20, "bytes": 0}
    assert place.requests() == []


def test_warm_fetches_what_is_missing_alone(place: Share, tmp_path: Path) -> None:
    """Files that an epoch has brought into the cache are not fetched again."""
    dataset = StorageDataset(place.location, remote=place.remote, cache=tmp_path / "cache")
    dataset.__getitems__(list(range(15)))
    rest = sum(len(FILES[key]) for key in dataset.keys[15:])
    assert dataset.warm(progress=False) == {"files": 20, "bytes": rest}


def test_progress_is_shown_when_asked_for(share: Share, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar on stderr, none with ``progress=False``, and never a word on stdout."""
    share.put(FILES)
    dataset = StorageDataset(share.location, remote=share.remote, cache=tmp_path / "cache")
    dataset.warm(progress=False)
    assert capsys.readouterr() == ("", "")
    dataset.warm()
    out, err = capsys.readouterr()
    assert out == ""
    assert "warm: 100%" in err


def test_warm_stops_where_the_cache_is_full(share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It does not read through the rest of the data; it says how far it came, and the epoch reads all."""
    files = {f"{number:03}.bin": os.urandom(30_000) for number in range(300)}
    share.put(files)
    cache = DiskCache(tmp_path / "cache", "3MiB")
    dataset = StorageDataset(share.location, remote=share.remote, cache=cache)
    warmed = dataset.warm(progress=False)
    held = cache.stats()["entries"]
    assert warmed["files"] == held
    assert 60 <= held <= 3 * 2**20 // 32_768
    assert len(share.requests("GET")) < 240  # those that are held, and some that found no room
    assert f"the cache is full; {held} of 300 files are in it" in caplog.text
    before = dataset.stats()["requests_get"]
    assert everything(dataset) == [files[key] for key in dataset.keys]
    assert dataset.stats()["requests_get"] - before == 300 - held
    assert dataset.stats()["hits"] == held


def test_file_that_is_gone_ends_a_warm_or_is_skipped(share: Share, tmp_path: Path) -> None:
    """As in an epoch: ``"raise"`` names it, ``"skip"`` leaves it out of what is counted."""
    share.put(FILES)
    raising, skipping = (
        StorageDataset(share.location, remote=share.remote, cache=tmp_path / on_error, on_error=on_error)
        for on_error in ("raise", "skip")
    )
    share.remove("03.bin")
    with pytest.raises(SampleError, match=r"'03\.bin' of http") as caught:
        raising.warm(progress=False)
    assert (caught.value.key, type(caught.value.__cause__)) == ("03.bin", NotFoundError)
    assert skipping.warm(progress=False) == {"files": 19, "bytes": ALL_BYTES - len(FILES["03.bin"])}


def test_without_a_cache_there_is_nothing_to_warm(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """Without a cache warm() logs that, and reads nothing."""
    share.put(FILES)
    dataset = StorageDataset(share.location, remote=share.remote, cache=None)
    assert dataset.warm() == {"files": 0, "bytes": 0}
    assert "nothing to warm, since this dataset has no cache" in caplog.text
    assert share.requests("GET") == []


def test_chosen_key_that_comes_twice_is_warmed_once(share: Share, tmp_path: Path) -> None:
    """warm() counts files, not samples."""
    share.put(FILES)
    dataset = StorageDataset.from_keys(
        share.location, ["01.bin", "01.bin", "00.bin"], remote=share.remote, cache=tmp_path / "cache"
    )
    assert dataset.warm(progress=False) == {"files": 2, "bytes": 2001}


def test_files_are_prepared_several_at_a_time(place: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processors make three threads, whose work is what one thread's would be; each file is fetched once."""
    monkeypatch.setattr(processors, "usable_processors", lambda: 3)
    together = threading.Barrier(3, timeout=20)

    def prepare(data: bytes) -> bytes:
        if len(data) < 1018:  # six times three of the twenty
            together.wait()
        return data[:100]

    dataset = StorageDataset(
        place.location, remote=place.remote, cache=tmp_path / "cache", prepare=prepare, prepare_version=1
    )
    assert dataset.warm(progress=False) == {"files": 20, "bytes": 20 * 100}
    place.server.forget()
    assert everything(dataset) == [FILES[key][:100] for key in dataset.keys]
    assert place.requests() == []
