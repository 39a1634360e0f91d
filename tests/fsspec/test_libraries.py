"""pandas, pyarrow, zarr and h5py over the file system: what they write is what they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

zarr = pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")

if TYPE_CHECKING:
    from ai4os_data.fsspec.filesystem import RootedFileSystem
    from tests.support.shares import Share


def test_pandas_reads_what_it_wrote(rshare: str) -> None:
    """A table is written as CSV and Parquet by URL, and read back."""
    frame = pd.DataFrame({"name": ["a", "ö"], "value": [1.5, 2.5]})
    frame.to_csv(f"{rshare}/t/frame.csv.gz", index=False)
    frame.to_parquet(f"{rshare}/t/frame.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(f"{rshare}/t/frame.csv.gz"), frame)
    pd.testing.assert_frame_equal(pd.read_parquet(f"{rshare}/t/frame.parquet"), frame)


def test_pandas_that_fails_half_way_sends_nothing(folder: Share, rshare: str) -> None:
    """An error while a frame is written leaves no half of it."""

    class Bad:
        def __str__(self) -> str:
            raise KeyError

    try:
        pd.DataFrame({"a": ["x" * 100_000, Bad()]}).to_csv(f"{rshare}/half.csv")
    except KeyError:
        assert folder.requests("PUT") == []
    else:
        raise AssertionError


def test_pyarrow_reads_a_partitioned_dataset(files: RootedFileSystem) -> None:
    """A dataset of several files in folders is read."""
    table = pa.table({"part": ["a", "b", "a"], "value": [1, 2, 3]})
    pyarrow.parquet.write_to_dataset(table, "table", partition_cols=["part"], filesystem=files)
    found = pyarrow.dataset.dataset("table", filesystem=files, partitioning="hive").to_table()
    assert sorted(zip(*found.to_pydict().values(), strict=True)) == [(1, "a"), (2, "b"), (3, "a")]


def test_zarr_reads_what_it_wrote(rshare: str) -> None:
    """An array is written in chunks by URL, and read back."""
    values = np.arange(64, dtype="int32").reshape(8, 8)
    array = zarr.create_array(f"{rshare}/array.zarr", shape=(8, 8), chunks=(4, 4), dtype="int32")
    array[:] = values
    found = zarr.open_array(f"{rshare}/array.zarr", mode="r")
    np.testing.assert_array_equal(found[:], values)
    np.testing.assert_array_equal(found[2:6, 3], values[2:6, 3])


def test_h5py_reads_and_writes(files: RootedFileSystem) -> None:
    """HDF5 goes back while it writes, which no mount can."""
    values = np.arange(100_000.0)
    with files.open("array.h5", "wb") as file, h5py.File(file, "w") as hdf:
        hdf["values"] = values
    with files.open("array.h5") as file, h5py.File(file) as hdf:
        np.testing.assert_array_equal(hdf["values"][500:600], values[500:600])
