"""A training that only knows a directory, on a storage: one line is changed.

    python examples/path_training.py
    python examples/path_training.py rshare:somewhere
    python examples/path_training.py rshare:somewhere --before

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there. The third one runs the line as it was
before: it needs rclone, and a remote that rclone knows.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from storage import arguments, join, storage
from torch import nn

from ai4os_data import local_copy, open_filesystem

if TYPE_CHECKING:
    from ai4os_data.fsspec import RootedFileSystem

SIDE = 16
CLASSES = ["dark", "light"]


def train(directory: str) -> None:
    """Train on class folders; what it takes is a path, and nothing is changed here."""
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for file in sorted(os.listdir(f"{directory}/{name}")):
            with Image.open(f"{directory}/{name}/{file}") as image:
                images.append(np.array(image, dtype=np.float32).ravel() / 255 - 0.5)
            labels.append(label)
    inputs, targets = torch.from_numpy(np.stack(images)), torch.tensor(labels)

    torch.manual_seed(0)
    model = nn.Linear(SIDE * SIDE, len(CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (model(inputs).argmax(1) == targets).float().mean()
    print(f"trained on {len(images)} images, of which {right:.0%} are recognised")


def make_images(files: RootedFileSystem, numbers: range) -> None:
    """Upload images in a folder for each class."""
    random = np.random.default_rng(numbers.start)
    made = {}
    for number in numbers:
        label = number % len(CLASSES)
        pixels = random.integers(128 * label, 128 * label + 128, (SIDE, SIDE))
        png = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(png, "PNG")
        made[f"flowers/{CLASSES[label]}/{number:04}.png"] = png.getvalue()
    files.pipe(made)


def main() -> int:
    """Run the example; returns the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--before", action="store_true", help="copy with rclone")
    options = parser.parse_args()
    if options.before and options.location is None:
        parser.error("--before needs a location whose remote rclone knows")
    with (
        storage(options.location) as (location, remote),
        tempfile.TemporaryDirectory(prefix="ai4os-data-path-") as scratch,
    ):
        files = open_filesystem(location, remote, cache=None, create=True)
        flowers, data = join(location, "flowers"), f"{scratch}/flowers"

        for numbers in range(200), range(200, 210):
            make_images(files, numbers)
            if options.before:
                command = ["rclone", "copy", flowers, data]
                subprocess.run(command, timeout=600, check=False)
            else:
                copy = local_copy(flowers, data, remote=remote)  # the changed line
                print(f"{copy.stats()['fetched']:.0f} files came")
            train(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
