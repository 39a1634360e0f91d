"""The files that are read: random bytes, the same in every run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES = 110_000


def make(folder: Path, number: int, size_bytes: int = FILE_BYTES) -> list[Path]:
    """Write files, and return their paths in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(20261122)
    paths = [folder / f"{index:06d}.bin" for index in range(number)]
    for path in paths:
        path.write_bytes(source.randbytes(size_bytes))
    return paths


def shuffled(number: int, seed: int) -> list[int]:
    """The shuffled indices of an epoch."""
    order = list(range(number))
    random.Random(seed).shuffle(order)
    return order
