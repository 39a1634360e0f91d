"""The listing of a dataset: kept beside the cache as long as it is right, and fixed by a lock file."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import DiskCache, StorageDataset
from ai4os_data.datasets.index import Index
from ai4os_data.errors import (
    AuthenticationError,
    ChangedError,
    IntegrityError,
    LocationError,
    NotFoundError,
    SampleError,
    ServerUnavailableError,
)
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience

FILES = {"a/1.bin": "one", "a/deep/er/2.bin": "two", "b/3.bin": "three"}


def open_dataset(share: Share, cache: Any, **options: Any) -> StorageDataset:
    """Open a dataset of texts."""
    return StorageDataset(share.location, remote=share.remote, decode="text", cache=cache, **options)


def everything(dataset: Any) -> list[Any]:
    """Return every sample."""
    return list(dataset)


def asked(share: Share) -> list[tuple[str, str | None]]:
    """Return the methods and depths of the requests."""
    return [(request.method, request.headers.get("depth")) for request in share.requests()]


# --- kept beside the cache


def test_reopening_on_nextcloud_costs_one_request(cloud_share: Share, tmp_path: Path) -> None:
    """The folder's ETag tells that nothing below has changed: one PROPFIND of Depth 0, and no listing."""
    cloud_share.put(FILES)
    first = open_dataset(cloud_share, tmp_path / "cache")
    cloud_share.server.forget()
    again = open_dataset(cloud_share, DiskCache(tmp_path / "cache"))
    assert asked(cloud_share) == [("PROPFIND", "0")]
    assert again.keys == first.keys == sorted(FILES)


@pytest.mark.parametrize("key", ["a/deep/er/2.bin", "a/deep/er/new.bin", "top.bin"])
def test_reopening_on_nextcloud_lists_anew_after_a_change(cloud_share: Share, tmp_path: Path, key: str) -> None:
    """A file that appears or changes anywhere below shows in the folder's ETag."""
    cloud_share.put(FILES)
    everything(open_dataset(cloud_share, tmp_path / "cache"))
    cloud_share.put({key: "changed"})
    cloud_share.server.forget()
    again = open_dataset(cloud_share, tmp_path / "cache")
    assert asked(cloud_share)[0] == ("PROPFIND", "0")
    assert len(asked(cloud_share)) > 1
    assert dict(zip(again.keys, everything(again), strict=True)) == {**FILES, key: "changed"}
    cloud_share.server.forget()
    open_dataset(cloud_share, tmp_path / "cache")
    assert asked(cloud_share) == [("PROPFIND", "0")]  # the new listing is kept in its turn


def test_reopening_on_plain_webdav_lists_anew(share: Share, tmp_path: Path) -> None:
    """Its folders have no ETag that tells of files below, so what is kept is not trusted."""
    share.put(FILES)
    everything(open_dataset(share, tmp_path / "cache"))
    share.put({"a/deep/er/2.bin": "changed"})
    share.server.forget()
    again = open_dataset(share, tmp_path / "cache")
    assert asked(share) == [("PROPFIND", "infinity")]
    assert everything(again) == ["one", "changed", "three"]


