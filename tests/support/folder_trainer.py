"""A stand-in for Ultralytics, which needs torchvision: it does to a directory what Ultralytics 8.3 does to it.

What was read there, and is the same here: images are globbed; their labels are found by `/labels/` for `/images/`; what
was parsed lies in `labels.cache`, which holds for a hash of all sizes and paths; a JPEG that does not end with the mark
of an end is written anew in its place; `cache="disk"` puts a `.npy` beside each image, and an image that has one is not
looked at.
"""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

_SUFFIXES = (".jpeg", ".jpg", ".png")
_END_OF_JPEG = b"\xff\xd9"


class YOLO:
    """What `ultralytics.YOLO` is to a user: made of weights, and trained on a `data.yaml`.

    Attributes:
        parsed: the paths whose labels were parsed, and did not come from `labels.cache`.
        decoded: the paths of the images that were decoded, and did not come from a `.npy`.
    """

    def __init__(self, weights: str = "yolo11n.pt") -> None:
        self.weights = weights
        self.parsed: list[str] = []
        self.decoded: list[str] = []

    def train(self, *, data: str | os.PathLike[str], epochs: int = 1, cache: str | None = None) -> dict[str, float]:
        """Read every image and its boxes, as often as there are epochs.

        Args:
            data: the `data.yaml`, beside whose folder the folders in it lie.
            epochs: how often.
            cache: "disk" for a `.npy` beside each image.

        Returns:
            The number of images and boxes, and the mean of all pixels.
        """
        described = yaml.safe_load(Path(data).read_text(encoding="utf-8"))
        images = find_images(Path(data).parent / described["train"])
        labels = self._labels(images)
        pixels = 0.0
        for _ in range(epochs):
            pixels = float(np.mean([self._image(path, cache).mean() for path in images]))
        return {"images": len(images), "boxes": sum(map(len, labels.values())), "pixels": pixels}

    def _labels(self, images: list[str]) -> dict[str, list[list[float]]]:
        paths = [label_of(path) for path in images]
        kept = Path(paths[0]).parent.with_suffix(".cache")
        now = hash_of([*paths, *images])
        if kept.exists():
            found: dict[str, Any] = np.load(kept, allow_pickle=True).item()
            if found["hash"] == now:
                labels: dict[str, list[list[float]]] = found["labels"]
                return labels
            kept.unlink()
        labels = {}
        for image, path in zip(images, paths, strict=True):
            mend(image)
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            labels[image] = [[float(number) for number in line.split()] for line in lines]
        self.parsed += paths
        with kept.open("wb") as file:
            np.save(file, np.array({"hash": hash_of([*paths, *images]), "labels": labels}), allow_pickle=True)
        return labels

    def _image(self, path: str, cache: str | None) -> np.ndarray[Any, Any]:
        kept = Path(path).with_suffix(".npy")
        if kept.exists():
            pixels: np.ndarray[Any, Any] = np.load(kept)
            return pixels
        self.decoded.append(path)
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        if cache == "disk":
            np.save(kept, pixels)
        return pixels


def find_images(directory: Path) -> list[str]:
    """The images below a directory, in order."""
    return sorted(path for path in glob.glob(f"{directory}/**/*.*", recursive=True) if path.lower().endswith(_SUFFIXES))


def label_of(image: str) -> str:
    """The file with the boxes of an image."""
    head, _, tail = image.rpartition("/images/")
    return f"{head}/labels/{os.path.splitext(tail)[0]}.txt"


def hash_of(paths: list[str]) -> str:
    """What `labels.cache` holds for: neither dates nor contents are in it."""
    size_bytes = sum(os.stat(path).st_size for path in paths)
    return hashlib.sha256(f"{size_bytes}{''.join(paths)}".encode()).hexdigest()


def mend(image: str) -> None:
    """Write a JPEG anew whose end is not at its end."""
    data = Path(image).read_bytes()
    if image.lower().endswith((".jpeg", ".jpg")) and not data.endswith(_END_OF_JPEG):
        with Image.open(image) as damaged:
            whole = damaged.convert("RGB")
        whole.save(image, "JPEG", quality=100)
