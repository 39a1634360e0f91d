"""Datasets over storage: every file read at network speed once, and at the speed of the local disk ever after."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from torch.utils.data import Dataset
from typing_extensions import Self

from ai4os_data import errors, seeding, telemetry
from ai4os_data.cache import IN_MEMORY_BYTES, CachedStore, DiskCache, Held, LocalPath
from ai4os_data.decoding import Decoder, as_bytes, as_path, decoder
from ai4os_data.index import Drift, enumerated, list_anew, open_index
from ai4os_data.patterns import matcher
from ai4os_data.sample import Reader, Sample
from ai4os_data.siblings import Siblings
from ai4os_data.stores import Entry, Store, open_store
from ai4os_data.stores.forms import Twins, in_its_form, keyed_alike, shown
from ai4os_data.targets import Target, Targets, parse_split
from ai4os_data.telemetry import tell_once
from ai4os_data.unreadable import check_keys, check_pattern

if TYPE_CHECKING:
    from ai4os_data.remotes import Remote

Location = str | os.PathLike[str] | Store
D = TypeVar("D", bound="StorageDataset")

_CHOSEN_LATER = ("**/*",)  # the pattern of a dataset that is given its keys: what else is there is none of its business

# What is wrong with one file. Anything else is wrong with the storage, and never skipped.
_OF_ONE_FILE = (
    errors.NotFoundError,
    errors.ChangedError,
    errors.IntegrityError,
    errors.PermissionDeniedError,
    errors.ProtocolError,
    errors.PreparationError,
)


class StorageDataset(Dataset[Any]):
    """A map-style dataset of the files at a location, read through a bounded cache on the local disk.

    It works in a ``DataLoader`` with any number of workers, under fork, spawn and forkserver; ``Subset``,
    ``random_split`` and ``ConcatDataset`` go over it. An item is ``x``, or ``(x, y)`` where there is a target.

    Args:
        location: a directory, ``/storage/…``, ``rshare:path`` (any rclone remote), ``ai4os://rshare/path``,
            ``webdav(s)://…``, ``https://HOST/remote.php/dav/files/USER/…``, or any fsspec URL.
        remote: a remote's name, or a `Remote`; by default the credentials are found as rclone finds them.
        pattern: which files: a glob below the location, or several. ``**`` is any number of folders.
        decode: ``"bytes"``, ``"text"`` (UTF-8), ``"json"``, ``"image"`` (Pillow, RGB), ``"numpy"`` (``.npy``,
            ``.npz``), ``"torch"`` (weights only), ``"path"`` (a local file that stays while the path object lives),
            or a callable of a `Sample`.
        target: None, ``"folder"`` (as in ImageFolder), a mapping from key to label, or a callable of a `Sample`.
        transform: applied to ``x``.
        target_transform: applied to ``y``.
        prepare: bytes to bytes, applied once, before a file is kept in the cache: such as shrinking photographs. It is
            for the samples' own files; their siblings, and a split file, come as they are.
        prepare_version: change it when ``prepare`` changes in a way that its own code does not show.
        cache: a `DiskCache`, a directory, ``"auto"``, or None. ``"auto"`` caches nothing that is on a local disk
            already.
        index: a lock file, written by ``dataset.index.save(…)``: the dataset then has exactly its files.
        on_error: ``"raise"``, or ``"skip"``: name a bad sample once, and leave it out of its batch, which is shorter
            then. No other sample takes its place. Where nothing is left, as with ``dataset[i]`` or a batch of one, a
            `SkippedError` is raised; `StorageDataLoader` leaves such a batch out, unless there are other ranks.
        on_drift: what to do about a file that is another version than the listed one: ``"error"``, ``"warn"`` and use
            it, or ``"refresh"``: use it in silence.

    Attributes:
        keys: the samples' keys, sorted.
        index: the `Index` of the location; ``index.save("data.lock.json")`` writes a lock file.
        classes: the class names, with ``target="folder"``.
        class_to_idx: from class name to label.
        targets: every label, where they are known without reading.

    Raises:
        LocationError: there is nothing at the location.
        EmptyDatasetError: nothing matches the pattern.
        AuthenticationError: the credentials are wrong.

    Example:
        >>> train = StorageDataset("rshare:datasets/flowers/train", pattern="**/*.jpg", decode="image", target="folder")
        >>> image, label = train[0]
    """

    def __init__(
        self,
        location: Location,
        *,
        remote: str | Remote | None = None,
        pattern: str | Sequence[str] = "**/*",
        decode: str | Decoder = "bytes",
        target: Target = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        prepare: Callable[[bytes], bytes] | None = None,
        prepare_version: str | int | None = None,
        cache: DiskCache | str | os.PathLike[str] | None = "auto",
        index: str | os.PathLike[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        on_drift: Drift = "warn",
    ) -> None:
        if on_error not in {"raise", "skip"}:
            message = f"on_error is 'raise' or 'skip', not {on_error!r}"
            raise ValueError(message)
        if on_drift not in {"error", "warn", "refresh"}:
            message = f"on_drift is 'error', 'warn' or 'refresh', not {on_drift!r}"
            raise ValueError(message)
        _check_functions(transform=transform, target_transform=target_transform, prepare=prepare)
        matches = matcher(_checked_pattern(pattern))
        self._decode = decoder(decode)
        self._has_own_decoder, self._has_own_target = callable(decode), callable(target)
        self._is_lazy = (
            self._has_own_decoder or decode == "path"
        )  # it may do without the whole of a large file in memory
        self.transform = transform
        self.target_transform = target_transform
        self._pattern = pattern
        self._chosen: list[str] | None = None
        self._target: Target | Targets = target
        self._lock_file = index
        self._on_error = on_error
        self._on_drift: Drift = on_drift
        counters = telemetry.Counters()
        self._store = open_store(location, remote, counters=counters)
        self.location = self._store.location
        cache = DiskCache.resolve(cache, local=self._store.is_local)
        self._cached = CachedStore(
            self._store,
            cache,
            prepare=prepare,
            prepare_version=prepare_version,
            on_drift=on_drift,
            counters=counters,
        )
        # What is no sample of its own is not prepared: a shrunken mask would be another mask.
        self._beside = (
            self._cached if prepare is None else CachedStore(self._store, cache, on_drift=on_drift, counters=counters)
        )
        self._siblings = Siblings(counters)
        self.index = open_index(self._store, cache, index, on_drift, matches)
        self._select()
        self._keep_siblings()

    @classmethod
    def from_keys(
        cls,
        location: Location,
        keys: Iterable[str],
        targets: Sequence[Any] | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A dataset of these files, in this order.

        Args:
            location: as for the class.
            keys: below the location; one may come more than once.
            targets: a label for each key, in the same order, or a mapping from key to label.
            options: as for the class, without ``pattern``; ``target`` only where there are no ``targets``.

        Raises:
            NotFoundError: some keys are not there.
        """
        _refuse(options, "from_keys", "pattern", *(["target"] if targets is not None else []))
        target: Target | Targets = options.pop("target", None)  # it concerns these keys alone
        keys = list(keys)
        if isinstance(targets, Mapping):
            target = targets
        elif targets is not None:
            if len(targets) != len(keys):
                message = f"{len(keys)} keys, but {len(targets)} targets"
                raise ValueError(message)
            target = Targets(list(targets))
        dataset = cls(location, pattern=_CHOSEN_LATER, **options)
        dataset._choose(keys, target)
        return dataset

    @classmethod
    def from_split_file(cls, location: Location, file: str | os.PathLike[str], **options: Any) -> Self:
        """A dataset of the files that a split file lists, with lines such as ``Class/some image.jpg 0``.

        Args:
            location: as for the class.
            file: a key below the location, or a local file.
            options: as for the class, without ``pattern`` and ``target``.

        Raises:
            LocationError: a line cannot be understood.
            NotFoundError: the split file, or one that it lists, is not there.
        """
        _refuse(options, "from_split_file", "pattern", "target")
        dataset = cls(location, pattern=_CHOSEN_LATER, **options)
        keys, targets = parse_split(dataset._text_of(file), os.fspath(file))
        try:
            dataset._choose(keys, targets)
        except errors.NotFoundError as error:
            message = (
                f"{error}. {os.fspath(file)!r} lists them: its lines are 'path label', the label after the last space, "
                f"and paths are below the location, such as {dataset.index.entries[0].key!r}"
            )
            raise errors.NotFoundError(message) from error
        return dataset

    # --- which samples

    def _choose(self, keys: list[str], target: Target | Targets) -> None:
        self._chosen = keys
        self._target = target
        self._select()

    def _select(self) -> None:
        """Take the samples from the index, and label them."""
        entries = self._matching() if self._chosen is None else self._found(self._chosen)
        self._entries = entries
        self._slots: list[Held | None] = [None] * len(entries)
        self._known_siblings: tuple[int, list[list[Entry]]] = (0, [])
        self._cached.keep_together(entries)
        target = keyed_alike(self._target, self.keys) if isinstance(self._target, Mapping) else self._target
        targets = target if isinstance(target, Targets) else Targets.of(target, self.keys, self.location)
        self._targets = targets
        self.classes = targets.classes if targets else None
        self.class_to_idx = targets.class_to_idx if targets else None
        self.targets = list(targets.values) if targets and targets.values is not None else None

    def _matching(self) -> list[Entry]:
        if self._pattern is not _CHOSEN_LATER:
            check_pattern(self.index.unreadable, self._pattern, self.location)
        matches = matcher(self._pattern)
        entries = [entry for entry in self.index.entries if matches(entry.key)]
        if not entries:
            found = (
                f"there are {len(self.index):,} files, such as {enumerated(map(repr, self.index.keys[:3]))}"
                if len(self.index)
                else "there is no file at all"
            )
            message = (
                f"{self.location}: nothing matches {self._pattern!r}; {found}. Patterns are globs "
                "below the location, such as '**/*.jpg'"
            )
            raise errors.EmptyDatasetError(message)
        return entries

    def _found(self, keys: list[str]) -> list[Entry]:
        by_key = self.index.by_key
        missing = [key for key in keys if key not in by_key]
        if missing:
            check_keys(self.index.unreadable, missing)
            keys = self._in_their_forms(keys, missing)
        if not keys:
            message = f"{self.location}: no keys were given"
            raise errors.EmptyDatasetError(message)
        return [by_key[key] for key in keys]

    def _in_their_forms(self, keys: list[str], missing: list[str]) -> list[str]:
        """The keys, each in the Unicode form that the location has it in.

        Raises:
            NotFoundError: one is not there in any form, or in two.
        """
        twins = Twins(self.index.keys)
        found = {key: twins.of(key) for key in dict.fromkeys(missing)}
        unclear = [
            shown(key) + (f" (but {' and '.join(map(ascii, names))}, which look alike)" if names else "")
            for key, names in found.items()
            if len(names) != 1
        ]
        if unclear:
            raise errors.NotFoundError(f"{self.location} has no {enumerated(unclear)}")
        return [found[key][0] if key in found else key for key in keys]

    def _text_of(self, file: str | os.PathLike[str]) -> str:
        key = os.fspath(file)
        entry = None if isinstance(file, os.PathLike) else in_its_form(key, self.index.by_key)
        if entry is not None:
            content = self._beside.read(entry)
        elif os.path.isfile(file):
            content = Path(file).read_bytes()
        else:
            message = f"{key!r} is neither a file of {self.location} nor a local one"
            raise errors.NotFoundError(message)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{key}: byte {error.start:,} is not UTF-8; save the split file as UTF-8"
            raise errors.LocationError(message) from error

    @property
    def keys(self) -> list[str]:
        """The samples' keys, in the order of their indices."""
        return [entry.key for entry in self._entries]

    def refresh(self) -> None:
        """List the location anew. Indices may then mean other samples."""
        self.index = list_anew(self._store, self._cached.cache)
        self._select()

    # --- samples

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        """One sample.

        Raises:
            SampleError: it cannot be read, decoded or transformed.
            SkippedError: so it is, and it is to be skipped.
        """
        if type(index) is int and self._decode is as_bytes and self._targets is None and self.transform is None:
            held = self._slots[index] if -len(self._slots) <= index < len(self._slots) else None
            if held is not None and (data := self._cached.hit(held)) is not None:
                return data
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples, fetched at once; a bad one is left out under ``on_error="skip"``.

        Raises:
            SampleError: as for a single one.
            SkippedError: all are to be skipped.
        """
        indices = [self.checked(index) for index in indices]
        items = [item for _, item in self.good_items(indices)]
        if indices and not items:
            raise self.skipped(indices[-1])
        return items

    def skipped(self, index: int) -> errors.SkippedError:
        """What to raise where nothing but bad samples was asked for."""
        key = self._entries[index].key
        message = (
            f"sample {index} ({key!r}) of {self.location} is skipped, and nothing is left to be given; the log says "
            "what is wrong. A StorageDataLoader leaves such a batch out; elsewhere use larger batches, or catch it"
        )
        return errors.SkippedError(message, key=key, location=self.location, index=index)

    def good_items(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> list[tuple[int, Any]]:
        """Several samples, each with its place among the indices; bad ones are left out under ``on_error="skip"``.

        Args:
            indices: from 0 on.
            seeds: for each, what its random augmentations follow from.
        """
        contents: dict[int, bytes | errors.StorageError] = {}
        absent: dict[str, list[int]] = {}
        for index in dict.fromkeys(indices):
            entry = self._entries[index]
            if self._is_lazy and entry.size_bytes > IN_MEMORY_BYTES:
                continue
            if self._decode is as_path and self._cached.holds(entry):
                continue
            data = self._hit(index)
            if data is None:
                absent.setdefault(entry.key, []).append(index)
            else:
                contents[index] = data
        fetched: dict[str, bytes] = {}
        own = [self._entries[places[0]] for places in absent.values()]
        beside = self._siblings_beside(indices, absent)
        are_one = self._beside is self._cached  # and so can come in one answer
        for entry, result in self._cached.read_many([*own, *beside] if are_one else own):
            for index in absent.get(entry.key, ()):
                contents[index] = result
            if are_one and self._siblings.any and isinstance(result, bytes):
                fetched[entry.key] = result
        for entry, result in self._beside.read_many(() if are_one else beside):
            if isinstance(result, bytes):
                fetched[entry.key] = result
        return self._finished(indices, contents, fetched, seeds if self._may_draw else None)

    @property
    def _may_draw(self) -> bool:
        """Whether something of the user's own has a part in making a sample, and so may draw random numbers."""
        functions = (self.transform, self.target_transform)
        return self._has_own_decoder or self._has_own_target or any(function is not None for function in functions)

    def _siblings_beside(self, indices: Sequence[int], absent: Mapping[str, list[int]]) -> list[Entry]:
        """What the samples of a batch will probably ask for, that does not come as one of its absent samples."""
        if not self._siblings.any:
            return []
        by_key = {entry.key: entry for index in indices for entry in self._siblings_of(index)}
        if self._beside is not self._cached:
            return list(by_key.values())
        return [entry for key, entry in by_key.items() if key not in absent]

    def _siblings_of(self, index: int) -> list[Entry]:
        """The files that a sample will probably ask for, as far as is known."""
        found = self.index.by_key
        return [found[key] for key in self._siblings.of(self._entries[index].key) if key in found]

    def _all_siblings(self) -> list[list[Entry]]:
        """Those of every sample; looked for anew when more has been learned."""
        learned = self._siblings.count
        if self._known_siblings[0] != learned:
            self._known_siblings = learned, [self._siblings_of(index) for index in range(len(self._entries))]
        return self._known_siblings[1]

    def _sibling_names(self) -> Iterator[str]:
        """What they are called in the cache."""
        for entries in self._all_siblings():
            for entry in entries:
                yield self._beside.name(entry)

    def _keep_siblings(self) -> None:
        """Under the policy ``"auto"``, siblings do not evict each other either, as long as this object lives."""
        if self._cached.cache is not None:
            self._cached.cache.keep_together(self._sibling_names)

    def _hit(self, index: int) -> bytes | None:
        """The bytes of a sample that is in the cache."""
        held = self._slots[index]
        if held is None:
            cache = self._cached.cache
            if cache is None or self._decode is as_path:
                return None
            held = cache.objects.known.get(self._cached.name(self._entries[index]))
            if held is None:
                return None
            self._slots[index] = held
        data = self._cached.hit(held)
        if data is None:
            self._slots[index] = None
        return data

    def _finished(
        self,
        indices: Sequence[int],
        contents: Mapping[int, bytes | errors.StorageError],
        fetched: Mapping[str, bytes],
        seeds: Sequence[int] | None,
    ) -> list[tuple[int, Any]]:
        """Decode, label and transform, in the order that was asked for."""
        items = []
        for place, index in enumerate(indices):
            content = contents.get(index)
            if seeds is not None:
                seeding.plant(seeds[place])
            try:
                if isinstance(content, errors.StorageError):
                    raise content
                sample = Sample(self, self._entries[index], content, fetched)
                x = self._decode(sample)
                y = self._targets.label(index, lambda sample=sample: sample) if self._targets else None  # type: ignore[misc]
            except Exception as error:
                failure = self._failure(index, error)
                if self._on_error == "raise" or not _is_of_one_file(error):
                    raise failure from error
                self._cached.counters.row[telemetry.SKIPPED] += 1
                self._tell_skipped(self._entries[index].key, failure)
                continue
            items.append((place, self._transformed(index, x, y)))
        return items

    def _transformed(self, index: int, x: Any, y: Any) -> Any:
        try:
            if self.transform is not None:
                x = self.transform(x)
            if self._targets is None:
                return x
            return x, (y if self.target_transform is None else self.target_transform(y))
        except Exception as error:
            raise self._failure(index, error) from error

    def _failure(self, index: int, error: Exception) -> errors.SampleError:
        key = self._entries[index].key
        said = str(error) if isinstance(error, errors.StorageError) else f"{type(error).__name__}: {error}"
        return errors.SampleError(
            f"sample {index} ({key!r}) of {self.location}: {said}",
            key=key,
            location=self.location,
            index=index,
        )

    def _tell_skipped(self, key: str, failure: errors.SampleError) -> None:
        """Name a bad sample in the log, once in all workers and epochs."""
        if self._cached.counters.is_first(f"skipped {key}"):
            tell_once(f"skipped: {failure}")

    def checked(self, index: int) -> int:
        """An index as it counts from 0.

        Raises:
            IndexError: there is no such sample.
        """
        try:
            number = operator.index(index)
        except TypeError:
            message = (
                f"a sample is asked for by its number, not by {type(index).__name__} {index!r}; for several use "
                "torch.utils.data.Subset(dataset, indices), for keys StorageDataset.from_keys(location, keys)"
            )
            raise TypeError(message) from None
        if number < 0:
            number += len(self._entries)
        if not 0 <= number < len(self._entries):
            message = f"index {index} is out of range for a dataset of {len(self)} samples"
            raise IndexError(message)
        return number

    # --- what a Sample calls

    def read(self, entry: Entry) -> bytes:
        """The bytes of one file of the location."""
        return self._cached.read(entry)

    def open(self, entry: Entry) -> IO[bytes]:
        """One file of the location as a seekable binary file."""
        return self._cached.open(entry)

    def path(self, entry: Entry, data: bytes | None = None) -> LocalPath:
        """A local file with the bytes of one file of the location."""
        return self._cached.path(entry, data)

    def sibling(self, sample: Sample, key: str) -> tuple[Reader, Entry]:
        """Another file of the location and what reads it, and take in that it goes with the sample."""
        entry = in_its_form(key, self.index.by_key)
        if entry is None:
            message = f"{self.location}: {sample.key!r} has no sibling {shown(key)}"
            raise errors.NotFoundError(message)
        self._siblings.learn(sample.key, entry.key)
        return (self if self._beside is self._cached else _Beside(self, self._beside)), entry

    # --- the cache

    @property
    def cached_store(self) -> CachedStore:
        """What its files are read through."""
        return self._cached

    @property
    def cached_names(self) -> Sequence[str]:
        """What each sample's file is called in the cache."""
        return self._cached.names

    @property
    def siblings_learned(self) -> int:
        """How many rules are known by which samples have siblings: with another one, there is more to be read."""
        return self._siblings.count

    def entry_of(self, index: int) -> Entry:
        """The file of a sample, as it was listed."""
        return self._entries[index]

    def names_of(self, indices: Sequence[int]) -> list[list[str]]:
        """What the files of each of these samples are called in the cache, those of its siblings included."""
        names = self._cached.names
        if not self._siblings.any:
            return [[names[index]] for index in indices]
        name, siblings = self._beside.name, self._all_siblings()
        return [[names[index], *map(name, siblings[index])] for index in indices]

    def files_of(self, indices: Sequence[int]) -> list[Entry]:
        """The files that these samples are read from as a whole, in their order."""
        entries = [self._entries[index] for index in indices]
        if not self._is_lazy:
            return entries
        return [entry for entry in entries if entry.size_bytes <= IN_MEMORY_BYTES]

    def reads_of(self, indices: Sequence[int]) -> list[tuple[CachedStore, list[Entry]]]:
        """All that these samples are read from, siblings included as far as they are known, and what reads it."""
        own, beside = self.files_of(indices), self._siblings_beside(indices, {})
        if self._beside is self._cached:
            return [(self._cached, list({entry.key: entry for entry in [*own, *beside]}.values()))]
        return [(self._cached, own), (self._beside, beside)]

    def warm(self, progress: bool = True) -> dict[str, int]:  # noqa: FBT001, FBT002  as users of progress bars expect
        """Bring every sample into the cache, with its siblings, as far as it goes.

        Which siblings samples have is learned from one of them, which is made for it where nothing is known yet.

        Args:
            progress: show a bar.

        Returns:
            How many ``files`` are in the cache now, and the ``bytes`` that came over the network for it.
        """
        from tqdm import tqdm

        if self._cached.cache is None:
            tell_once(f"{self.location}: nothing to warm, since this dataset has no cache")
            return {"files": 0, "bytes": 0}
        row = self._cached.counters.row
        bytes_before = row[telemetry.BYTES_FROM_NETWORK]
        self._learn_from_one()
        fetched, came = row[telemetry.BYTES_FROM_NETWORK] - bytes_before, 0
        wanted = self._to_warm()
        number = sum(len(entries) for _, entries in wanted)
        passed_before = row[telemetry.PASSED_THROUGH]
        is_full = False
        with tqdm(
            total=sum(entry.size_bytes for _, entries in wanted for entry in entries),
            unit="B",
            unit_scale=True,
            disable=not progress,
            desc="warm",
        ) as bar:
            for entry, result in chain.from_iterable(store.fill(entries) for store, entries in wanted):
                bar.update(entry.size_bytes)
                if isinstance(result, errors.StorageError):
                    failure = errors.SampleError(
                        f"{entry.key!r} of {self.location}: {result}", key=entry.key, location=self.location
                    )
                    if self._on_error == "raise" or not _is_of_one_file(result):
                        raise failure from result
                    self._tell_skipped(entry.key, failure)
                    continue
                came += 1
                fetched += result
                is_full = row[telemetry.PASSED_THROUGH] - passed_before > _PASSES_UNTIL_FULL
                if is_full:
                    break
        # Only now: at the end of the filling, what was still on its way to the disk has found room or has not.
        files = came - (row[telemetry.PASSED_THROUGH] - passed_before)
        if is_full:
            tell_once(
                f"{self.location}: the cache is full; {files:,} of {number:,} files are in it. The rest is read over "
                "the network"
            )
        return {"files": files, "bytes": fetched}

    def _to_warm(self) -> list[tuple[CachedStore, list[Entry]]]:
        """All files, each once, by what reads them."""
        own = {entry.key: entry for entry in self._entries}
        beside = {entry.key: entry for entries in self._all_siblings() for entry in entries}
        if self._beside is self._cached:
            return [(self._cached, list({**own, **beside}.values()))]
        return [(self._cached, list(own.values())), (self._beside, list(beside.values()))]

    def _learn_from_one(self) -> None:
        """Make a sample, if it may be that it asks for siblings and none has been made yet."""
        if (self._has_own_decoder or self._has_own_target) and not self._siblings.any:
            with seeding.kept_states():
                sample = Sample(self, self._entries[0])
                # Whatever is wrong with it will be met in its own place.
                with suppress(Exception):
                    self._decode(sample)
                    if self._targets is not None:
                        self._targets.label(0, lambda: sample)

    def stats(self) -> dict[str, float]:
        """What this dataset and its copies in all workers have done so far.

        ``hits`` and ``misses`` (files), ``bytes_from_cache`` and ``bytes_from_network``, ``requests`` in all and by
        kind, ``retries``, ``seconds_waited`` before them, ``stored``, ``passed_through`` (read, but not kept),
        ``damaged`` and ``skipped``.
        """
        totals: dict[str, float] = dict(self._cached.counters.totals())
        totals["seconds_waited"] = totals.pop("waited_ns") / 1e9
        totals["requests"] = sum(number for name, number in totals.items() if name.startswith("requests_"))
        return totals

    def __repr__(self) -> str:
        """Tell what it is made of."""
        return f"{type(self).__name__}({self.location!r}, {len(self)} samples, cache={self._cached.cache!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what each process finds out by itself."""
        return {**self.__dict__, "_slots": None, "_known_siblings": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with nothing found out."""
        self.__dict__.update(state)
        self._slots = [None] * len(self._entries)
        self._known_siblings = (0, [])
        self._keep_siblings()


_PASSES_UNTIL_FULL = 64


class _Beside:
    """Reads siblings, as they are, where the samples themselves are prepared."""

    def __init__(self, dataset: StorageDataset, store: CachedStore) -> None:
        self.read, self.open, self.path = store.read, store.open, store.path
        self.sibling = dataset.sibling


def _refuse(options: Mapping[str, Any], what: str, *names: str) -> None:
    for name in names:
        if name in options:
            message = f"{what} takes no {name}=: the samples and their labels are given already"
            raise TypeError(message)


def _is_of_one_file(error: Exception) -> bool:
    return isinstance(error, _OF_ONE_FILE) or not isinstance(error, errors.StorageError)


def _check_functions(**functions: object) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            message = f"{name} is a function or None, not {function!r}"
            raise TypeError(message)


def _checked_pattern(pattern: str | Sequence[str]) -> str | Sequence[str]:
    patterns: Any = [pattern] if isinstance(pattern, str) else pattern
    if not isinstance(patterns, Sequence) or not all(isinstance(part, str) for part in patterns):
        message = f"pattern is a glob such as '**/*.jpg', or several in a list, not {pattern!r}"
        raise TypeError(message)
    return pattern
