"""What goes wrong is told with what to do; what is wrong with one file may be skipped, what concerns all may not."""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader, Dataset, Subset

from ai4os_data import Sample, StorageDataLoader, StorageDataset
from ai4os_data.datasets.decoding import as_image
from ai4os_data.errors import (
    AuthenticationError,
    ChangedError,
    EmptyDatasetError,
    LocationError,
    NotFoundError,
    RemoteError,
    SampleError,
    ServerUnavailableError,
    SkippedError,
)
from tests.support.shares import Folder, Share, png

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.support.servers import FaultServer

PICTURES = {f"{number}.png": png((number, 0, 0)) for number in range(8)}


def red(sample: Sample) -> int:
    """Tell pictures apart, and raise what a decoder raises for those that are broken."""
    value: int = as_image(sample).getpixel((0, 0))[0]
    return value


def with_two_bad_ones(share: Share, **options: Any) -> StorageDataset:
    """Open a dataset of eight pictures: number 2 is gone since the listing, number 5 is no picture."""
    share.put(PICTURES)
    share.put({"5.png": b"\x89PNG, but broken"})
    dataset = StorageDataset(share.location, **{"remote": share.remote, "decode": red, "cache": None, **options})
    share.remove("2.png")
    return dataset


def epoch(dataset: Any, **options: Any) -> list[list[Any]]:
    """Return the batches of one epoch, two samples each."""
    return list(DataLoader(dataset, batch_size=2, collate_fn=list, **options))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the library has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "ai4os_data"]


# --- on_error="raise"


