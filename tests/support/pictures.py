"""Pictures of every kind, made with Pillow: photographs that look like some, and what must not be taken for one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def photograph(width: int = 400, height: int = 300, mode: str = "RGB", seed: int = 1) -> Image.Image:
    """An image with broad colours and the noise of a camera."""
    random = np.random.default_rng(seed)
    coarse = random.normal(128, 50, (height // 64 + 2, width // 64 + 2, 3)).clip(0, 255).astype(np.uint8)
    broad = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(broad) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def labels(width: int = 400, height: int = 300, values: int = 5, side: int = 37) -> Image.Image:
    """A label image: squares of one value each."""
    rows, columns = np.mgrid[:height, :width] // side
    return Image.fromarray(((rows * (width // side) + columns) % values).astype(np.uint8))


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    """An image, with its pixels."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """How far two images are from each other, on average of all pixels and colours."""
    assert (one.mode, one.size) == (other.mode, other.size)
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def exif(orientation: int | None = None, *, notes: bool = False) -> Image.Exif:
    """What a camera notes: how it was held, and all the rest."""
    made = Image.Exif()
    if orientation is not None:
        made[0x0112] = orientation
    if notes:
        made[0x0110] = "Model 7"
        made[0x0100] = 4000
        made[0x8769] = {0x9003: "2026:05:01 12:00:00", 0x927C: b"maker" * 2000, 0xA002: 4000}
        made[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    return made
