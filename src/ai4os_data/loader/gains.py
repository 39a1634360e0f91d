"""The one thing that would make the coming epochs faster, and how much faster: an estimate from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.loader.bound import Times
    from ai4os_data.loader.holding import Holding
    from ai4os_data.loader.spent import Spent

_LEAST = 1.1  # a smaller gain is not worth a word
_MOST = 10  # an estimate knows no more
_HIT_S = 20e-6  # of a file of 100 KB
_MARGIN = 8 / 7  # of pictures over what is cut out of them: 256 pixels for 224
_SIDE_STEP = 32
_MOST_OF_SIDE = 0.75
_LARGEST_PIXELS_BYTES = 2**20
# Of the time to decode a picture:
_OF_PIXELS = 0.05  # to take its pixels from a file of them
_OF_CUTTING = 0.05  # to cut a part out of it
_OF_RESIZING = 0.25  # to make it smaller, at least


class Gain(NamedTuple):
    """Something that would make an epoch faster.

    Attributes:
        factor: how many times as fast.
        what: the beginning of a sentence.
        certainty: what stands before the factor.
    """

    factor: float
    what: str
    certainty: str = "about"

    @property
    def is_worth_a_word(self) -> bool:
        """Whether an epoch would be noticeably faster."""
        return self.factor >= _LEAST

    def __str__(self) -> str:
        """The sentence."""
        factor = f"{self.certainty} {self.factor:.1f}" if self.factor <= _MOST else f"more than {_MOST}"
        return f"{self.what} {factor} times as fast"


class Pictures(NamedTuple):
    """The pictures of a batch, as far as they were looked at: their mean size, and what they take in all.

    Attributes:
        width: in pixels, decoded.
        height: the same.
        given_width: in pixels, after the transform.
        given_height: the same.
        decoding_s: how long it takes to decode them, in seconds.
        transforming_s: the same of the transform.
    """

    width: float
    height: float
    given_width: float
    given_height: float
    decoding_s: float
    transforming_s: float

    @classmethod
    def of(cls, seen: Spent, number: float, making_s: float) -> Pictures | None:
        """The pictures of a batch of this size, which takes so long to make; None if nothing was seen of any."""
        *_, looked, decoding_ns, transforming_ns, width, height, given_width, given_height = seen
        if not min(looked, width, height, given_width, given_height):
            return None
        seen_s = (decoding_ns + transforming_ns) / 1e9
        share = min(number / looked, making_s / seen_s) / 1e9
        return cls(
            width / looked,
            height / looked,
            given_width / looked,
            given_height / looked,
            share * decoding_ns,
            share * transforming_ns,
        )

    @property
    def enough(self) -> int:
        """A longest side that leaves them as large as they are given, with a margin."""
        scale = max(self.given_width / self.width, self.given_height / self.height)
        return _SIDE_STEP * math.ceil(_MARGIN * scale * max(self.width, self.height) / _SIDE_STEP)

    @property
    def are_cut(self) -> bool:
        """Whether the transform takes so little time that it cuts a part out of them, as it is."""
        return self.transforming_s < _OF_CUTTING * self.decoding_s

    @property
    def of_size_s(self) -> float:
        """What grows with their size: to decode them, and to make them smaller."""
        return self.decoding_s + min(self.transforming_s, _OF_RESIZING * self.decoding_s)


@dataclass(frozen=True)
class Epoch:
    """An epoch as it went.

    Attributes:
        times: of its batches.
        seen: what was seen of their samples.
        batch_samples: how many samples a batch has.
        workers: how many processes make batches; 0 if the caller does.
        cores: how many processors these may use.
        cpu_s: what the caller's process computes for a batch, in seconds, without the look-ahead.
        missed: the share of its files that were not in the cache.
        holding: what the caches hold now.
        gives_bytes: whether samples are the content of files.
        own_decoder: whether ``decode=`` is a function of the user's own.
        is_cached: whether all of it goes through caches, also what lies on a local disk.
    """

    times: Times
    seen: Spent
    batch_samples: float
    workers: int
    cores: int
    cpu_s: float
    missed: float
    holding: Holding
    gives_bytes: bool
    own_decoder: bool
    is_cached: bool

    def advice(self) -> str:
        """What to do, and the gain to expect; empty if there is nothing worth a word."""
        by = self.times.bound(self.workers).by
        if by == "loop" and self.workers:
            return ""
        coming = self._coming()
        if by == "storage" and self.holding.is_whole and self.times.fetching_s:
            gain = Gain(self._step_s(self.times) / self._step_s(coming), "the next epoch reads from the disk:")
            if gain.is_worth_a_word:
                return str(gain)
        gains = [*self._of_cache(coming), *self._of_workers(coming), *self._of_pictures(coming), *self._of_tensors()]
        best = max(gains, key=lambda gain: gain.factor, default=None)
        if (best is None or not best.is_worth_a_word) and by == "decode" and not self.gives_bytes:
            what = f"{self._prepare}, for what decode= and transform= do alike in each epoch, would make an epoch"
            best = self._gain(coming, coming._replace(making_s=0), what, "up to")
        return str(best) if best is not None and best.is_worth_a_word else ""

    # --- what could be done

    def _of_cache(self, coming: Times) -> Iterator[Gain]:
        """A cache for all files."""
        if not coming.fetching_s:
            return
        after = coming._replace(fetching_s=0, disk_s=coming.disk_s + _HIT_S * self.batch_samples)
        holds = f"the cache holds {100 * self.holding.share:.0f} % of the files"
        if not self.holding.has_caches:
            yield self._gain(coming, after, "a cache for these files would make later epochs")
        elif self.holding.wanted_limit is not None:
            yield self._gain(coming, after, f"{holds}: size_limit={self.holding.wanted_limit!r} would make an epoch")
        else:
            what = f"{holds}, and its disk has no room for more: a prepare= that makes them smaller would make an epoch"
            yield self._gain(coming, after, what, "up to")

    def _of_workers(self, coming: Times) -> Iterator[Gain]:
        """As many workers as the loop needs, or as there are processors."""
        wanted = self.cores
        if coming.loop_s * self.cores > coming.work_s:
            wanted = max(1, math.ceil(coming.work_s / coming.loop_s))
        if wanted > self.workers:
            # The network is no faster for more of them.
            after = coming._replace(fetching_s=coming.fetching_s * wanted / max(1, self.workers))
            what = f"num_workers={wanted} instead of {self.workers} would make an epoch"
            yield Gain(self._step_s(coming) / self._step_s(after, wanted), what)

    def _of_pictures(self, coming: Times) -> Iterator[Gain]:
        """Pictures of the size that is used, or, if they have it, without a decoder."""
        pictures = Pictures.of(self.seen, self.batch_samples, coming.making_s)
        if pictures is None:
            return
        longest, side = max(pictures.width, pictures.height), pictures.enough
        if side <= _MOST_OF_SIDE * longest:
            if not pictures.are_cut:
                after = coming._replace(making_s=coming.making_s - pictures.of_size_s * (1 - (side / longest) ** 2))
                yield self._gain(coming, after, f"{self._prepare}shrink({side}) would make an epoch", "at least")
        elif not self.own_decoder and 3 * pictures.width * pictures.height <= _LARGEST_PIXELS_BYTES:
            after = coming._replace(making_s=coming.making_s - pictures.decoding_s * (1 - _OF_PIXELS))
            what = f"{self._prepare}shrink({math.ceil(longest)}, keep='pixels') would make an epoch"
            yield self._gain(coming, after, what)

    @property
    def _prepare(self) -> str:
        """The argument, with a cache for what it makes."""
        return "prepare=" if self.is_cached else "cache= and prepare="

    def _of_tensors(self) -> Iterator[Gain]:
        """Samples that need not go through a pipe."""
        if self.gives_bytes and self.workers:
            step_s = self._step_s(self.times)
            what = "a transform= that gives tensors, which workers share with the loop, would make an epoch"
            yield Gain(step_s / (step_s - self.times.moving_s + _HIT_S), what, "up to")

    def _gain(self, before: Times, after: Times, what: str, certainty: str = "about") -> Gain:
        return Gain(self._step_s(before) / self._step_s(after), what, certainty)

    # --- what a batch takes

    def _coming(self) -> Times:
        """What batches of the next epoch take, with the cache as it is now."""
        times = self.times
        absent = 1 - self.holding.share if not self.holding.is_whole else 0.0
        left = min(1.0, absent / self.missed) if self.missed > 0 else 1.0
        hits = self.batch_samples * self.missed * (1 - left)
        return times._replace(disk_s=times.disk_s + _HIT_S * hits, fetching_s=times.fetching_s * left)

    def _step_s(self, times: Times, workers: int | None = None) -> float:
        """What a batch takes, by what it would take if nothing but these times counted, and the processors.

        Without workers they add up; with workers the longest counts. How much longer a worker took in this epoch,
        because the caller gets batches in their order, stays, and so does the way to the caller.
        """
        workers = self.workers if workers is None else workers
        if not workers:
            return times.loop_s + times.work_s
        making_s = self._stretch * times.work_s / workers
        return max(times.loop_s, making_s, self._computing_s(times) / self.cores) + times.moving_s

    @property
    def _stretch(self) -> float:
        """How much longer batches of workers took than if each worker were always busy."""
        times = self.times
        if not self.workers or not times.work_s:
            return 1.0
        return max(1.0, (times.loop_s + times.waiting_s - times.moving_s) * self.workers / times.work_s)

    def _computing_s(self, times: Times) -> float:
        """What all processes compute for a batch."""
        if self.workers:  # what theirs do is not known to be waiting
            return self.cpu_s + times.disk_s + times.making_s
        own_s = self.times.disk_s + self.times.making_s
        share = min(1.0, self.cpu_s / own_s) if own_s else 1.0
        return self.cpu_s + share * (times.disk_s + times.making_s - own_s)
