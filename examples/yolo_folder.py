"""A YOLO data set: images and labels in parallel folders, fetched together.

    python examples/yolo_folder.py
    python examples/yolo_folder.py rshare:somewhere

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there.

``images/0007.png`` has its boxes in ``labels/0007.txt``, one a line: class, centre
x and y, width, height. All but the class are shares of the image.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from storage import arguments, storage

from ai4os_data import Sample, StorageDataLoader, StorageDataset, open_filesystem

if TYPE_CHECKING:
    from ai4os_data.fsspec import RootedFileSystem

SIDE = 64


def make_boxes(files: RootedFileSystem, count: int) -> None:
    """Upload dark images with one or two bright boxes, and their labels."""
    random = np.random.default_rng(0)
    made = {}
    for number in range(count):
        picture = np.zeros((SIDE, SIDE), dtype=np.uint8)
        lines = []
        for _ in range(1 + number % 2):
            x, y = random.integers(0, SIDE - 16, 2)
            picture[y : y + 16, x : x + 16] = 255
            lines.append(f"0 {(x + 8) / SIDE} {(y + 8) / SIDE} {16 / SIDE} {16 / SIDE}")
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        made[f"images/{number:04}.png"] = png.getvalue()
        made[f"labels/{number:04}.txt"] = "\n".join(lines).encode()
    files.pipe(made)


def boxes(sample: Sample) -> torch.Tensor:
    """The boxes of an image, as an N x 5 float tensor."""
    label = sample.sibling(
        sample.key.replace("images/", "labels/").replace(".png", ".txt")
    )
    rows = [
        [float(number) for number in line.split()]
        for line in label.bytes().decode().splitlines()
    ]
    return torch.tensor(rows)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A 3 x H x W float tensor between 0 and 1."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def collate(
    batch: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Images in one tensor; boxes in a list, since their number differs."""
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), list(labels)


def main() -> int:
    """Run the example; returns the exit code."""
    with storage(arguments(__doc__).parse_args().location) as (location, remote):
        make_boxes(open_filesystem(location, remote, cache=None, create=True), count=24)
        data = StorageDataset(
            location,
            remote=remote,
            pattern="images/*.png",
            decode="image",
            target=boxes,
            transform=to_tensor,
            cache=None,
        )
        loader = StorageDataLoader(
            data, batch_size=8, shuffle=True, collate_fn=collate, seed=1
        )
        seen, right = 0, 0
        for images, labels in loader:
            for image, rows in zip(images, labels, strict=True):
                for _, x, y, _, _ in rows.tolist():
                    seen += 1
                    right += int(image[0, int(y * SIDE), int(x * SIDE)] == 1.0)
        print(f"{len(data)} images, {seen} boxes, {right} of them on something bright")
    return 0 if seen == right else 1


if __name__ == "__main__":
    sys.exit(main())
