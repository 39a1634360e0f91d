"""Files to cache whose bytes follow from their keys, so that every process can check them."""

from __future__ import annotations

import math
import os
import random
import sys
from hashlib import blake2b

from ai4os_data.stores.memory import MemoryStore


def content(key: str, size_bytes: int) -> bytes:
    """Return the bytes of a key: no two keys share a block."""
    piece = blake2b(key.encode()).digest()
    return (piece * (size_bytes // len(piece) + 1))[:size_bytes]


def source(sizes: list[int], name: str = "source") -> MemoryStore:
    """Return a store of files of these sizes. It is the same store to every cache that sees it by this name."""
    store = MemoryStore()
    store.identity = f"memory {name}"
    store.is_local = False  # what is fetched goes to the disk as it does from a server
    for number, size_bytes in enumerate(sizes):
        key = f"{name}/{number:05d}.bin"
        store.files[key] = content(key, size_bytes)
    return store


def spread(count: int, smallest: int, largest: int, seed: int) -> list[int]:
    """Return sizes whose logarithms are spread evenly."""
    chance = random.Random(seed)
    return [int(math.exp(chance.uniform(math.log(smallest), math.log(largest)))) for _ in range(count)]


def new_seed() -> int:
    """Return a seed that no run had before, and print it for the one that fails."""
    seed = int.from_bytes(os.urandom(4), "little")
    tell(f"seed {seed}")
    return seed


told: list[tuple[str, str]] = []
"""What tests have told of themselves, each with its name: it ends in the summary of the run."""


def tell(line: str) -> None:
    """Print a figure, shown where a test fails, and in the summary of every run."""
    sys.stdout.write(f"{line}\n")
    told.append((os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0], line))
