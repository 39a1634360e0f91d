"""The storage as an fsspec file system: pandas, pyarrow, zarr and the rest read it through the cache."""

from __future__ import annotations

from ai4os_data.fsspec.filesystem import RootedFileSystem, StorageFileSystem, open_filesystem

__all__ = ["RootedFileSystem", "StorageFileSystem", "open_filesystem"]
