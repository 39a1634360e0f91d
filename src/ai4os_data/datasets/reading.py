"""The reader of a dataset makes samples, for workers too: hits at once, all misses of a batch together."""

from __future__ import annotations

import operator
import time
from typing import TYPE_CHECKING, Any

from ai4os_data import errors, telemetry
from ai4os_data.cache import IN_MEMORY_BYTES, MOST_KNOWN, CachedStore, WantedFile, live_in
from ai4os_data.datasets import seeding
from ai4os_data.datasets.looking import Look, Watched
from ai4os_data.datasets.sample import Origin, Sample
from ai4os_data.telemetry import reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ai4os_data.cache import Files, Held
    from ai4os_data.datasets.bad_samples import BadSamples
    from ai4os_data.datasets.decoding import Maker
    from ai4os_data.datasets.index import Index
    from ai4os_data.datasets.siblings import SiblingFiles
    from ai4os_data.datasets.targets import Targets
    from ai4os_data.stores import ChosenEntries, Entry

    _Contents = dict[int, bytes | errors.StorageError]
    _Fetched = Mapping[tuple[str, bool], bytes | errors.StorageError]


class Reader:
    """Reads the samples of one dataset by their indices, for the dataset itself and for a loader.

    Attributes:
        files: the store that files are read through, with a cache or without.
        cached: the same, if there is a cache.
        entries: the file of each sample.
        maker: makes the items.
        siblings: the files that go with samples.
        bad_samples: raises errors for bad samples, or skips them.
        origin: gives samples their bytes.
    """

    entries: ChosenEntries

    def __init__(self, files: Files, maker: Maker, siblings: SiblingFiles, bad_samples: BadSamples) -> None:
        self.files = files
        self.cached = files if isinstance(files, CachedStore) else None
        self.maker = maker
        self.siblings = siblings
        self.bad_samples = bad_samples
        self.origin = Origin(files, siblings)
        self._slots: dict[int, Held] = {}  # by index, of the files that were read last
        self._keep_siblings()

    def begin(self, index: Index, entries: ChosenEntries, targets: Targets | None) -> None:
        """Read these files of a listing from now on."""
        self.entries = entries
        self.maker.targets = targets
        self._slots = {}
        self.siblings.begin(index.entries, entries.keys)
        self.files.versions.begin(f"{index.checked_s!r}", index.newer)
        if self.cached is not None:
            self.cached.keep_together(entries)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what each process finds out by itself."""
        return {**self.__dict__, "_slots": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Tell the cache of this process which entries stay together."""
        self.__dict__.update(state)
        self._keep_siblings()

    def _keep_siblings(self) -> None:
        """Under the policy ``"auto"``, siblings do not evict each other either, as long as this object lives."""
        if self.cached is not None:
            live_in(self.cached.cache.directory).keep_together(self._sibling_names)

    def _sibling_names(self) -> Iterator[str]:
        for entries in self.siblings.of_all():
            for entry in entries:
                yield self.files.name(self.siblings.wanted(entry))

    def checked(self, index: Any) -> int:
        """An index as its position from 0 on.

        Raises:
            IndexError: there is no such sample.
        """
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a sample is asked for by its number, not by {type(index).__name__} {index!r}; for several use "
                "torch.utils.data.Subset(dataset, indices), for keys StorageDataset.from_keys(location, keys)"
            ) from None
        count = len(self.entries)
        if number < 0:
            number += count
        if not 0 <= number < count:
            raise IndexError(f"index {index} is out of range for a dataset of {count} samples")
        return number

    def read_as_stored(self, entry: Entry) -> bytes:
        """The content of any file of the location, without ``prepare``."""
        return self.files.read(self.siblings.wanted(entry))

    def hit(self, index: int) -> bytes | None:
        """The bytes of a sample; None if they are not in the cache."""
        if self.cached is None or self.maker.gives_paths:
            return None
        held = self._slots.get(index)
        if held is None:
            held = self.cached.known(self.entries[index])
            if held is None:
                return None
            if len(self._slots) >= MOST_KNOWN:
                self._slots.clear()
            self._slots[index] = held
        data = self.cached.hit(held)
        if data is None:
            self._slots.pop(index, None)
        return data

    def good(
        self, indices: Sequence[int], seeds: Sequence[int] | None = None, look: Look | None = None
    ) -> list[tuple[int, Any]]:
        """Several samples, each with its position among the indices; bad ones are left out under ``on_error="skip"``.

        Args:
            indices: from 0 on.
            seeds: the seed of each sample's random augmentations.
            look: records how the last of them is made; the first one may have to import what the user's functions need.

        Raises:
            SampleError: one is bad, and is not to be skipped.
        """
        contents, fetched = self._contents(indices)
        last = self.maker if look is None or self.maker.gives_bytes else Watched(self.maker, look)
        return list(self._made(indices, contents, fetched, seeds if self.maker.may_draw else None, last))

    def _contents(self, indices: Sequence[int]) -> tuple[_Contents, _Fetched]:
        """The files of samples, by index, and what came of other files; those that are read later are in neither."""
        begun_ns = time.perf_counter_ns()
        wanted = {index: WantedFile(self.entries[index]) for index in dict.fromkeys(indices)}
        contents: dict[int, bytes | errors.StorageError] = {}
        absent = []
        for index, file in wanted.items():
            if self._comes_later(file):
                continue
            if (data := self.hit(index)) is not None:
                contents[index] = data
            else:
                absent.append(file)
        siblings = self._siblings_of(indices)
        hit_ns = time.perf_counter_ns()
        reading.add(hit_ns - begun_ns, fetching=False)
        if not absent and not siblings:
            return contents, {}
        came = {file.form: result for file, result in self.files.read_many(each_once([*absent, *siblings]))}
        reading.add(time.perf_counter_ns() - hit_ns, fetching=bool(absent) and not self.files.store.is_local)
        contents = {index: came[file.form] for index, file in wanted.items() if file.form in came} | contents
        return contents, came if self.siblings.learned() else {}

    def _comes_later(self, file: WantedFile) -> bool:
        """Whether the file of a sample is read only on demand, and not as a whole beforehand."""
        if self.maker.is_lazy and file.size_bytes > IN_MEMORY_BYTES:
            return True
        return self.maker.gives_paths and self.files.holds(file)

    def _siblings_of(self, indices: Sequence[int]) -> list[WantedFile]:
        """The siblings that samples will probably ask for; large files are read only on demand."""
        if not self.siblings.learned():
            return []
        found = (wanted for index in indices for wanted in self.siblings.of(self.entries[index].key))
        return [wanted for wanted in found if wanted.size_bytes <= IN_MEMORY_BYTES]

    def _made(
        self,
        indices: Sequence[int],
        contents: _Contents,
        fetched: _Fetched,
        seeds: Sequence[int] | None,
        last: Maker | Watched,
    ) -> Iterator[tuple[int, Any]]:
        """Decode, label and transform samples, in the order of the indices."""
        for position, index in enumerate(indices):
            maker = last if position == len(indices) - 1 else self.maker
            content, entry = contents.get(index), self.entries[index]
            if seeds is not None:
                seeding.seed_all(seeds[position])
            try:
                if isinstance(content, errors.StorageError):
                    raise content
                x, y = maker.decoded(index, Sample(self.origin, WantedFile(entry), content, fetched))
            except Exception as error:  # noqa: BLE001  a user's function may raise anything
                self.bad_samples.skip(self.bad_samples.of_sample(index, entry.key, error), error)
                self.files.counters.row[telemetry.SKIPPED] += 1
                continue
            try:
                item = maker.transformed(x, y)
            except Exception as error:
                raise self.bad_samples.of_sample(index, entry.key, error) from error
            yield position, item

    def skipped(self, index: int) -> errors.SkippedError:
        """The error if every sample of a request was bad, this one last."""
        return self.bad_samples.nothing_left(index, self.entries[index].key)

    # --- for plans and the look-ahead

    def names(self) -> Sequence[str]:
        """The digest of each sample's file in the cache."""
        return self.cached.names() if self.cached is not None else ()

    def names_of(self, indices: Sequence[int]) -> list[list[str]]:
        """For each of these samples the digests of its files in the cache, siblings included."""
        if self.cached is None:
            return [[] for _ in indices]
        names = self.cached.names()
        if not self.siblings.learned():
            return [[names[index]] for index in indices]
        name, wanted, siblings = self.files.name, self.siblings.wanted, self.siblings.of_all()
        return [[names[index], *(name(wanted(entry)) for entry in siblings[index])] for index in indices]

    def own_files(self, indices: Sequence[int]) -> list[WantedFile]:
        """The samples' own files, those that are read as a whole, in order."""
        files = [WantedFile(self.entries[index]) for index in indices]
        if not self.maker.is_lazy or self.maker.gives_paths:
            return files
        return [wanted for wanted in files if wanted.size_bytes <= IN_MEMORY_BYTES]

    def all_files(self, indices: Sequence[int], *, trusting: bool = False) -> list[WantedFile]:
        """All files that these samples are read from, with siblings as far as they are known, each once.

        Args:
            indices: of the samples.
            trusting: leave out those, of samples without siblings, that this process has found in the cache lately.
        """
        if trusting and self.cached is not None and not self.siblings.learned():
            indices = self.cached.not_at_hand(indices)
        return each_once([*self.own_files(indices), *self._siblings_of(indices)])


def each_once(files: Iterable[WantedFile]) -> list[WantedFile]:
    """Files without repetitions of the same file in the same form."""
    return list({file.form: file for file in files}.values())
