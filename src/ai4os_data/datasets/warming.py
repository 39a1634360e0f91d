"""Warming: every sample of a dataset is brought into the cache, with its siblings, as far as there is room."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from ai4os_data import telemetry
from ai4os_data.cache import WantedFile
from ai4os_data.datasets import seeding
from ai4os_data.datasets.filling import fill
from ai4os_data.datasets.reading import each_once
from ai4os_data.datasets.sample import Sample
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data import errors
    from ai4os_data.cache import CachedStore
    from ai4os_data.datasets.reading import Reader


def warm(reader: Reader, cached: CachedStore, *, progress: bool) -> dict[str, int]:
    """Bring all files of a dataset into its cache, until it is full.

    Returns:
        How many ``files`` are in the cache now, and the ``bytes`` that came over the network for it.
    """
    from tqdm import tqdm

    counts, location = cached.counters.row, cached.store.location
    bytes_before = counts[telemetry.BYTES_FROM_NETWORK]
    _learn_from_one(reader)
    learned = counts[telemetry.BYTES_FROM_NETWORK] - bytes_before
    files = _files(reader)
    total = sum(wanted.size_bytes for wanted in files)

    def failed(wanted: WantedFile, error: errors.StorageError) -> None:
        reader.bad_samples.skip(reader.bad_samples.of_file(wanted.key, error), error)

    with tqdm(total=total, unit="B", unit_scale=True, disable=not progress, desc="warm") as bar:
        filled = fill(cached, files, bar.update, failed)
    if filled.is_full:
        tell_once(
            f"{location}: the cache is full; {filled.files:,} of {len(files):,} files are in it. The rest is read over "
            "the network"
        )
    return {"files": filled.files, "bytes": learned + filled.size_bytes}


def _files(reader: Reader) -> list[WantedFile]:
    """All files, each once."""
    siblings = map(reader.siblings.wanted, chain.from_iterable(reader.siblings.of_all()))
    return each_once(chain(map(WantedFile, reader.entries), siblings))


def _learn_from_one(reader: Reader) -> None:
    """Make one sample, if samples may ask for siblings and none has been made yet."""
    if reader.maker.sees_samples and not reader.siblings.learned():
        # An error of this sample is raised when it is read.
        with seeding.kept_states(), suppress(Exception):
            reader.maker.decoded(0, Sample(reader.origin, WantedFile(reader.entries[0])))
