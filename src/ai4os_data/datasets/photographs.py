"""Which file is a photograph, as its content says, and how a smaller one is made of it in the same format."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

# The formats are imported here, and not by the thread that first meets one: a child that is forked meanwhile could
# never import them.
from PIL import Image, ImageChops, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from ai4os_data.telemetry import tell_once

_FORMATS = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile.format,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile.format,
    b"II*\0": TiffImagePlugin.TiffImageFile.format,
    b"MM\0*": TiffImagePlugin.TiffImageFile.format,
    b"RIFF": WebPImagePlugin.WebPImageFile.format,
}
# What Pillow raises for files that are damaged, or that it does not know; and its warnings, if they are made errors.
_DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error, zlib.error),
    UserWarning,
)

_LABEL_MODES = {"1", "P", "I;16", "I"}
_FEW_GREYS = 64
_FEW_COLOURS = 256
_FLAT = 0.9  # of the pixels are like the one beside them
_REDUCING_GAP = 3.0  # for Pillow's documentation, "almost identical" to no gap

_ORIENTATION = 0x0112
_TURNED = range(2, 9)
_DETAILS, _MAKER_NOTE = 0x8769, 0x927C
_SIZES = (0x0100, 0x0101, 0xA002, 0xA003)
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
_OF_MAPS = {33550, 33922, 34264, 34735}  # where on the earth a pixel lies
_WRITABLE_TIFFS = {"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"}


class Picture(NamedTuple):
    """An image whose header has been read.

    Attributes:
        image: Pillow's. Its pixels are not decoded yet.
        format: as Pillow calls it.
        size: its width and height.
        data: the file.
    """

    image: Image.Image
    format: str
    size: tuple[int, int]
    data: bytes

    @property
    def is_of_labels(self) -> bool:
        """Whether its pixels can only be labels, or other numbers that have no average."""
        return self.image.mode in _LABEL_MODES


def opened(data: bytes) -> Picture | None:
    """The picture that a file is; None if it is none that could be made smaller, or is damaged."""
    kind = next((kind for magic, kind in _FORMATS.items() if data.startswith(magic)), None)
    if kind is None:
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=[kind])
        return Picture(image, kind, image.size, data) if _IS_SIMPLE[kind](image, data) else None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        tell_once(f"shrink: a picture stays as it is, since PIL.Image.MAX_IMAGE_PIXELS forbids to decode it: {error}")
    except _DAMAGED:
        pass
    return None


def _is_simple_jpeg(image: Image.Image, _data: bytes) -> bool:
    return image.mode in {"L", "RGB", "CMYK"}


def _is_simple_png(image: Image.Image, data: bytes) -> bool:
    if not _is_still(image):
        return False
    if image.mode in _LABEL_MODES:
        return True
    has_key_colour = "transparency" in image.info
    return image.mode in {"L", "LA", "RGB", "RGBA"} and data[24] == 8 and not has_key_colour


def _is_simple_webp(image: Image.Image, _data: bytes) -> bool:
    return _is_still(image)


def _is_simple_tiff(image: Any, _data: bytes) -> bool:
    """Pillow would turn it, and shows no more than 8 bits of a colour; where a map lies would be lost."""
    tags = image.tag_v2
    if tags.get(_ORIENTATION, 1) != 1 or _OF_MAPS & set(tags) or image.info.get("compression") not in _WRITABLE_TIFFS:
        return False
    if not _is_still(image) or set(tags.get(_SAMPLE_FORMAT, (1,))) != {1}:
        return False
    is_plain = image.mode in {"L", "RGB", "RGBA", "CMYK"} and set(tags.get(_BITS_PER_SAMPLE, ())) == {8}
    return is_plain or image.mode in _LABEL_MODES


def _is_still(image: Image.Image) -> bool:
    return getattr(image, "n_frames", 1) == 1


_IS_SIMPLE = {"JPEG": _is_simple_jpeg, "PNG": _is_simple_png, "TIFF": _is_simple_tiff, "WEBP": _is_simple_webp}


def fitted(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """A size in the same proportions, with no side longer than this."""
    longest = max(size)
    if longest <= longest_side:
        return size
    width, height = (max(1, (2 * side * longest_side + longest) // (2 * longest)) for side in size)
    return width, height


def decoded(picture: Picture, size: tuple[int, int]) -> Image.Image | None:
    """The pixels, of a JPEG at the smallest of its scales that is not below a size; None if it is damaged.

    The scales are 1, 1/2, 1/4 and 1/8; at 1/8 a block of 8 x 8 pixels is one.
    """
    try:
        picture.image.draft(None, size)
        picture.image.load()
    except _DAMAGED:
        return None
    return picture.image


def holds_labels(picture: Picture) -> bool:
    """Whether a decoded picture has the few values, or the even areas, of a mask. Drawings have them too."""
    if picture.is_of_labels:
        return True
    image = picture.image
    if picture.format == "JPEG" or (picture.format == "WEBP" and not _is_lossless(picture.data)):
        return False
    is_grey = image.mode in {"L", "LA"}
    if image.getcolors(_FEW_GREYS if is_grey else _FEW_COLOURS) is not None:
        return True
    band = image.getchannel("L" if is_grey else 1)
    width, height = image.size
    steps = ImageChops.difference(band.crop((1, 0, width, height)), band.crop((0, 0, width - 1, height)))
    return steps.histogram()[0] > _FLAT * (width - 1) * height


def resized(image: Image.Image, size: tuple[int, int], *, labels: bool) -> Image.Image:
    """The picture at a smaller size: labels by the nearest pixel, anything else by averages and Lanczos.

    Colours count by their opacity.
    """
    if labels:
        return image.resize(size, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)


def encoded(image: Image.Image, picture: Picture, quality: int) -> bytes:
    """A file in the format of a picture, with its colour profile, and with what the camera noted."""
    source = picture.image
    options: dict[str, Any] = {"icc_profile": source.info.get("icc_profile")}
    if picture.format == "TIFF":
        options["compression"] = source.info["compression"]
    else:
        options["exif"] = _exif_of(source)
    if picture.format == "WEBP" and _is_lossless(picture.data):
        options |= {"lossless": True, "exact": True}
    elif picture.format in {"JPEG", "WEBP"} or options.get("compression") == "jpeg":
        options["quality"] = quality
    made = _saved(image, picture.format, options)
    if picture.format == "JPEG" and len(made) >= len(picture.data):  # its quality was lower
        made = _saved(image, picture.format, options | {"qtables": getattr(source, "quantization", None)})
    return made


def _saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _is_lossless(webp: bytes) -> bool:
    """Whether the first picture of a WebP is kept without loss, in a plain file or in one with chunks before it."""
    position = 12
    while position < len(webp) and webp[position : position + 4] not in {b"VP8 ", b"VP8L"}:
        size_bytes = int.from_bytes(webp[position + 4 : position + 8], "little")
        position += 8 + size_bytes + size_bytes % 2
    return webp[position : position + 4] == b"VP8L"


def _exif_of(image: Image.Image) -> bytes:
    """What the camera noted, without its preview, the maker's own notes and the old size. Empty if there is nothing."""
    try:
        exif = image.getexif()
        details = exif.get_ifd(_DETAILS)
        for tag in (_MAKER_NOTE, *_SIZES):
            details.pop(tag, None)
            if tag in exif:
                del exif[tag]
        return exif.tobytes() if exif else b""
    except _DAMAGED:
        return _turned(image)


def _turned(image: Image.Image) -> bytes:
    """EXIF that says how an image is turned, and nothing else; empty if it is not turned."""
    try:
        noted = image.getexif().get(_ORIENTATION)
    except _DAMAGED:
        return b""
    exif = Image.Exif()
    exif.update((_ORIENTATION, orientation) for orientation in _TURNED if orientation == noted)
    return exif.tobytes() if exif else b""


def orientation_of(picture: Picture) -> bytes:
    """EXIF that says how a picture is turned, and nothing else; empty if it is not turned."""
    return b"" if picture.format == "TIFF" else _turned(picture.image)  # a TIFF that is turned stays as it is
