"""A ready ``prepare``: photographs become smaller, and everything else stays as it is, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ai4os_data.datasets import photographs

_VERSION = 1  # of what is made of a file; another one has entries of its own in a cache

Keep = Literal["file", "pixels"]


def shrink(longest_side: int, quality: int = 90) -> Shrink:
    """Make photographs smaller, for ``prepare=`` of `local_copy` and `StorageDataset`.

    JPEG, PNG, TIFF and WebP are known by their content, whatever their names are, and keep their format.

    Args:
        longest_side: of what is made, in pixels. What is not longer stays as it is.
        quality: of JPEG and WebP, from 1 to 100.

    Example:
        >>> train = StorageDataset("rshare:datasets/birds", decode="image", prepare=shrink(512))
    """
    return Shrink(longest_side, quality)


@dataclass(frozen=True)
class Shrink:
    """What `shrink` gives: a function of the bytes of a file."""

    longest_side: int
    quality: int

    def __call__(self, data: bytes) -> bytes:
        """A smaller file of a photograph; anything else as it is."""
        picture = photographs.opened(data)
        if picture is None or max(picture.size) <= self.longest_side or picture.is_of_labels:
            return data
        size = photographs.fitted(picture.size, self.longest_side)
        image = photographs.decoded(picture, size)
        if image is None or photographs.holds_labels(picture):
            return data
        made = photographs.encoded(photographs.resized(image, size, labels=False), picture, self.quality)
        return made if len(made) < len(data) else data
