"""Segmentation: images and masks in parallel folders, augmented together.

    python examples/segmentation_masks.py
    python examples/segmentation_masks.py rshare:somewhere

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there.

``images/0007.png`` has its mask in ``masks/0007.png``. A small network learns the
masks.
"""

from __future__ import annotations

import io
import sys
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from storage import arguments, storage
from torch import nn

from ai4os_data import (
    DiskCache,
    Sample,
    StorageDataLoader,
    StorageDataset,
    open_filesystem,
)

if TYPE_CHECKING:
    from ai4os_data.fsspec import RootedFileSystem

SIDE = 32


def png(array: np.ndarray) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def make_discs(files: RootedFileSystem, count: int) -> None:
    """Upload bright discs in noise, and their masks."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    made = {}
    for number in range(count):
        y, x = random.integers(8, SIDE - 8, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 36
        noise = random.integers(0, 100, (SIDE, SIDE), dtype=np.uint8)
        made[f"images/{number:04}.png"] = png((noise + 120 * disc).astype(np.uint8))
        made[f"masks/{number:04}.png"] = png((255 * disc).astype(np.uint8))
    files.pipe(made)


def both(sample: Sample) -> torch.Tensor:
    """An image and its mask as one 2 x H x W tensor: a transform changes both alike."""
    mask = sample.sibling(sample.key.replace("images/", "masks/"))
    layers = [
        np.array(Image.open(each.open()).convert("L"), dtype=np.float32) / 255
        for each in (sample, mask)
    ]
    return torch.from_numpy(np.stack(layers))


def flip(layers: torch.Tensor) -> torch.Tensor:
    """Swap left and right, with a probability of one half."""
    return layers.flip(-1) if torch.rand(()) < 0.5 else layers


def main() -> int:
    """Run the example; returns the exit code."""
    given = arguments(__doc__).parse_args().location
    torch.manual_seed(0)
    with (
        tempfile.TemporaryDirectory(prefix="ai4os-data-masks-") as scratch,
        storage(given) as (location, remote),
    ):
        make_discs(open_filesystem(location, remote, cache=None, create=True), count=32)
        cache = DiskCache(f"{scratch}/cache", size_limit="64MiB")
        data = StorageDataset(
            location,
            remote=remote,
            pattern="images/*.png",
            decode=both,
            transform=flip,
            cache=cache,
        )
        loader = StorageDataLoader(data, batch_size=8, shuffle=True, seed=1)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 5, padding=2)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        for _ in range(10):
            for layers in loader:
                image, mask = layers[:, :1], layers[:, 1:]
                logits = model(image)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, mask)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        guess = logits > 0
        overlap = (guess & (mask > 0)).sum() / (guess | (mask > 0)).sum()
        print(f"overlap with the masks after 10 epochs: {overlap:.0%}")
    return 0 if overlap > 0.7 else 1


if __name__ == "__main__":
    sys.exit(main())
