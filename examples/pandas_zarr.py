"""Tables and arrays on a storage: pandas, pyarrow and zarr over the file system.

    python examples/pandas_zarr.py
    python examples/pandas_zarr.py rshare:somewhere

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there.

With a remote that is configured, the libraries take URLs, such as
``pd.read_parquet("ai4os://rshare/table.parquet")``. It needs ``pip install pandas
pyarrow zarr``.
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
    """Run the example; returns the exit code."""
    with storage(arguments(__doc__).parse_args().location) as (location, remote):
        files = open_filesystem(location, remote, cache=None, create=True)

        table = pd.DataFrame(
            {"station": ["a", "b", "c"], "celsius": [14.5, 13.25, 15.0]}
        )
        with files.open("tables/stations.parquet", "wb") as file:
            table.to_parquet(file)
        with files.open("tables/stations.parquet") as file:
            found = pd.read_parquet(file, columns=["celsius"])
        print(f"a table came back; its mean is {found['celsius'].mean():.2f}")

        values = np.arange(256, dtype="float32").reshape(16, 16)
        store = zarr.storage.FsspecStore(
            AsyncFileSystemWrapper(files, asynchronous=True), path="grid.zarr"
        )
        grid = zarr.create_array(
            store, shape=values.shape, chunks=(8, 8), dtype="float32"
        )
        grid[:] = values
        corner = zarr.open_array(store, mode="r")[:2, :2]
        print(f"a corner of the array: {corner.tolist()}")

        try:
            with files.open("tables/half.csv", "w") as file:
                file.write("station,celsius\n")
                raise RuntimeError("the deployment has no more memory")
        except RuntimeError as error:
            exists = files.exists("tables/half.csv")
            print(f"{error}: is half a table there? {exists}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
