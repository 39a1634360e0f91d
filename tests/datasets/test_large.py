"""A large file is read as far as it is needed, by libraries that want a file; and it is of one version."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ai4os_data import DiskCache, Sample, StorageDataset
from ai4os_data.errors import ChangedError, NotFoundError, SampleError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share

MiB = 2**20
LARGE_BYTES = 20 * MiB


def opened(share: Share, cache: Any, **options: Any) -> StorageDataset:
    """Return a dataset that reads its files through ``open()``."""

    def decode(sample: Sample) -> bytes:
        with sample.open() as file:
            return file.read(10) + file.read()[-10:]

    return StorageDataset(share.location, remote=share.remote, **{"cache": cache, "decode": decode, **options})


@pytest.mark.parametrize("cached", [False, True])
def test_h5py_reads_a_part_over_the_network(share: Share, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    """A slice of a large file costs a small part of its bytes; what is in the cache already costs none."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(share.root / "a.h5", "w") as file:
        file["x"] = np.arange(5_000_000, dtype="f8")
        file["y"] = np.arange(10)

    def decode(sample: Sample) -> list[float]:
        with sample.open() as file, h5py.File(file, "r") as arrays:
            return [*arrays["x"][4_000_000:4_000_003], arrays["y"][:].sum()]

    cache = DiskCache(tmp_path, "128MiB") if cached else None
    dataset = opened(share, cache, decode=decode)
    assert dataset[0] == [4_000_000, 4_000_001, 4_000_002, 45]
    assert dataset.stats()["bytes_from_network"] < 4 * MiB
    if cached:
        dataset.warm(progress=False)
        share.server.forget()
        assert dataset[0] == [4_000_000, 4_000_001, 4_000_002, 45]
        assert share.requests() == []


def test_torch_load_reads_over_the_network(share: Share) -> None:
    """Weights of more than 16 MiB are read in ranges, without a local copy."""
    torch.save({"w": torch.arange(6_000_000.0), "b": torch.ones(3)}, share.root / "b.pt")

    def decode(sample: Sample) -> Any:
        with sample.open() as file:
            return torch.load(file, weights_only=True)

    loaded = opened(share, None, decode=decode)[0]
    assert torch.equal(loaded["w"], torch.arange(6_000_000.0))
    assert loaded["b"].sum() == 3


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("on_drift", ["refresh", "warn", "error"])
def test_another_version_of_a_large_file_is_as_one_of_a_small_file(
    share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture, on_drift: str, *, cached: bool
) -> None:
    """By ``open()`` as by ``bytes()``: an error that says what to do, or the new version, with a word or without."""
    share.put({"m.bin": os.urandom(LARGE_BYTES)})
    dataset = opened(share, DiskCache(tmp_path, "128MiB") if cached else None, on_drift=on_drift)
    new = os.urandom(LARGE_BYTES + 5)
    share.put({"m.bin": new})
    for _ in range(2):
        if on_drift == "error":
            with pytest.raises(SampleError, match=r"not the version that was listed.*choose on_drift='warn'") as caught:
                dataset[0]
            assert isinstance(caught.value.__cause__, ChangedError)
        else:
            assert dataset[0] == new[:10] + new[-10:]
    assert [record.levelname for record in caplog.records] == (["WARNING"] if on_drift == "warn" else [])


def test_a_large_file_that_changes_while_it_is_read_is_an_error(share: Share) -> None:
    """What has been read is of one version, and so has to be the rest."""
    share.put({"m.bin": os.urandom(LARGE_BYTES)})

    def decode(sample: Sample) -> bytes:
        with sample.open() as file:
            file.read(10)
            time.sleep(0.01)
            share.put({"m.bin": os.urandom(LARGE_BYTES + 5)})
            return file.read()

    with pytest.raises(SampleError) as caught:
        opened(share, None, decode=decode, on_drift="refresh")[0]
    assert isinstance(caught.value.__cause__, ChangedError)


def test_a_large_file_that_is_gone_is_not_found(share: Share) -> None:
    """Opening a large file that is gone raises NotFoundError."""
    share.put({"m.bin": os.urandom(LARGE_BYTES)})
    dataset = opened(share, None)
    share.remove("m.bin")
    with pytest.raises(SampleError) as caught:
        dataset[0]
    assert isinstance(caught.value.__cause__, NotFoundError)