@pytest.mark.parametrize("kind", ["share", "cloud_share"])
def test_kept_listing_serves_while_the_server_is_down(
    kind: str, tmp_path: Path, patience: Patience, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """With a warning; what is cached can be read, and what is not is an error of its sample."""
    share: Share = request.getfixturevalue(kind)
    share.put(FILES)
    open_dataset(share, tmp_path / "cache").__getitems__([0, 2])
    with share.down():
        again = StorageDataset(share.store(patience), decode="text", cache=tmp_path / "cache")
        assert again.keys == sorted(FILES)
        assert (again[0], again[2]) == ("one", "three")
        with pytest.raises(SampleError, match=r"'a/deep/er/2\.bin'.*up, and reachable") as caught:
            again[1]
        assert isinstance(caught.value.__cause__, ServerUnavailableError)
    (warning,) = [record for record in caplog.records if record.name == "ai4os_data"]
    assert warning.levelno == logging.WARNING
    assert f"{share.location}: the listing of 20" in warning.getMessage()
    assert "is used, since the storage cannot be reached" in warning.getMessage()
    assert again[1] == "two"  # it is up again


def test_kept_listing_serves_during_maintenance(
    cloud_share: Share, tmp_path: Path, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """A Nextcloud that answers 503 to everything is as good as down."""
    cloud_share.put(FILES)
    everything(open_dataset(cloud_share, tmp_path / "cache"))
    cloud_share.server.set_maintenance(True)  # type: ignore[attr-defined]  # it is a NextcloudServer
    try:
        again = StorageDataset(cloud_share.store(patience), decode="text", cache=tmp_path / "cache")
        assert everything(again) == ["one", "two", "three"]
    finally:
        cloud_share.server.set_maintenance(False)  # type: ignore[attr-defined]
    assert "maintenance" in caplog.text


def test_kept_listing_does_not_serve_wrong_credentials(share: Share, tmp_path: Path, patience: Patience) -> None:
    """Who may not list the folder does not get to see what another has listed."""
    share.put(FILES)
    everything(open_dataset(share, tmp_path / "cache"))
    with pytest.raises(AuthenticationError, match="401"):
        StorageDataset(share.store(patience, password="guessed"), cache=tmp_path / "cache")


def test_kept_listing_does_not_hide_a_folder_that_is_gone(cloud_share: Share, tmp_path: Path) -> None:
    """A location that was removed or renamed on the server is an error, not a memory."""
    cloud_share.put(FILES)
    open_dataset(cloud_share, tmp_path / "cache")
    cloud_share.root.rename(cloud_share.root.with_name("renamed"))
    with pytest.raises(LocationError, match="there is no such folder"):
        open_dataset(cloud_share, tmp_path / "cache")


def test_damaged_listing_is_made_anew(cloud_share: Share, tmp_path: Path) -> None:
    """A flipped bit in what is kept costs a listing, and nothing else."""
    cloud_share.put(FILES)
    open_dataset(cloud_share, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "listings").iterdir()
    whole = bytearray(kept.read_bytes())
    for place in (3, len(whole) // 2, len(whole) - 2):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        cloud_share.server.forget()
        assert open_dataset(cloud_share, tmp_path / "cache").keys == sorted(FILES)
        assert len(asked(cloud_share)) > 1


def test_index_tells_files_sizes_and_where(share: Share) -> None:
    """It is the listing of the whole location, whatever the dataset's pattern is."""
    share.put(FILES)
    index = open_dataset(share, None, pattern="b/*").index
    assert repr(index) == f"Index({share.location!r}, 3 files)"
    assert {entry.key: entry.size_bytes for entry in index.entries} == {
        key: len(content) for key, content in FILES.items()
    }


# --- lock files


def locked(share: Share, tmp_path: Path) -> Path:
    """Fill a share, and write its lock file."""
    share.put(FILES)
    path = tmp_path / "data.lock.json"
    open_dataset(share, None).index.save(path)
    return path


def test_lock_file_gives_the_dataset_it_was_made_from(share: Share, tmp_path: Path) -> None:
    """With the same keys and versions; on plain WebDAV the listing is compared."""
    path = locked(share, tmp_path)
    dataset = open_dataset(share, None, index=path, on_drift="error")
    assert everything(dataset) == ["one", "two", "three"]


def test_lock_file_on_nextcloud_costs_one_request(cloud_share: Share, tmp_path: Path) -> None:
    """If the folder still has the ETag of the lock file, one request is all."""
    path = locked(cloud_share, tmp_path)
    cloud_share.server.forget()
    assert open_dataset(cloud_share, None, index=path, on_drift="error").keys == sorted(FILES)
    assert asked(cloud_share) == [("PROPFIND", "0")]


def test_drift_from_the_lock_file_is_an_error_when_asked(share: Share, tmp_path: Path) -> None:
    """The error names each kind of difference, and what to do."""
    path = locked(share, tmp_path)
    share.put({"a/1.bin": "changed", "c/new.bin": "new"})
    share.remove("b/3.bin")
    with pytest.raises(
        ChangedError,
        match=r"is not what the lock file says: 'a/1\.bin' changed, 'b/3\.bin' is gone, 'c/new\.bin' is new\. Write",
    ):
        open_dataset(share, None, index=path, on_drift="error")


def test_what_the_pattern_leaves_out_may_come_and_go(
    share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A note beside the samples is no drift of the dataset."""
    path = locked(share, tmp_path)
    share.put({"notes.txt": "new"})
    for on_drift in ("error", "warn"):
        dataset = open_dataset(share, None, index=path, pattern="**/*.bin", on_drift=on_drift)
        assert dataset.keys == sorted(FILES)
    assert caplog.records == []
    with pytest.raises(ChangedError, match=r"'notes\.txt' is new"):
        open_dataset(share, None, index=path, on_drift="error")


@pytest.mark.parametrize("on_drift", ["error", "warn"])
def test_lock_file_of_another_folder_is_refused(share: Share, tmp_path: Path, on_drift: str) -> None:
    """Its files are not there; the same files at another address are the same dataset."""
    path = locked(share, tmp_path)
    other = Share(share.server)
    other.put({"a/1.bin": "one", "x.bin": "of another dataset"})
    with pytest.raises(
        LocationError, match=r"the lock file is of http.*, where 'a/deep/er/2\.bin', 'b/3\.bin' are not"
    ):
        open_dataset(other, None, index=path, on_drift=on_drift)
    other.put(FILES)
    assert open_dataset(other, None, index=path, pattern="[ab]/**/*").keys == sorted(FILES)


def test_refresh_is_remembered(cloud_share: Share, tmp_path: Path, patience: Patience) -> None:
    """The listing beside the cache is the new one: reopening costs one request, and offline it serves."""
    cloud_share.put(FILES)
    dataset = open_dataset(cloud_share, tmp_path / "cache")
    cloud_share.put({"new.bin": "new"})
    dataset.refresh()
    assert dataset.keys == sorted([*FILES, "new.bin"])
    cloud_share.server.forget()
    assert open_dataset(cloud_share, tmp_path / "cache").keys == dataset.keys
    assert asked(cloud_share) == [("PROPFIND", "0")]
    with cloud_share.down():
        offline = StorageDataset(cloud_share.store(patience), cache=DiskCache(tmp_path / "cache"))
    assert offline.keys == dataset.keys


def test_what_can_be_no_lock_file_is_refused(share: Share, tmp_path: Path) -> None:
    """A folder, and a value that is no path, are refused as index=."""
    share.put(FILES)
    with pytest.raises(LocationError, match="is not a lock file of ai4os-data"):
        open_dataset(share, None, index=tmp_path)
    for value in (5, b"lock.json"):
        with pytest.raises(TypeError, match="index is the path of a lock file"):
            open_dataset(share, None, index=value)


def test_drift_from_the_lock_file_is_warned_of(share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The dataset has the files of the lock file: no new one, changed ones as they are, lost ones as errors."""
    path = locked(share, tmp_path)
    share.put({"a/1.bin": "changed", "c/new.bin": "new"})
    share.remove("b/3.bin")
    dataset = open_dataset(share, None, index=path)
    assert "is not what the lock file says" in caplog.text
    assert "The files of the lock file are used, as they are now" in caplog.text
    assert dataset.keys == sorted(FILES)
    assert (dataset[0], dataset[1]) == ("changed", "two")
    with pytest.raises(SampleError, match=r"'b/3\.bin' was listed, but is not there any more") as caught:
        dataset[2]
    assert isinstance(caught.value.__cause__, NotFoundError)


def test_drift_from_the_lock_file_is_taken_in_by_refresh(
    share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``on_drift="refresh"`` takes what is there now, in silence; saved again, it is the lock file."""
    path = locked(share, tmp_path)
    share.put({"a/1.bin": "changed", "c/new.bin": "new"})
    dataset = open_dataset(share, None, index=path, on_drift="refresh")
    assert everything(dataset) == ["changed", "two", "three", "new"]
    assert caplog.records == []
    dataset.index.save(path)
    assert open_dataset(share, None, index=path, on_drift="error").keys == dataset.keys


def test_lock_file_serves_while_the_server_is_down(share: Share, tmp_path: Path, patience: Patience) -> None:
    """With a lock file and a warm cache, a dataset needs no network at all."""
    path = locked(share, tmp_path)
    open_dataset(share, tmp_path / "cache").warm(progress=False)
    (tmp_path / "cache" / "listings").rename(tmp_path / "elsewhere")
    with share.down():
        dataset = StorageDataset(share.store(patience), decode="text", cache=tmp_path / "cache", index=path)
        assert everything(dataset) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"a/1.bin"', '"a/9.bin"'), ('"a/1.bin"', '"a/2.bin"'), ("[\n3,\n", "[\n4,\n"), ('"digest": "', '"digest": "0')],
)
def test_edited_lock_file_is_refused(share: Share, tmp_path: Path, old: str, new: str) -> None:
    """The digest of an edited lock file does not match."""
    path = locked(share, tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(
        IntegrityError, match=r"data\.lock\.json was changed after it was written: .*dataset\.index\.save"
    ):
        open_dataset(share, None, index=path)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "null", '{"schema": "ai4os-data listing 99"}', '{"schema": "ai4os-data listing 1", "keys": 3}'],
)
def test_what_is_no_lock_file_is_refused(share: Share, tmp_path: Path, content: str) -> None:
    """Neither another JSON file nor an empty one is taken for a listing."""
    share.put(FILES)
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(LocationError, match=r"other\.json is not a lock file of ai4os-data"):
        open_dataset(share, None, index=tmp_path / "other.json")


def test_lock_file_of_another_format_is_refused(share: Share, tmp_path: Path) -> None:
    """A lock file of a later format is refused."""
    path = locked(share, tmp_path)
    path.write_text(path.read_text().replace("listing 1", "listing 2"))
    with pytest.raises(LocationError, match="is not a lock file"):
        open_dataset(share, None, index=path)


def test_lock_file_cannot_name_what_is_outside(share: Share, tmp_path: Path) -> None:
    """A key with ``..`` makes it none, with a digest that fits or without."""
    path = locked(share, tmp_path)
    whole = json.loads(path.read_text())
    whole["keys"][0] = "../elsewhere.bin"
    path.write_text(json.dumps(whole))
    with pytest.raises(LocationError, match="is not a lock file"):
        open_dataset(share, None, index=path)


def test_lock_file_keeps_odd_names(tmp_path: Path) -> None:
    """Quotes, line ends, both forms of an umlaut and bytes that are no UTF-8 come back as they were."""
    folder = Folder(tmp_path / "place")
    names = ['"quoted".bin', "line\nend.bin", "u\u0308.bin", "\u00fc.bin", "\u2028.bin", os.fsdecode(b"\xff\xfe.bin")]
    for name in names:
        (folder.root / name).write_text(ascii(name))
    StorageDataset(folder.location).index.save(tmp_path / "lock.json")
    assert Index.load(tmp_path / "lock.json").keys == sorted(names)
    dataset = StorageDataset(folder.location, decode="text", index=tmp_path / "lock.json", on_drift="error")
    assert dataset.keys == sorted(names)
    assert everything(dataset) == [ascii(name) for name in sorted(names)]


def test_lock_file_that_cannot_be_written_leaves_nothing(share: Share, tmp_path: Path) -> None:
    """An older lock file stays as it is, and no half of a new one lies beside it."""
    path = locked(share, tmp_path)
    before = path.read_bytes()
    index = open_dataset(share, None).index
    index.token = object()  # type: ignore[assignment]  # nothing that JSON can say
    with pytest.raises(TypeError):
        index.save(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_no_secret_is_told(
    share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lock file, listing, cache, log, repr and errors hold no password, neither plain nor obscured nor encoded."""
    caplog.set_level(logging.DEBUG)
    share.put(FILES)
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    obscured = os.environ["RCLONE_CONFIG_RSHARE_PASS"]
    password = share.server.password
    encoded = share.server.authorization.removeprefix("Basic ")
    url = share.location.replace("//", f"//{share.server.user}:sesame-%C3%96ffne%231@", 1)
    told = []
    for location in (f"rshare:{share.name}", url):
        dataset = StorageDataset(location, cache=tmp_path / "cache")
        everything(dataset)
        dataset.index.save(tmp_path / "lock.json")
        (share.root / "a/1.bin").rename(share.root / "a/0.bin")
        with pytest.raises(ChangedError) as drifted:
            StorageDataset(location, cache=None, index=tmp_path / "lock.json", on_drift="error")
        (share.root / "a/0.bin").rename(share.root / "a/1.bin")
        told += [
            repr(dataset),
            repr(dataset.index),
            repr(dataset._store),
            repr(dataset._store.__dict__),
            repr(drifted.value),
        ]
    told += [record.getMessage() for record in caplog.records]
    told += [path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(told) > 10
    for secret in (password, obscured, encoded, "sesame"):
        assert not [text for text in told if secret in text]
