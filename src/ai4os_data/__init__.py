"""PyTorch datasets and checkpoints on AI4OS storage: read through a bounded cache, saved until the server confirms."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai4os_data.cache import DiskCache
    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.datasets import Sample, StorageDataset, shrink
    from ai4os_data.errors import StorageError
    from ai4os_data.folders import LocalCopy, local_copy
    from ai4os_data.fsspec import open_filesystem
    from ai4os_data.loader import StorageDataLoader, StorageSampler
    from ai4os_data.locations import Remote

__all__ = [
    "DiskCache",
    "LocalCopy",
    "Remote",
    "Sample",
    "StorageCheckpoint",
    "StorageDataLoader",
    "StorageDataset",
    "StorageError",
    "StorageSampler",
    "local_copy",
    "open_filesystem",
    "shrink",
]

__version__ = "0.1.0"

# Each name loads its room on first use, so that the import costs no torch and no network.
_HOMES = {
    "DiskCache": "cache",
    "LocalCopy": "folders",
    "Remote": "locations",
    "Sample": "datasets",
    "StorageCheckpoint": "checkpoint",
    "StorageDataLoader": "loader",
    "StorageDataset": "datasets",
    "StorageError": "errors",
    "StorageSampler": "loader",
    "local_copy": "folders",
    "open_filesystem": "fsspec",
    "shrink": "datasets",
}


def __getattr__(name: str) -> object:
    """Load a public name from its room."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
