"""The loader: it knows which samples come next, fetches them ahead, and resumes at any position of an epoch."""

from __future__ import annotations

from ai4os_data.loader.loader import StorageDataLoader
from ai4os_data.loader.sampler import StorageSampler

__all__ = ["StorageDataLoader", "StorageSampler"]
