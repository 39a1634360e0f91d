"""From the bytes of a file to what a training loop wants. Nothing is unpickled that a user has not asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai4os_data.datasets.sample import Sample

Decoder = Callable[["Sample"], Any]


def decoder(decode: str | Decoder) -> Decoder:
    """The function for a ``decode=`` argument.

    Raises:
        ValueError: there is no decoding of that name.
    """
    if callable(decode):
        return decode
    if decode not in _DECODERS:
        message = f"decode is one of {', '.join(map(repr, _DECODERS))} or a callable of a Sample, not {decode!r}"
        raise ValueError(message)
    return _DECODERS[decode]


def as_bytes(sample: Sample) -> bytes:
    """The content as it is."""
    return sample.bytes()


def as_text(sample: Sample) -> str:
    """The content as UTF-8."""
    return sample.bytes().decode("utf-8")


def as_json(sample: Sample) -> Any:
    """The content parsed as JSON."""
    return json.loads(sample.bytes())


def as_image(sample: Sample) -> Any:
    """An RGB image of Pillow's, as torchvision's ImageFolder gives it."""
    from PIL import Image

    with Image.open(io.BytesIO(sample.bytes())) as image:
        return image.convert("RGB")


def as_numpy(sample: Sample) -> Any:
    """An array from ``.npy``, or a dictionary of arrays from ``.npz``; never pickled objects."""
    import numpy as np

    loaded = np.load(io.BytesIO(sample.bytes()), allow_pickle=False)
    return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded


def as_torch(sample: Sample) -> Any:
    """What ``torch.save`` wrote, loaded on the CPU with ``weights_only=True``."""
    import torch

    return torch.load(io.BytesIO(sample.bytes()), map_location="cpu", weights_only=True)


def as_path(sample: Sample) -> str:
    """The path of a local file that stays while the path object lives."""
    return sample.path()


_DECODERS: dict[str, Decoder] = {
    "bytes": as_bytes,
    "text": as_text,
    "json": as_json,
    "image": as_image,
    "numpy": as_numpy,
    "torch": as_torch,
    "path": as_path,
}
