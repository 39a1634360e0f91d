"""A ready ``prepare``: photographs become smaller, and everything else stays as it is, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ai4os_data.datasets import photographs, pixels

_VERSION = 1  # of what is made of a file: what another one has made is not taken for its work
_BEST_QUALITY = 100

Keep = Literal["file", "pixels"]


def shrink(longest_side: int, quality: int = 90, keep: Keep = "file", *, masks: bool = False) -> Shrink:
    """Make photographs smaller, for ``prepare=`` of `local_copy` and `StorageDataset`.

    JPEG, PNG, TIFF and WebP are known by their content, whatever they are called, and keep their format. A JPEG is
    decoded at a scale of 1/2, 1/4 or 1/8 if that is enough, which saves most of the work. The rest of the way goes by
    averages and a Lanczos filter, with opacity taken into account.

    The result is turned as the original is: pixels stay as they are stored, and the EXIF orientation stays beside
    them, so that labels fit as before whether a reader goes by the orientation or not. Colour profile, colour model
    (CMYK) and what the camera noted stay too, without its preview and the maker's own notes. **Labels in pixels**, such
    as the boxes of COCO and Pascal VOC, are for the originals: scale them. Those in parts of the image (YOLO) fit.

    These files stay as they are, byte for byte:

    - what is no picture, what is damaged, and what is small enough;
    - label images and masks, and whatever looks like one (see ``masks``);
    - more than 8 bits a colour, and floating point;
    - animations, TIFFs of several pages, turned TIFFs, and maps (GeoTIFF);
    - pictures beyond ``PIL.Image.MAX_IMAGE_PIXELS``, which is logged;
    - what would become a larger file.

    Args:
        longest_side: of what is made, in pixels.
        quality: of JPEG and WebP, from 1 to 100. That of a JPEG is not raised if the file became larger by it.
        keep: ``"file"``, or ``"pixels"``: photographs are kept as arrays of uint8 (``.npy``, height x width x RGB),
            which ``decode="image"`` and ``"numpy"`` read without a decoder. They take 5 to 10 times the bytes of a
            JPEG of that size, and are for `StorageDataset` only.
        masks: make label images smaller too, by the nearest pixel, to the size that their photographs get. They are
            those with a palette, one bit or 16 bits of grey, with few values (64 greys, 256 colours), or in which nine
            of ten pixels are like their neighbours. JPEGs count as photographs.

    Example:
        >>> train = StorageDataset("rshare:datasets/birds", decode="image", prepare=shrink(512))
    """
    return Shrink(longest_side, quality, keep, masks)


@dataclass(frozen=True)
class Shrink:
    """What `shrink` gives: a function from the bytes of a file to those that are kept."""

    longest_side: int
    quality: int
    keep: Keep
    masks: bool

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not _is_int(self.longest_side) or self.longest_side < 1:
            raise ValueError(f"longest_side is a number of pixels, not {self.longest_side!r}")
        if not _is_int(self.quality) or not 1 <= self.quality <= _BEST_QUALITY:
            raise ValueError(f"quality is a number from 1 to {_BEST_QUALITY}, not {self.quality!r}")
        if self.keep not in {"file", "pixels"}:
            raise ValueError(f"keep is 'file' or 'pixels', not {self.keep!r}")

    @property
    def prepare_version(self) -> str:
        """What its results are cached under: the same in every process and with every version of Pillow."""
        return f"{_VERSION} {self.longest_side} {self.quality} {self.keep} {bool(self.masks)}"

    def __call__(self, data: bytes) -> bytes:
        """A smaller file of a photograph, or its pixels; anything else as it is."""
        picture = photographs.opened(data)
        if picture is None or (picture.is_of_labels and not self.masks):
            return data
        size = photographs.fitted(picture.size, self.longest_side)
        if size == picture.size and self.keep == "file":
            return data
        image = photographs.decoded(picture, size)
        if image is None:
            return data
        labels = photographs.holds_labels(picture)
        if labels and (not self.masks or size == picture.size):
            return data
        image = photographs.resized(image, size, labels=labels)
        if self.keep == "pixels" and not labels:
            return pixels.npy(image, photographs.orientation_of(picture))
        made = photographs.encoded(image, picture, self.quality)
        return made if len(made) < len(data) else data


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
