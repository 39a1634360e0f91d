"""Datasets over storage: a file is read over the network once, and from the local disk while the cache holds it."""

from __future__ import annotations

from ai4os_data.datasets import seeding
from ai4os_data.datasets.dataset import StorageDataset
from ai4os_data.datasets.sample import Sample
from ai4os_data.datasets.seeding import derived_seed

__all__ = ["Sample", "StorageDataset", "derived_seed", "seeding"]
