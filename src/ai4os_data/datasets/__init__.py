"""Datasets over storage: a file is read over the network once, and from the local disk while the cache holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.datasets.choosing import matching
from ai4os_data.datasets.filling import Filling, fill
from ai4os_data.datasets.index import Index, Shelf, enumerated, kept_index, list_anew, open_index
from ai4os_data.datasets.looking import Look
from ai4os_data.datasets.patterns import Pattern
from ai4os_data.datasets.sample import Sample
from ai4os_data.machine import loaded_on_use

if TYPE_CHECKING:
    from ai4os_data.datasets import seeding
    from ai4os_data.datasets.dataset import StorageDataset
    from ai4os_data.datasets.seeding import derived_seed
    from ai4os_data.datasets.shrinking import Shrink, shrink

__all__ = [
    "Filling",
    "Index",
    "Look",
    "Pattern",
    "Sample",
    "Shelf",
    "Shrink",
    "StorageDataset",
    "derived_seed",
    "enumerated",
    "fill",
    "kept_index",
    "list_anew",
    "matching",
    "open_index",
    "seeding",
    "shrink",
]

# These need torch, or Pillow, and who copies a folder needs neither.
__getattr__ = loaded_on_use(
    __name__,
    {
        "Shrink": "shrinking",
        "StorageDataset": "dataset",
        "derived_seed": "seeding",
        "seeding": "seeding",
        "shrink": "shrinking",
    },
)
