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
_OF_PIXELS = 0.05  # of the time to decode a file


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
            what = "doing once, in prepare=, what decode= and transform= do alike in each epoch would make an epoch"
            best = self._gain(coming, coming._replace(making_s=0), what, "up to")
        return str(best) if best is not None and best.is_worth_a_word else ""

    # --- what could be done

    def _of_cache(self, coming: Times) -> Iterator[Gain]:
        """A cache for all files."""
        if not coming.fetching_s:
            return
        after = coming._replace(fetching_s=0, disk_s=coming.disk_s + _HIT_S * self.batch_samples)
        holds = f"the cache holds {self.holding.share:.0%} of the files"
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
        """Pictures of the size that is used, or, if they are, without a decoder."""
        seen = self.seen
        if not seen.looked or not min(seen[-4:]):
            return
        seen_s = (seen.decoding_ns + seen.transforming_ns) / 1e9 / seen.looked * self.batch_samples
        decoding_s = seen.decoding_ns / 1e9 / seen.looked * self.batch_samples * min(1.0, coming.making_s / seen_s)
        width, height, given_width, given_height = (sum_px / seen.looked for sum_px in seen[-4:])
        longest = max(width, height)
        side = _SIDE_STEP * math.ceil(longest * _MARGIN * max(given_width / width, given_height / height) / _SIDE_STEP)
        if side <= _MOST_OF_SIDE * longest:
            after = coming._replace(making_s=coming.making_s - decoding_s * (1 - (side / longest) ** 2))
            yield self._gain(coming, after, f"prepare=shrink({side}) would make an epoch", "at least")
        elif not self.own_decoder and 3 * width * height <= _LARGEST_PIXELS_BYTES:
            after = coming._replace(making_s=coming.making_s - decoding_s * (1 - _OF_PIXELS))
            yield self._gain(coming, after, f"prepare=shrink({math.ceil(longest)}, keep='pixels') would make an epoch")

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
