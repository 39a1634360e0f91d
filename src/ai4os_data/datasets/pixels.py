"""Pixels as they are, in a ``.npy`` file, so that reading them takes no decoder.

NumPy's format has a magic number, a type and a shape, which are checked, and nothing in it is unpickled. Behind the
array, where NumPy does not look, stands the EXIF orientation, if there is one.
"""

from __future__ import annotations

import ast
import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_MAGIC = b"\x93NUMPY\x01\x00"
_EXIF = b"Exif\0\0"
_BEGIN = len(_MAGIC) + 2  # of the header, which comes after its length
_LONGEST_HEADER = 1024


class _Layout(NamedTuple):
    """Where the pixels are in a file: from ``start`` to ``stop``, by rows, columns and colours."""

    start: int
    stop: int
    shape: tuple[int, int, int]


def npy(image: Image, exif: bytes) -> bytes:
    """A file of the colours of an image.

    Args:
        image: any of Pillow's.
        exif: what stands behind the array; none if it is empty.
    """
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(image.convert("RGB")), version=(1, 0), allow_pickle=False)
    return file.getvalue() + exif


def array(data: bytes) -> Any:
    """The pixels as an array of height x width x 3 that can be written to; None if the file holds something else.

    Raises:
        ValueError: the file is not whole.
    """
    layout = _layout(data)
    return None if layout is None else _view(data, layout).copy()


def image(data: bytes) -> Image | None:
    """The pixels as an image of Pillow's; None if the file holds something else.

    Raises:
        ValueError: the file is not whole.
    """
    from PIL.Image import frombuffer

    layout = _layout(data)
    if layout is None:
        return None
    height, width, _ = layout.shape
    made = frombuffer("RGB", (width, height), _view(data, layout), "raw", "RGB", 0, 1)
    if data.startswith(_EXIF, layout.stop):
        made.info["exif"] = data[layout.stop :]
    return made


def _view(data: bytes, layout: _Layout) -> Any:
    return np.frombuffer(data, np.uint8, layout.stop - layout.start, layout.start).reshape(layout.shape)


def _layout(data: bytes) -> _Layout | None:
    if not data.startswith(_MAGIC):
        return None
    size_bytes = int.from_bytes(data[len(_MAGIC) : _BEGIN], "little")
    layout = _layout_of(data[: _BEGIN + size_bytes]) if size_bytes < _LONGEST_HEADER else None
    if layout is not None and len(data) != layout.stop and not data.startswith(_EXIF, layout.stop):
        message = f"pixels are damaged: {len(data):,} bytes, where {layout.shape} takes {layout.stop:,}"
        raise ValueError(message)
    return layout


@lru_cache(maxsize=1024)  # a dataset has few shapes
def _layout_of(header: bytes) -> _Layout | None:
    """What the header of an array says; None if that is not 8 bits of three colours."""
    try:
        says = ast.literal_eval(header[_BEGIN:].decode("latin-1").strip())
    except (SyntaxError, ValueError):
        return None
    match says:
        case {"descr": "|u1", "fortran_order": False, "shape": (int(), int(), 3) as shape}:
            return _Layout(len(header), len(header) + math.prod(shape), shape)
    return None
