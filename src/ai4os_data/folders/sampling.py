"""How much room prepared files will take follows from a few of them; what is made of these need not be made again."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.http import MemoryBody
from ai4os_data.machine import in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.folders.job import Job
    from ai4os_data.stores import Entry, Fetched

_FILES = 16
_MOST_BYTES = 32 * 1024 * 1024


class Prepared(NamedTuple):
    """What was made of a file.

    Attributes:
        wanted: the file as it was listed.
        served: the file as it came.
        data: what was made of it.
    """

    wanted: Entry
    served: Entry
    data: bytes


class Sample(NamedTuple):
    """Some files that were prepared.

    Attributes:
        prepared: what was made of each.
        failed: those that it could not be made of.
        ratio: how large files become, as a part of what they are.
    """

    prepared: list[Prepared]
    failed: list[tuple[Entry, errors.StorageError]]
    ratio: float


def sample_of(job: Job, entries: Sequence[Entry]) -> Sample:
    """Fetch and prepare some files.

    A file is chosen with a probability that its size gives, so the mean of their ratios is that of all bytes
    (https://en.wikipedia.org/wiki/Probability-proportional-to-size_sampling).

    Raises:
        PreparationError: ``prepare`` fails on each of them.
    """
    sample = Sample([], [], 1.0)
    for wanted, served, made in in_threads(partial(_prepared, job), job.store.read_many(_chosen(entries))):
        if isinstance(made, errors.StorageError):
            sample.failed.append((wanted, made))
        else:
            sample.prepared.append(Prepared(wanted, served, made))
    if not sample.prepared:
        for _, error in sample.failed:
            if isinstance(error, errors.PreparationError):
                raise error
    ratios = [len(made.data) / made.served.size_bytes for made in sample.prepared if made.served.size_bytes]
    return sample._replace(ratio=sum(ratios) / len(ratios) if ratios else 1.0)


def _prepared(
    job: Job, arrival: tuple[Entry, Fetched | errors.StorageError]
) -> tuple[Entry, Entry, bytes | errors.StorageError]:
    """A file as it was listed, as it came, and what was made of it."""
    wanted, outcome = arrival
    if isinstance(outcome, errors.StorageError):
        return wanted, wanted, outcome
    assert job.preparation is not None
    assert isinstance(outcome.body, MemoryBody)
    return wanted, outcome.entry, job.preparation.apply(outcome.body.getvalue(), what(job, wanted))


def what(job: Job, entry: Entry) -> str:
    """What errors call the preparation of a file."""
    return f"{job.store.location}: prepare(…) of {entry.key!r}"


def _chosen(entries: Sequence[Entry]) -> list[Entry]:
    """Some files, spread evenly over the bytes of all, and not too many bytes of them."""
    ends = list(accumulate(entry.size_bytes for entry in entries))
    step = ends[-1] / _FILES
    positions = dict.fromkeys(bisect_left(ends, (number + 0.5) * step) for number in _spread(_FILES))
    chosen: list[Entry] = []
    left = _MOST_BYTES
    for entry in [entries[position] for position in positions]:
        if chosen and entry.size_bytes > left:
            break
        chosen.append(entry)
        left -= entry.size_bytes
    return chosen


def _spread(count: int) -> list[int]:
    """The numbers below a power of two, so that the first few of them are far apart: 0, 8, 4, 12."""
    numbers = [0]
    while len(numbers) < count:
        half = count // (2 * len(numbers))
        numbers += [number + half for number in numbers]
    return numbers
