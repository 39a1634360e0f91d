"""Warming: every sample of a dataset is brought into the cache, with its siblings, as far as there is room."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data import errors, telemetry
from ai4os_data.cache import WantedFile
from ai4os_data.datasets import seeding
from ai4os_data.datasets.sample import Sample
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data.cache import CachedStore
    from ai4os_data.datasets.reading import Reader

_PASSES_UNTIL_FULL = 64


class Warmer:
    """Fills a cache with the files of a dataset.

    Args:
        reader: of its samples.
        cached: what fills the cache.
    """

    def __init__(self, reader: Reader, cached: CachedStore) -> None:
        self._reader = reader
        self._cached = cached
        self._location = cached.store.location
        self._counts = cached.counters.row

    def warm(self, *, progress: bool) -> dict[str, int]:
        """Bring the files into the cache until it is full; how many are there, and the bytes that came for it."""
        from tqdm import tqdm

        bytes_before = self._counts[telemetry.BYTES_FROM_NETWORK]
        self._learn_from_one()
        fetched, came, is_full = self._counts[telemetry.BYTES_FROM_NETWORK] - bytes_before, 0, False
        files = self._files()
        passed_before = self._counts[telemetry.PASSED_THROUGH]
        total = sum(wanted.size_bytes for wanted in files)
        with tqdm(total=total, unit="B", unit_scale=True, disable=not progress, desc="warm") as bar:
            for wanted, result in self._cached.fill(files):
                bar.update(wanted.size_bytes)
                if isinstance(result, errors.StorageError):
                    failures = self._reader.failures
                    failures.skip(failures.of_file(wanted.key, result), result)
                    continue
                came += 1
                fetched += result
                is_full = self._counts[telemetry.PASSED_THROUGH] - passed_before > _PASSES_UNTIL_FULL
                if is_full:
                    break
        # Only now: at the end of the filling, what was still on its way to the disk has found room or has not.
        kept = came - (self._counts[telemetry.PASSED_THROUGH] - passed_before)
        if is_full:
            tell_once(
                f"{self._location}: the cache is full; {kept:,} of {len(files):,} files are in it. The rest is read "
                "over the network"
            )
        return {"files": kept, "bytes": fetched}

    def _files(self) -> list[WantedFile]:
        """All files, each once."""
        reader = self._reader
        siblings = (reader.siblings.wanted(entry) for entries in reader.siblings.of_all() for entry in entries)
        own = map(WantedFile, reader.entries)
        return list({wanted.form: wanted for files in (own, siblings) for wanted in files}.values())

    def _learn_from_one(self) -> None:
        """Make a sample, if it may be that it asks for siblings and none has been made yet."""
        reader = self._reader
        if reader.maker.sees_samples and not reader.siblings.learned():
            # Whatever is wrong with it is met when it is read.
            with seeding.kept_states(), suppress(Exception):
                reader.maker.decoded(0, Sample(reader.origin, WantedFile(reader.entries[0])))
