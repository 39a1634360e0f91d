"""Makes items of samples: decoded, labelled, transformed. Nothing is unpickled unless the user asked for it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ai4os_data.datasets import pixels
from ai4os_data.datasets.sample import Sample

if TYPE_CHECKING:
    from ai4os_data.datasets.targets import Targets

Decoder = Callable[[Sample], Any]


class Maker:
    """Makes ``x``, or ``(x, y)``, of a `Sample`.

    Args:
        decode: as for the dataset.
        transform: applied to ``x``.
        target_transform: applied to ``y``.

    Attributes:
        targets: the labels; None if there are none.
        gives_paths: whether a sample is the path of a local file.
        is_lazy: whether it may read a large file without having all of it in memory.
    """

    def __init__(
        self,
        decode: str | Decoder,
        transform: Callable[[Any], Any] | None,
        target_transform: Callable[[Any], Any] | None,
    ) -> None:
        self.transform = transform
        self.target_transform = target_transform
        self.targets: Targets | None = None
        self._decode = _decoder(decode)
        self._has_own_decoder = callable(decode)
        self.gives_paths = self._decode is Sample.path
        self.is_lazy = self._has_own_decoder or self.gives_paths

    @property
    def gives_bytes(self) -> bool:
        """Whether a sample is the content of its file, as it is."""
        return self._decode is Sample.bytes and self.targets is None and self.transform is None

    @property
    def sees_samples(self) -> bool:
        """Whether a function of the user gets a `Sample`, and so may ask for siblings."""
        return self._has_own_decoder or (self.targets is not None and self.targets.function is not None)

    @property
    def may_draw(self) -> bool:
        """Whether a function of the user helps to make a sample, and so may draw random numbers."""
        return self.sees_samples or self.transform is not None or self.target_transform is not None

    def decoded(self, index: int, sample: Sample) -> tuple[Any, Any]:
        """``x`` and ``y``."""
        return self._decode(sample), self.targets.label(index, sample) if self.targets is not None else None

    def transformed(self, x: Any, y: Any) -> Any:
        """The item that the user gets."""
        if self.transform is not None:
            x = self.transform(x)
        if self.targets is None:
            return x
        return x, (y if self.target_transform is None else self.target_transform(y))


def _decoder(decode: str | Decoder) -> Decoder:
    """The function for a ``decode=`` argument.

    Raises:
        ValueError: there is no decoding of that name.
    """
    if callable(decode):
        return decode
    if decode in _DECODERS:
        return _DECODERS[decode]
    if sized := _SIZED.fullmatch(str(decode)):
        return partial(as_image, at_least=int(sized[1]))
    message = (
        f"decode is one of {', '.join(map(repr, _DECODERS))}, 'image@256' with a size in pixels, or a callable of a "
        f"Sample, not {decode!r}"
    )
    raise ValueError(message)


def as_text(sample: Sample) -> str:
    """The content as UTF-8."""
    return sample.bytes().decode("utf-8")


def as_json(sample: Sample) -> Any:
    """The content parsed as JSON."""
    return json.loads(sample.bytes())


def as_image(sample: Sample, at_least: int | None = None) -> Any:
    """An RGB image of Pillow's, as torchvision's ImageFolder gives it.

    Args:
        sample: a file of an image, or the pixels that `shrink` has kept.
        at_least: decode a JPEG at the smallest of its scales (1, 1/2, 1/4, 1/8) at which no side is shorter than this.
    """
    from PIL import Image

    data = sample.bytes()
    if (kept := pixels.image(data)) is not None:
        return kept
    with Image.open(io.BytesIO(data)) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return image.convert("RGB")


def as_numpy(sample: Sample) -> Any:
    """An array from ``.npy``, or a dictionary of arrays from ``.npz``; never pickled objects."""
    import numpy as np

    data = sample.bytes()
    if (kept := pixels.array(data)) is not None:
        return kept
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded


def as_torch(sample: Sample) -> Any:
    """What ``torch.save`` wrote, loaded on the CPU with ``weights_only=True``."""
    import torch

    return torch.load(io.BytesIO(sample.bytes()), map_location="cpu", weights_only=True)


_SIZED = re.compile("image@([1-9][0-9]{0,5})")
_DECODERS: dict[str, Decoder] = {
    "bytes": Sample.bytes,
    "text": as_text,
    "json": as_json,
    "image": as_image,
    "numpy": as_numpy,
    "torch": as_torch,
    "path": Sample.path,
}
