"""Tables and arrays on a storage: pandas, pyarrow and zarr over the file system, whole or absent.

    python examples/pandas_zarr.py                     # on a WebDAV server that it starts itself
    python examples/pandas_zarr.py rshare:somewhere    # on your own storage; what it writes is removed again

With a remote that is configured, the libraries take URLs: ``pd.read_parquet("ai4os://rshare/table.parquet")``. It needs
``pip install pandas pyarrow zarr``.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from storage import arguments, storage

from ai4os_data import open_filesystem


def main() -> int:
    """Do it; the answer is the exit code."""
    with storage(arguments(__doc__).parse_args().location) as (place, remote):
        files = open_filesystem(place, remote, cache=None, create=True)

        table = pd.DataFrame({"station": ["a", "b", "c"], "celsius": [14.5, 13.25, 15.0]})
        with files.open("tables/stations.parquet", "wb") as file:
            table.to_parquet(file)
        with files.open("tables/stations.parquet") as file:
            found = pd.read_parquet(file, columns=["celsius"])
        print(f"a table came back; its mean is {found['celsius'].mean():.2f}")

        values = np.arange(256, dtype="float32").reshape(16, 16)
        store = zarr.storage.FsspecStore(AsyncFileSystemWrapper(files, asynchronous=True), path="grid.zarr")
        grid = zarr.create_array(store, shape=values.shape, chunks=(8, 8), dtype="float32")
        grid[:] = values
        corner = zarr.open_array(store, mode="r")[:2, :2]
        print(f"a corner of the array: {corner.tolist()}")

        try:
            with files.open("tables/half.csv", "w") as file:
                file.write("station,celsius\n")
                raise RuntimeError("the deployment has no more memory")
        except RuntimeError as error:
            print(f"{error}: is half a table there? {files.exists('tables/half.csv')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
