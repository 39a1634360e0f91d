"""A look at how one sample of a batch is made: how long it takes to decode and to transform it, and how large it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ai4os_data.telemetry import reading

if TYPE_CHECKING:
    from ai4os_data.datasets.decoding import Maker
    from ai4os_data.datasets.sample import Sample

_MOST_CHANNELS = 4


class Look:
    """What was seen of the samples that were looked at: sums over them.

    Attributes:
        samples: how many there were.
        decoding_ns: how long it took to decode and to label them, without what was read for it.
        transforming_ns: how long it took to transform them, without what was read for it.
        decoded: width and height of the decoded pictures.
        given: width and height of what users are given.
    """

    __slots__ = ("decoded", "decoding_ns", "given", "samples", "transforming_ns")

    def __init__(self) -> None:
        self.samples = 0
        self.decoding_ns = self.transforming_ns = 0
        self.decoded = self.given = (0, 0)


class Watched:
    """A `Maker` for one sample, with a look at it.

    Args:
        maker: makes it.
        look: where it is recorded.
    """

    def __init__(self, maker: Maker, look: Look) -> None:
        self._maker = maker
        self._look = look

    def decoded(self, index: int, sample: Sample) -> tuple[Any, Any]:
        """As the maker does it."""
        begun_ns = time.perf_counter_ns() - reading.total_ns
        x, y = self._maker.decoded(index, sample)
        self._look.decoding_ns += time.perf_counter_ns() - reading.total_ns - begun_ns
        self._look.decoded = _plus(self._look.decoded, extent(x))
        return x, y

    def transformed(self, x: Any, y: Any) -> Any:
        """As the maker does it."""
        begun_ns = time.perf_counter_ns() - reading.total_ns
        item = self._maker.transformed(x, y)
        look = self._look
        look.transforming_ns += time.perf_counter_ns() - reading.total_ns - begun_ns
        look.given = _plus(look.given, extent(item if self._maker.targets is None else item[0]))
        look.samples += 1
        return item


def extent(picture: Any) -> tuple[int, int]:
    """Width and height of a picture of Pillow's, or of an array of one, channels first or last; zeros of all else."""
    size = getattr(picture, "size", None)
    if isinstance(size, tuple) and len(size) == 2:
        return size
    shape: tuple[int, ...] = getattr(picture, "shape", ())
    if len(shape) != 3:
        return 0, 0
    height, width = shape[1:] if shape[0] <= _MOST_CHANNELS else shape[:2]
    return width, height


def _plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
