"""Datasets over storage: a file is read over the network once, and from the local disk while the cache holds it."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from torch.utils.data import Dataset
from typing_extensions import Self

from ai4os_data import errors, telemetry
from ai4os_data.cache import IN_MEMORY_BYTES, MOST_KNOWN, CachedStore, DiskCache, Held, LocalPath, cache_for, live_in
from ai4os_data.datasets import seeding
from ai4os_data.datasets.classes import Classes, Wanted, compare
from ai4os_data.datasets.decoding import Decoder, as_bytes, as_path, decoder
from ai4os_data.datasets.index import Drift, enumerated, find_folders, list_anew, open_index
from ai4os_data.datasets.labels import Written, as_text, understood
from ai4os_data.datasets.lost import nearest
from ai4os_data.datasets.mistakes import hint, misses
from ai4os_data.datasets.patterns import Pattern
from ai4os_data.datasets.sample import Reader, Sample
from ai4os_data.datasets.siblings import Siblings
from ai4os_data.datasets.splits import as_key, csv_advice, parse_split
from ai4os_data.datasets.tables import ColumnTarget, Table, columns_of, targets_of
from ai4os_data.datasets.targets import Folders, Target, Targets
from ai4os_data.datasets.unreadable import check_keys, check_pattern
from ai4os_data.machine import Grouped
from ai4os_data.stores import ChosenEntries, Entry, Store, Twins, in_its_form, keyed_alike, open_store, shown
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data.locations import Remote

Location = str | os.PathLike[str] | Store
D = TypeVar("D", bound="StorageDataset")

_BY_KEYS: ContextVar[bool] = ContextVar("by_keys", default=False)  # whether keys say which files, and no pattern

# What is wrong with one file. Anything else is wrong with the storage, and never skipped.
_OF_ONE_FILE = (
    errors.NotFoundError,
    errors.ChangedError,
    errors.IntegrityError,
    errors.PermissionDeniedError,
    errors.LockedError,
    errors.ProtocolError,
    errors.PreparationError,
)


class StorageDataset(Dataset[Any]):
    """A map-style dataset of the files at a location, read through a bounded cache on the local disk.

    It works in a ``DataLoader`` with any number of workers, under fork, spawn and forkserver; ``Subset``,
    ``random_split`` and ``ConcatDataset`` go over it. An item is ``x``, or ``(x, y)`` where there is a target.

    Args:
        location: a directory, ``/storage/…``, ``rshare:path`` (any rclone remote), ``ai4os://rshare/path``,
            ``webdav(s)://…``, ``https://HOST/remote.php/dav/files/USER/…``, a public share ``https://HOST/s/TOKEN``, or
            any fsspec URL.
        remote: a remote's name, or a `Remote`; by default the credentials are found as rclone finds them.
        pattern: which files: a glob below the location, or several in a list. ``**`` is any number of folders, and
            braces hold alternatives: ``"**/*.{jpg,png}"`` (``[{]`` is a brace itself). What systems leave behind, such
            as ``Thumbs.db`` and ``.ipynb_checkpoints``, is left out, unless the pattern names it.
        decode: ``"bytes"``, ``"text"`` (UTF-8), ``"json"``, ``"image"`` (Pillow, RGB), ``"numpy"`` (``.npy``,
            ``.npz``), ``"torch"`` (weights only), ``"path"`` (a local file that stays while the path object lives),
            or a callable of a `Sample`.
        target: None, ``"folder"`` (as in ImageFolder), a mapping from key to label, or a callable of a `Sample`.
        classes: the names of the classes, in the order of their numbers, such as ``train.classes`` for a validation
            split. Without it, class folders are numbered in sorted order, those that no sample lies in included.
        class_to_idx: the same as a mapping from name to number. Numbers may have gaps; each has one name.
        allow_empty: let a class keep its number where it has no sample; otherwise that is an error.
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
        outage_s: how many seconds reads wait for a storage that is away, such as a server that restarts or is in
            maintenance; 10 minutes by default, 0 for a few tries. The log says when they wait. A `Store` as the
            location keeps its own unless this is set.

    Attributes:
        keys: the samples' keys, sorted.
        index: the `Index` of the location; ``index.save("data.lock.json")`` writes a lock file.
        classes: the class names in the order of their labels, with ``target="folder"`` or where names are labels.
        class_to_idx: from class name to label.
        targets: every label, where they are known without reading.

    Raises:
        LocationError: there is nothing at the location.
        EmptyDatasetError: nothing matches the pattern; as an EmptyClassError, nothing in one of the class folders does.
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
        classes: Sequence[str] | None = None,
        class_to_idx: Mapping[str, int] | None = None,
        allow_empty: bool = False,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        prepare: Callable[[bytes], bytes] | None = None,
        prepare_version: str | int | None = None,
        cache: DiskCache | str | os.PathLike[str] | None = "auto",
        index: str | os.PathLike[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        on_drift: Drift = "warn",
        outage_s: float | None = None,
    ) -> None:
        if on_error not in {"raise", "skip"}:
            message = f"on_error is 'raise' or 'skip', not {on_error!r}"
            raise ValueError(message)
        if on_drift not in {"error", "warn", "refresh"}:
            message = f"on_drift is 'error', 'warn' or 'refresh', not {on_drift!r}"
            raise ValueError(message)
        _check_functions(transform=transform, target_transform=target_transform, prepare=prepare)
        matches = Pattern(pattern)
        self._decode = decoder(decode)
        self._has_own_decoder, self._has_own_target = callable(decode), callable(target)
        self._is_lazy = (
            self._has_own_decoder or decode == "path"
        )  # it may do without the whole of a large file in memory
        self.transform = transform
        self.target_transform = target_transform
        self._pattern = pattern
        self._chosen: Sequence[str] | None = None
        self._target: Target | Targets = target
        self._wanted = Wanted(Classes.given(classes, class_to_idx), allow_empty)
        self._lock_file = index
        self._on_error = on_error
        self._on_drift: Drift = on_drift
        counters = telemetry.Counters()
        self._store = open_store(location, remote, counters=counters, outage_s=outage_s)
        self.location = self._store.location
        cache = cache_for(cache, local=self._store.is_local)
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
        r"""A dataset of these files, in this order.

        Args:
            location: as for the class.
            keys: paths below the location, as in ``dataset.keys``; one may come more than once. ``./a``, ``a//b`` and
                ``a/../b`` mean what they mean to a system, and so does ``a\b``, unless there is a file of that name.
            targets: a label for each key, in the same order, or a mapping from key to label.
            options: as for the class, without ``pattern``; ``target`` only where there are no ``targets``.

        Raises:
            NotFoundError: some keys are not there.
        """
        _refuse(options, "from_keys", "pattern", *(["target"] if targets is not None else []))
        wanted = _wanted_in(options)
        target: Target | Targets = options.pop("target", None)  # it concerns these keys alone
        keys = _as_paths(keys)
        if isinstance(targets, Mapping):
            target = targets
        elif targets is not None:
            _check_labels(targets, len(keys))
        with _by_keys():
            dataset = cls(location, **options)
        is_key = dataset.index.by_key.__contains__
        keys = [as_key(key, is_key) for key in keys]
        if targets is not None and not isinstance(targets, Mapping):
            target = Targets.of_values(list(targets), keys, dataset.location, wanted)
        dataset._choose(keys, target, wanted)
        return dataset

    @classmethod
    def from_split_file(cls, location: Location, file: str | os.PathLike[str], **options: Any) -> Self:
        """A dataset of the files that a split file lists, with lines such as ``Class/some image.jpg 0``.

        The label is what follows the last space, or the last tab where there is one; a path or a label with blanks may
        stand in quotes. Lines that begin with ``#``, and what comes after `` # ``, are comments. Labels that are all
        integers are these integers; all numbers, floats; all names, classes in sorted order, or as ``classes=`` says.

        Args:
            location: as for the class.
            file: a key below the location, or a local file.
            options: as for the class, without ``pattern`` and ``target``.

        Raises:
            LocationError: a line cannot be understood, labels are numbers and names, or a class is none of
                ``classes=``.
            NotFoundError: the split file, or one that it lists, is not there.
            EmptyClassError: one of ``classes=`` has no line, without ``allow_empty``.
        """
        _refuse(options, "from_split_file", "pattern", "target")
        wanted = _wanted_in(options)
        with _by_keys():
            dataset = cls(location, **options)
        name = os.fspath(file)
        keys, labels = parse_split(dataset._text_of(file), name, dataset.index.by_key.__contains__)
        values, classes = understood(labels, name, dataset.location, wanted)
        how = "its lines are 'path label', the label after the last space"
        if any("," in label.text or ";" in label.text for label in labels):
            how = f"{how}; {csv_advice(name)}"
        lines = [label.line for label in labels]
        dataset._choose_listed(
            keys, Targets(values, classes=classes), wanted, file=name, lines=lines, labels=labels, how=how
        )
        return dataset

    @classmethod
    def from_csv(
        cls,
        location: Location,
        file: str | os.PathLike[str],
        *,
        key: str,
        target: ColumnTarget = None,
        prefix: str = "",
        suffix: str = "",
        delimiter: str | None = None,
        columns: Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """A dataset of the files that a CSV file lists, one in each row.

        Labels that are all integers are these integers; all numbers, floats; all names, classes in sorted order, or as
        ``classes=`` says. Quotes, a byte order mark, blanks after a delimiter and empty rows do not matter.

        Args:
            location: as for the class.
            file: a key below the location, or a local file.
            key: the column with the file's path below the location; what Windows writes is understood, too.
            target: the column with the label; several for a tuple of labels, whose names stay text; a function of a
                row, which gets it as a mapping from column to text; or None.
            prefix: what comes before what is in ``key``, such as ``"images/"``.
            suffix: what comes after it, such as ``".jpg"``.
            delimiter: what stands between columns; by default ``,``, ``;``, a tab or ``|``, whichever makes these
                columns.
            columns: the names of the columns, where the first line is a row already.
            options: as for the class, without ``pattern``.

        Raises:
            LocationError: a column is missing, a line cannot be understood, a label is empty, labels are numbers and
                names, or a class is none of ``classes=``.
            NotFoundError: the CSV file, or one that it lists, is not there.
            EmptyClassError: one of ``classes=`` has no row, without ``allow_empty``.

        Example:
            >>> train = StorageDataset.from_csv(
            ...     "rshare:datasets/birds", "labels.csv", key="filename", target="species", prefix="images/"
            ... )
        """
        _refuse(options, "from_csv", "pattern")
        needed = columns_of(key, target)
        wanted = _wanted_in(options)
        with _by_keys():
            dataset = cls(location, **options)
        name = os.fspath(file)
        table = Table(dataset._text_of(file), name, needed, delimiter, columns)
        keys = table.keys(key, dataset.index.by_key.__contains__, prefix, suffix)
        targets = targets_of(table, target, keys, dataset.location, wanted)
        how = f"a path is prefix=, what is in the column {key!r}, and suffix="
        dataset._choose_listed(keys, targets, wanted, file=name, lines=table.lines, how=how)
        return dataset

    # --- which samples

    def _choose(self, keys: list[str], target: Target | Targets, wanted: Wanted) -> None:
        self._chosen = keys
        self._target = target
        self._wanted = wanted
        self._select()

    def _choose_listed(
        self,
        keys: list[str],
        targets: Targets | None,
        wanted: Wanted,
        *,
        file: str,
        lines: Sequence[int],
        labels: Sequence[Written] | None = None,
        how: str,
    ) -> None:
        """Choose what a file lists.

        Args:
            keys: what it lists.
            targets: their labels.
            wanted: what the user says of the classes.
            file: what errors call it.
            lines: where each key stands.
            labels: what stands beside it, if it may be what was meant.
            how: what its lines look like.

        Raises:
            NotFoundError: some of it is not there.
        """
        try:
            self._choose(keys, targets, wanted)
        except errors.NotFoundError as error:
            by_key = self.index.by_key
            first = next((number for number, key in enumerate(keys) if key not in by_key), None)
            if first is None:
                raise
            meant = nearest(keys[first], self.index.keys, labels[first].text if labels is not None else None)
            message = (
                f"{error}. {file!r} lists them, the first in line {lines[first]}{f': {meant}' if meant else ''}. "
                f"Paths are below the location, such as {self.index.keys[0]!r}; {how}"
            )
            raise errors.NotFoundError(message) from error

    def _select(self) -> None:
        """Take the samples from the index, and label them."""
        places = self._matching() if self._chosen is None else self._found(self._chosen)
        entries = ChosenEntries.at_places(self.index.entries, places)
        target = keyed_alike(self._target, entries.keys) if isinstance(self._target, Mapping) else self._target
        targets = (
            target
            if isinstance(target, Targets)
            else Targets.of(target, entries.keys, self.location, self._wanted, self._folders)
        )
        self._entries = entries
        if self._chosen is not None:
            self._chosen = self.keys
        self._slots: dict[int, Held] = {}  # of those that were read last
        self._known_siblings: tuple[int, Sequence[list[Entry]]] = (0, [])
        for store in (self._cached, self._beside):
            store.begin(f"{self.index.checked_s!r}", self.index.newer)
        self._cached.keep_together(entries)
        self._targets = targets
        self.classes = targets.classes if targets else None
        self.class_to_idx = targets.class_to_idx if targets else None
        values = targets.values if targets else None
        self.targets: Sequence[Any] | None = list(values) if isinstance(values, list) else values
        if targets is not None and targets.numbering is not None:
            compare(targets.numbering, self.location, is_given=self._wanted.classes is not None)

    def _matching(self) -> list[int]:
        """The places in the index of those files that match the pattern."""
        if not _BY_KEYS.get():
            check_pattern(self.index.unreadable, self._pattern, self.location)
        matches: Callable[[str], bool] = (lambda _key: True) if _BY_KEYS.get() else Pattern(self._pattern)
        keys = self.index.keys
        are_wanted = list(map(matches, keys))
        places = [place for place, is_wanted in enumerate(are_wanted) if is_wanted]
        others = [key for key, is_wanted in zip(keys, are_wanted, strict=True) if not is_wanted]
        if not places:
            raise errors.EmptyDatasetError(self._of_nothing(others))
        if others:
            self._tell_left_out(others)
        return places

    def _of_nothing(self, others: list[str]) -> str:
        """What to say where nothing matches."""
        found = (
            f"there are {len(others):,} files, such as {enumerated(map(repr, others[:3]))}"
            if others
            else "there is no file at all"
        )
        matches = Pattern(self._pattern)
        junk = next((key for key in others if matches.leaves_out(key)), None)
        advice = hint(matches, others) or "patterns are globs below the location, such as '**/*.jpg'"
        if junk is not None:
            advice = f"{junk!r} is what systems leave behind, and is left out unless the pattern names it"
        return f"{self.location}: nothing matches {self._pattern!r}; {found}. To mend it: {advice}"

    def _tell_left_out(self, others: list[str]) -> None:
        """Name what a user may not know to be left out."""
        matches = Pattern(self._pattern)
        junk = [key for key in others if matches.leaves_out(key)]
        if junk:
            tell_once(
                f"{self.location}: {len(junk):,} of the files are what systems leave behind, and are left out: "
                f"{enumerated(map(repr, junk))}; a pattern that names them takes them"
            )
        missed = misses(matches, others)
        if missed is not None:
            tell_once(f"{self.location}: {missed}")

    def _folders(self) -> Folders:
        """The class folders: those that a sample may lie in, as far as the pattern tells."""
        if self._lock_file is None or self._on_drift == "refresh":  # a lock file has them, or it stays without
            find_folders(self.index, self._store, self._cached.cache)
        pattern = Pattern(self._pattern)
        names = [name for name in self.index.tops if pattern.reaches(name)]
        return Folders(names, self._inside, None if self._chosen is not None else self._pattern)

    def _inside(self, folder: str) -> str:
        keys = [key for key in self.index.keys if key.startswith(f"{folder}/")]
        return f"{len(keys):,} file{'s' * (len(keys) > 1)}, such as {keys[0]!r}" if keys else "empty"

    def _found(self, keys: Sequence[str]) -> list[int]:
        """The places in the index of the files that were asked for."""
        places = self.index.entries.places_of(keys)
        missing = [key for key, place in zip(keys, places, strict=True) if place is None]
        if missing:
            check_keys(self.index.unreadable, missing)
            places = self.index.entries.places_of(self._in_their_forms(keys, missing))
        if not keys:
            message = f"{self.location}: no keys were given"
            raise errors.EmptyDatasetError(message)
        return [place for place in places if place is not None]

    def _in_their_forms(self, keys: Sequence[str], missing: Sequence[str]) -> list[str]:
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
        return as_text(content, key)

    @property
    def keys(self) -> Sequence[str]:
        """The samples' keys, in the order of their indices; to be read as a list, in no time and no memory.

        What takes nothing but a list, such as ``json.dumps``, takes ``list(dataset.keys)``; so it is with ``targets``.
        """
        return self._entries.keys

    def refresh(self) -> None:
        """List the location anew. Indices may then mean other samples; a class keeps its number.

        Raises:
            LocationError: there is a new class. A new dataset gives numbers anew.
            EmptyClassError: a class has no file any more, without ``allow_empty``.
        """
        before, wanted = self.index, self._wanted
        if self._targets is not None and self._targets.numbering is not None:
            self._wanted = wanted._replace(
                classes=self._targets.numbering, allow_empty=wanted.allow_empty or self._chosen is not None
            )
        try:
            self.index = list_anew(self._store, self._cached.cache)
            self._select()
        except errors.StorageError:
            self.index, self._wanted = before, wanted
            raise

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
            held = self._slots.get(index)
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
        found = (entry for index in indices for entry in self._siblings_of(index))
        by_key = {entry.key: entry for entry in found if entry.size_bytes <= IN_MEMORY_BYTES}  # others come when asked
        if self._beside is not self._cached:
            return list(by_key.values())
        return [entry for key, entry in by_key.items() if key not in absent]

    def _siblings_of(self, index: int) -> list[Entry]:
        """The files that a sample will probably ask for, as far as is known."""
        found = self.index.by_key
        return [found[key] for key in self._siblings.of(self._entries[index].key) if key in found]

    def _all_siblings(self) -> Sequence[list[Entry]]:
        """Those of every sample; looked for anew when more has been learned."""
        learned = self._siblings.count
        if self._known_siblings[0] != learned:
            wanted = [self._siblings.of(key) for key in self.keys]
            found = iter(self.index.entries.places_of(list(chain.from_iterable(wanted))))
            groups = ([place for _ in keys if (place := next(found)) is not None] for keys in wanted)
            self._known_siblings = learned, Grouped(self.index.entries, groups)
        return self._known_siblings[1]

    def _sibling_names(self) -> Iterator[str]:
        """What they are called in the cache."""
        for entries in self._all_siblings():
            for entry in entries:
                yield self._beside.name(entry)

    def _keep_siblings(self) -> None:
        """Under the policy ``"auto"``, siblings do not evict each other either, as long as this object lives."""
        if self._cached.cache is not None:
            live_in(self._cached.cache.directory).keep_together(self._sibling_names)

    def _hit(self, index: int) -> bytes | None:
        """The bytes of a sample that is in the cache."""
        held = self._slots.get(index)
        if held is None:
            if self._cached.cache is None or self._decode is as_path:
                return None
            held = self._cached.known(self._entries[index])
            if held is None:
                return None
            if len(self._slots) >= MOST_KNOWN:
                self._slots.clear()
            self._slots[index] = held
        data = self._cached.hit(held)
        if data is None:
            self._slots.pop(index, None)
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
        if not self._is_lazy or self._decode is as_path:
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
        ``damaged``, ``skipped``, and ``changed`` (another version came than was listed).
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
        return {**self.__dict__, "_slots": {}, "_known_siblings": (0, [])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with nothing found out."""
        self.__dict__.update(state)
        self._keep_siblings()


_PASSES_UNTIL_FULL = 64


class _Beside:
    """Reads siblings, as they are, where the samples themselves are prepared."""

    def __init__(self, dataset: StorageDataset, store: CachedStore) -> None:
        self.read, self.open, self.path = store.read, store.open, store.path
        self.sibling = dataset.sibling


@contextmanager
def _by_keys() -> Iterator[None]:
    """Open a dataset of every file, of which some are chosen then."""
    before = _BY_KEYS.set(True)
    try:
        yield
    finally:
        _BY_KEYS.reset(before)


def _refuse(options: Mapping[str, Any], what: str, *names: str) -> None:
    for name in names:
        if name in options:
            message = f"{what} takes no {name}=: the samples and their labels are given already"
            raise TypeError(message)


def _as_paths(keys: Iterable[Any]) -> list[str]:
    """The keys that a user gives.

    Raises:
        TypeError: one is no text, or they have no order.
    """
    if isinstance(keys, (str, bytes, set, frozenset)):
        message = f"keys is a list of keys, not {keys!r}; a set has no order, sorted(…) gives it one"
        raise TypeError(message)
    paths = [os.fspath(key) if isinstance(key, os.PathLike) else key for key in keys]
    wrong = [path for path in paths if not isinstance(path, str)]
    if wrong:
        message = f"a key is a path below the location, as text, not {wrong[0]!r}"
        raise TypeError(message)
    return paths


def _check_labels(targets: Any, count: int) -> None:
    """See that labels have an order, and are as many as there are keys.

    Raises:
        TypeError: they have none.
        ValueError: they are fewer, or more.
    """
    if isinstance(targets, (str, bytes, set, frozenset)) or not hasattr(targets, "__len__"):
        message = f"targets is a list with a label for each key, or a mapping from key to label, not {targets!r}"
        raise TypeError(message)
    if len(targets) != count:
        message = f"{count} keys, but {len(targets)} targets"
        raise ValueError(message)


def _is_of_one_file(error: Exception) -> bool:
    return isinstance(error, _OF_ONE_FILE) or not isinstance(error, errors.StorageError)


def _check_functions(**functions: object) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            message = f"{name} is a function or None, not {function!r}"
            raise TypeError(message)


def _wanted_in(options: dict[str, Any]) -> Wanted:
    """What options say of the classes, taken out of them."""
    classes = Classes.given(options.pop("classes", None), options.pop("class_to_idx", None))
    return Wanted(classes, options.pop("allow_empty", False))
