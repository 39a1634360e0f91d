"""Images on a storage, a loader that looks ahead, and a checkpoint, in one file.

    python examples/quickstart.py
    python examples/quickstart.py rshare:somewhere

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there.

The second epoch comes from the local disk, and the third one, after a restart,
resumes from the checkpoint.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from storage import arguments, storage
from torch import nn

from ai4os_data import (
    DiskCache,
    StorageCheckpoint,
    StorageDataLoader,
    StorageDataset,
    open_filesystem,
)

if TYPE_CHECKING:
    from ai4os_data import Remote
    from ai4os_data.fsspec import RootedFileSystem


def make_images(files: RootedFileSystem, folder: str) -> None:
    """Upload two classes of small pictures: dark and bright noise."""
    random = np.random.default_rng(0)
    pictures = {}
    for number in range(64):
        name, low = ("dark", 0) if number % 2 else ("bright", 128)
        png = io.BytesIO()
        Image.fromarray(
            random.integers(low, low + 128, (32, 32, 3), dtype=np.uint8)
        ).save(png, "PNG")
        pictures[f"{folder}/{name}/{number:03}.png"] = png.getvalue()
    files.pipe(pictures)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A 3 x H x W float tensor between 0 and 1."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def train(location: str, remote: Remote | None, scratch: Path, epochs: int) -> None:
    """Train up to an epoch, from the newest checkpoint of the run."""
    images = StorageDataset(
        f"{location}/images",
        remote=remote,
        pattern="**/*.png",
        decode="image",
        target="folder",
        transform=to_tensor,
        cache=DiskCache(scratch / "cache", size_limit="64MiB"),
    )
    loader = StorageDataLoader(images, batch_size=16, shuffle=True, seed=1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    state = {"model": model, "optimizer": optimizer, "loader": loader}
    with StorageCheckpoint(
        f"{location}/run", remote=remote, spool=scratch / "spool"
    ) as run:
        restored = run.restore(into=state)  # None on a new run
        begin = restored.step + 1 if restored else 0
        for epoch in range(begin, epochs):
            before = images.stats()["bytes_from_network"]
            for inputs, labels in loader:
                loss = nn.functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            fetched = images.stats()["bytes_from_network"] - before
            run.save(state, step=epoch, metrics={"loss": loss.item()})
            print(
                f"epoch {epoch}: loss {loss.item():.4f}, "
                f"{fetched:,} bytes from the network"
            )


def main() -> int:
    """Run the example; returns the exit code."""
    given = arguments(__doc__).parse_args().location
    scratch = tempfile.TemporaryDirectory(prefix="ai4os-data-quickstart-")
    with scratch as directory, storage(given) as (location, remote):
        files = open_filesystem(location, remote, create=True)
        make_images(files, "images")
        train(location, remote, Path(directory), epochs=2)
        print("and after a restart:")
        train(location, remote, Path(directory), epochs=3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