@pytest.mark.parametrize("cached", [False, True])
def test_raise_names_key_location_and_index(share: Share, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    """The error has them in its message and as attributes, and chains its cause."""
    dataset = with_two_bad_ones(share, cache=tmp_path / "cache" if cached else None)
    for index, kind, why in (
        (2, NotFoundError, "was listed, but is not there any more"),
        (5, OSError, "identify image"),
    ):
        with pytest.raises(SampleError, match=why) as caught:
            dataset[index]
        error = caught.value
        assert (error.key, error.location, error.index) == (f"{index}.png", share.location, index)
        assert str(error).startswith(f"sample {index} ('{index}.png') of {share.location}: ")
        assert isinstance(error.__cause__, kind)
        with pytest.raises(SampleError, match=f"sample {index} "):
            dataset.__getitems__([0, index, 1])
    assert dataset[-1] == 7


# --- on_error="skip"


def test_skip_names_a_bad_sample_once_and_gives_the_rest(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """Over three epochs two lines are logged, with key, location and reason; every good sample comes each time."""
    dataset = with_two_bad_ones(share, on_error="skip")
    for _ in range(3):
        assert epoch(dataset) == [[0, 1], [3], [4], [6, 7]]
    gone, broken = said(caplog)
    assert gone.startswith(f"skipped: sample 2 ('2.png') of {share.location}: ")
    assert "not there any more (404)" in gone
    assert broken.startswith(f"skipped: sample 5 ('5.png') of {share.location}: ")
    assert "cannot identify image" in broken
    assert dataset.stats()["skipped"] == 6


def log_to(path: Path) -> Any:
    """Return what a worker calls first, so that its log can be read."""

    def begin(_worker: int) -> None:
        handler = logging.FileHandler(path)
        logging.getLogger("ai4os_data").addHandler(handler)

    return begin


def test_skip_names_a_bad_sample_once_in_all_workers(share: Share, tmp_path: Path) -> None:
    """Workers that live for one epoch each, and know nothing of each other, name it once together."""
    dataset = with_two_bad_ones(share, on_error="skip")
    log = tmp_path / "workers.log"
    for _ in range(3):
        batches = epoch(dataset, num_workers=2, worker_init_fn=log_to(log))
        assert {0, 1, 3, 4, 6, 7} == {value for batch in batches for value in batch}
    assert sorted(line.split(" of ")[0] for line in log.read_text().splitlines() if line.startswith("skipped")) == [
        "skipped: sample 2 ('2.png')",
        "skipped: sample 5 ('5.png')",
    ]


def test_skip_says_so_where_nothing_is_left(share: Share) -> None:
    """A single index, or a batch of bad samples alone: no other sample, maybe of another split, takes their place."""
    dataset = with_two_bad_ones(share, on_error="skip")
    for ask in (lambda: dataset[2], lambda: dataset[-3], lambda: dataset.__getitems__([2, 5])):
        with pytest.raises(
            SkippedError, match=r"every sample of this request is bad \(last: [25], '[25]\.png'\)"
        ) as caught:
            ask()
        assert (caught.value.key, caught.value.location) == (f"{caught.value.index}.png", share.location)
    assert dataset.__getitems__([]) == []
    assert dataset.__getitems__([2, 3]) == [3]


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_keeps_to_the_split(share: Share, workers: int) -> None:
    """A loader over a part gives the good samples of that part, each once, and leaves out a batch of bad ones."""
    dataset = with_two_bad_ones(share, on_error="skip")
    part = Subset(dataset, [0, 2, 4, 6])

    class Wrapped(Dataset[Any]):
        def __len__(self) -> int:
            return len(part)

        def __getitem__(self, index: int) -> Any:
            return part[index]

    for whole in (part, Wrapped()):
        for batch_size in (1, 2, None):
            loader = StorageDataLoader(whole, batch_size, num_workers=workers, collate_fn=list if batch_size else None)
            batches = list(loader)
            assert [value for batch in batches for value in (batch if batch_size else [batch])] == [0, 4, 6]
            assert len(batches) == (2 if batch_size == 2 else 3)
            assert loader.epoch == 1


@pytest.mark.parametrize("count", [1, 3, 2000])
def test_skip_ends_where_no_sample_is_good(tmp_path: Path, count: int) -> None:
    """A dataset of bad samples alone, however many, raises and says so."""
    folder = Folder(tmp_path / "place")
    folder.put({f"{number}.json": "{" for number in range(count)})
    dataset = StorageDataset(folder.location, decode="json", on_error="skip")
    with pytest.raises(SkippedError, match="every sample of this request is bad"):
        dataset[0]
    with pytest.raises(SkippedError, match="every sample of this request is bad"):
        epoch(dataset)
    with pytest.raises(SkippedError, match="every sample of this request is bad"):
        list(StorageDataLoader(dataset, batch_size=64))


@pytest.mark.parametrize("cached", [False, True])
def test_prepare_that_fails_is_about_its_file(share: Share, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    """What ``prepare`` cannot take is named, or skipped, as what ``decode`` cannot."""

    def prepare(data: bytes) -> bytes:
        if not data.startswith(b"\x89PNG\r"):
            raise ArithmeticError
        return data

    cache = tmp_path / "cache" if cached else None
    skipping = with_two_bad_ones(share, prepare=prepare, on_error="skip", cache=cache)
    for _ in range(2):
        assert epoch(skipping) == [[0, 1], [3], [4], [6, 7]]
    raising = StorageDataset(share.location, remote=share.remote, decode=red, prepare=prepare, cache=cache)
    with pytest.raises(SampleError, match=r"\('5\.png'\) .*prepare.* failed: ArithmeticError"):
        epoch(raising)


def test_skip_does_not_hide_a_transform_that_fails(share: Share) -> None:
    """What fails after the file was read and decoded is a mistake in the program, not in a file."""
    share.put(PICTURES)
    dataset = StorageDataset(
        share.location, remote=share.remote, decode=red, cache=None, on_error="skip", transform=lambda value: 1 // value
    )
    with pytest.raises(SampleError, match=r"sample 0 \('0\.png'\).*ZeroDivisionError"):
        epoch(dataset)


def test_skip_does_not_hide_a_server_that_is_down(share: Share, patience: Patience) -> None:
    """Every sample would be bad: that is no dataset with some bad samples."""
    share.put(PICTURES)
    dataset = StorageDataset(share.store(patience), decode=red, cache=None, on_error="skip")
    with share.down(), pytest.raises(SampleError, match=r"sample 0 .*up, and reachable from this machine\?") as caught:
        epoch(dataset)
    assert isinstance(caught.value.__cause__, ServerUnavailableError)
    assert epoch(dataset)[0] == [0, 1]


def test_skip_does_not_hide_credentials_that_expire(fault: FaultServer) -> None:
    """A 401 in mid-run ends the run, and nobody asks the server again."""
    share = Share(fault)
    share.put(PICTURES)
    dataset = StorageDataset(share.location, remote=share.remote, decode=red, cache=None, on_error="skip")
    assert dataset[0] == 0
    fault.credentials_expire()
    fault.forget()
    for _ in range(3):
        with pytest.raises(SampleError, match=r"does not accept the credentials of user 'alice' \(401\)") as caught:
            epoch(dataset)
        assert isinstance(caught.value.__cause__, AuthenticationError)
    assert len(fault.requests()) <= 2  # those of the first batch


# --- a file that is another one than was listed


def test_file_that_shrank_is_an_error_when_asked(share: Share) -> None:
    """``on_drift="error"``: the message tells both sizes, and what to do."""
    share.put({"a.bin": b"0123456789"})
    dataset = StorageDataset(share.location, remote=share.remote, cache=None, on_drift="error")
    share.put({"a.bin": b"01234"})
    with pytest.raises(
        SampleError, match=r"'a\.bin' .*10 bytes then, 5 now\. .*refresh\(\), or .*on_drift='warn'"
    ) as caught:
        dataset[0]
    assert isinstance(caught.value.__cause__, ChangedError)


@pytest.mark.parametrize(("on_drift", "lines"), [("warn", 1), ("refresh", 0)])
def test_file_that_changed_is_used_as_it_is(
    share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture, on_drift: Any, lines: int
) -> None:
    """Whole and in its new version, with a warning or without, over two epochs and with a cache."""
    share.put({"a.bin": b"0123456789", "b.bin": b"b"})
    dataset = StorageDataset(share.location, remote=share.remote, cache=tmp_path / "cache", on_drift=on_drift)
    share.put({"a.bin": b"a new version of it"})
    for _ in range(2):
        assert epoch(dataset) == [[b"a new version of it", b"b"]]
    told = said(caplog)
    assert len(told) == lines
    assert all("'a.bin' is not the version that was listed" in line and "refresh() lists anew" in line for line in told)


def test_file_that_changes_while_it_is_read_is_not_given(tmp_path: Path) -> None:
    """Bytes of two versions are no sample: the error asks whether it is still being written."""
    folder = Folder(tmp_path / "place")
    folder.put({"growing.bin": bytes(64 * 1024 * 1024)})
    dataset = StorageDataset(folder.location)
    done = threading.Event()

    def write() -> None:
        with open(folder.root / "growing.bin", "r+b") as file:
            while not done.is_set():
                file.write(os.urandom(100))
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(SampleError, match=r"'growing\.bin' changed while it was read; is it still being written\?"):
            dataset[0]
    finally:
        done.set()
        writer.join()


# --- what a user may get wrong


def test_no_such_folder_on_the_server(share: Share, cloud_share: Share) -> None:
    """The error names the location, and what to check."""
    for place in (share, cloud_share):
        with pytest.raises(LocationError, match=r"absent: there is no such folder on the server; check the spelling"):
            StorageDataset(f"{place.location}/absent", remote=place.remote, cache=None)


def test_no_such_directory(tmp_path: Path) -> None:
    """The error says that the storage may not be mounted on this machine."""
    with pytest.raises(LocationError, match=r"absent: there is no such directory\. Is the storage mounted\?"):
        StorageDataset(tmp_path / "absent")


def test_location_that_is_a_file(tmp_path: Path, share: Share) -> None:
    """The error asks for the folder instead of the file."""
    (tmp_path / "data.zip").touch()
    share.put({"data.zip": b"PK"})
    with pytest.raises(LocationError, match=r"data\.zip is a file; give the directory"):
        StorageDataset(tmp_path / "data.zip")
    with pytest.raises(LocationError, match=r"data\.zip is a file; give the folder"):
        StorageDataset(f"{share.location}/data.zip", remote=share.remote, cache=None)


def test_pattern_that_matches_nothing(share: Share, tmp_path: Path) -> None:
    """The message shows the pattern, what is there, and what a pattern looks like."""
    share.put(PICTURES)
    with pytest.raises(
        EmptyDatasetError, match=r"nothing matches '\*\.jpg'; there are 8 files, such as '0\.png'.*globs"
    ):
        StorageDataset(share.location, remote=share.remote, pattern="*.jpg", cache=None)
    with pytest.raises(
        EmptyDatasetError, match=r"there are 8 files.*several patterns are a list: .* matches 8 of them"
    ):
        StorageDataset(share.location, remote=share.remote, pattern="*.jpg,*.png", cache=None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyDatasetError, match=r"nothing matches '\*\*/\*'; there is no file at all"):
        StorageDataset(tmp_path / "empty")


def test_files_that_differ_from_the_pattern_in_case_are_told(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """Half of the pictures of a camera that writes ``.JPG`` would be missed by nobody."""
    share.put({"a.jpg": b"", "b.JPG": b"", "c.txt": b""})
    assert StorageDataset(share.location, remote=share.remote, pattern="**/*.jpg", cache=None).keys == ["a.jpg"]
    assert "1 of the other files, such as 'b.JPG', differ from '**/*.jpg' in upper and lower case only" in caplog.text


def test_wrong_password(cloud_share: Share) -> None:
    """It is told with user and remedy, costs one request, and is not in the message."""
    cloud_share.put(PICTURES)
    with pytest.raises(AuthenticationError, match=r"user 'alice' \(401\).*app password") as caught:
        StorageDataset(cloud_share.location.replace("//", "//alice:Simsalabim@", 1), cache=None)
    assert "Simsalabim" not in str(caught.value)
    assert len(cloud_share.requests()) == 1


def test_no_credentials(share: Share) -> None:
    """A server that asks for credentials where none were found is told from one that refuses them."""
    with pytest.raises(AuthenticationError, match=r"asks for credentials \(401\), and none are here: pass remote="):
        StorageDataset(share.location, cache=None)


def test_server_that_is_down(share: Share, patience: Patience) -> None:
    """The error names the address, and the first thing to check."""
    store = share.store(patience)
    origin = share.server.url.rstrip("/")
    with share.down(), pytest.raises(ServerUnavailableError, match=f"Is {origin} up, and reachable from this machine"):
        StorageDataset(store, cache=None)


def test_remote_that_is_not_configured() -> None:
    """The message tells both ways to configure one."""
    with pytest.raises(RemoteError, match=r"no remote is called 'rshar'.*RCLONE_CONFIG_RSHAR_URL.*rclone config"):
        StorageDataset("rshar:datasets")


def test_location_of_an_unknown_kind() -> None:
    """What fsspec says about a protocol comes with the location."""
    with pytest.raises(LocationError, match="nowhere://bucket: fsspec cannot open this"):
        StorageDataset("nowhere://bucket")
    with pytest.raises(LocationError, match="give a directory, 'rshare:path'"):
        StorageDataset("")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("on_error", "ignore", "on_error is 'raise' or 'skip', not 'ignore'"),
        ("on_drift", "no", "on_drift is 'error', 'warn' or 'refresh', not 'no'"),
        ("decode", "jpg", "decode is one of .*not 'jpg'"),
        ("target", "folders", "target is None, 'folder'.*not 'folders'"),
        ("pattern", "[z-a]*", "is not a pattern"),
        ("index", "absent.json", r"absent\.json: no such lock file; dataset\.index\.save\('absent\.json'\) writes one"),
    ],
)
def test_wrong_values_of_options(tmp_path: Path, option: str, value: str, says: str) -> None:
    """Each message names the option's value and those that it may have."""
    Folder(tmp_path / "place").put(PICTURES)
    with pytest.raises(ValueError, match=says):
        StorageDataset(tmp_path / "place", **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"prepare": 5}, {"transform": 5}, {"target_transform": "x"}, {"pattern": 5}, {"pattern": ["*.jpg", None]}],
)
def test_what_is_no_function_or_pattern_is_refused_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    """By the constructor, with the name of the argument, and not by the first sample."""
    folder = Folder(tmp_path / "place")
    folder.put(PICTURES)
    ((name, value),) = options.items()
    with pytest.raises(TypeError, match=f"{name} is .*, not {re.escape(repr(value))}"):
        StorageDataset(folder.location, **options)
