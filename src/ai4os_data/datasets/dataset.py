"""A dataset as users see it: the files of a location by index, with their labels; its reader makes the samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import Dataset
from typing_extensions import Self

from ai4os_data import telemetry
from ai4os_data.cache import CachedStore, DiskCache, Drift, UncachedStore, cache_for, session_of
from ai4os_data.datasets import choosing
from ai4os_data.datasets.bad_samples import BadSamples
from ai4os_data.datasets.classes import Classes, GivenClasses, compare
from ai4os_data.datasets.decoding import Maker
from ai4os_data.datasets.index import Index, Shelf, find_folders, list_anew, open_index
from ai4os_data.datasets.listed import Columns, csv_file, split_file
from ai4os_data.datasets.patterns import Pattern
from ai4os_data.datasets.reading import Reader
from ai4os_data.datasets.siblings import SiblingFiles, Siblings
from ai4os_data.datasets.tables import ColumnTarget, columns_of
from ai4os_data.datasets.targets import Folders, Target, Targets
from ai4os_data.datasets.warming import warm
from ai4os_data.stores import ChosenEntries, Store, keyed_alike, open_store
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data.datasets.decoding import Decoder
    from ai4os_data.locations import Remote

Location = str | os.PathLike[str] | Store

# Finds the samples, if no pattern does.
_CHOOSE: ContextVar[choosing.Choose | None] = ContextVar("choose", default=None)


class StorageDataset(Dataset[Any]):
    """A map-style dataset of the files at a location, read through a bounded cache on the local disk.

    It works in a ``DataLoader`` with any number of workers, under fork, spawn and forkserver; ``Subset``,
    ``random_split`` and ``ConcatDataset`` work with it. An item is ``x``, or ``(x, y)`` if there is a target.

    Args:
        location: a directory, ``/storage/…``, ``rshare:path`` (any rclone remote), ``ai4os://rshare/path``,
            ``webdav(s)://…``, ``https://HOST/remote.php/dav/files/USER/…``, a public share ``https://HOST/s/TOKEN``, or
            any fsspec URL.
        remote: a remote's name, or a `Remote`; by default the credentials are found as rclone finds them.
        pattern: which files: a glob below the location, or several in a list. ``**`` is any number of folders, and
            braces hold alternatives: ``"**/*.{jpg,png}"`` (``[{]`` is a brace itself). Files that systems leave behind,
            such as ``Thumbs.db`` and ``.ipynb_checkpoints``, are left out, unless the pattern names them.
        decode: ``"bytes"``, ``"text"`` (UTF-8), ``"json"``, ``"image"`` (Pillow, RGB), ``"image@256"`` (the same; a
            JPEG at the smallest of its scales whose sides have 256 pixels or more), ``"numpy"`` (``.npy``, ``.npz``),
            ``"torch"`` (weights only), ``"path"`` (a local file that stays while the path object lives), or a
            callable of a `Sample`.
        target: None, ``"folder"`` (as in ImageFolder), a mapping from key to label, or a callable of a `Sample`.
        classes: the names of the classes, in the order of their numbers, such as ``train.classes`` for a validation
            split. Without it, class folders are numbered in sorted order, those that no sample lies in included.
        class_to_idx: the same as a mapping from name to number. Numbers may have gaps; each has one name.
        allow_empty: let a class keep its number if it has no sample; otherwise that is an error.
        transform: applied to ``x``.
        target_transform: applied to ``y``.
        prepare: bytes to bytes, applied once, before a file is kept in the cache, by several threads: such as `shrink`.
            It is for the samples' own files; their siblings, and a split file, come as they are.
        prepare_version: change it when the results of ``prepare`` change although its own code does not.
        cache: a `DiskCache`, a directory, ``"auto"``, or None. ``"auto"`` caches nothing that is on a local disk
            already.
        index: a lock file, written by ``dataset.index.save(…)``: the dataset then has exactly its files.
        on_error: ``"raise"``, or ``"skip"``: log a bad sample once, and leave it out: its batch is one shorter.
            If every sample of a request is bad, as with ``dataset[i]`` or a batch of one, a `SkippedError` is raised;
            `StorageDataLoader` drops such a batch, unless there are other ranks.
        on_drift: what to do if a file has another version than the listed one: ``"error"`` raises, ``"warn"`` uses it
            and logs that, ``"refresh"`` uses it without a word.
        outage_s: how many seconds reads wait for a storage that is away, such as a server that restarts or is in
            maintenance; 10 minutes by default, 0 for a few tries. The log says when they wait. A `Store` as the
            location keeps its own unless this is set.

    Attributes:
        keys: the samples' keys, sorted.
        index: the `Index` of the location; ``index.save("data.lock.json")`` writes a lock file.
        classes: the class names in the order of their labels, with ``target="folder"`` or if names are labels.
        class_to_idx: from class name to label.
        targets: every label, if they are known without reading.

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
        _check_option("on_error", on_error, "raise", "skip")
        _check_option("on_drift", on_drift, "error", "warn", "refresh")
        _check_functions(transform=transform, target_transform=target_transform, prepare=prepare)
        matches = Pattern(pattern)
        maker = Maker(decode, transform, target_transform)
        if maker.gives_paths and getattr(prepare, "keep", None) == "pixels":
            raise ValueError(
                f"decode='path' gives files, and {prepare!r} keeps arrays, which no code reads as images: use "
                "decode='image' or 'numpy', or leave out keep='pixels'"
            )
        numbering = Classes.given(classes, class_to_idx)
        choose = _CHOOSE.get()
        self._pattern = pattern if choose is None else None
        self._lists_folders = index is None or on_drift == "refresh"  # a lock file holds the folders, or nothing does
        counters = telemetry.Counters()
        self._store = open_store(location, remote, counters=counters, outage_s=outage_s)
        self.location = self._store.location
        wanted = GivenClasses(self.location, numbering, allow_empty)
        cache = cache_for(cache, local=self._store.is_local)
        files = UncachedStore(
            self._store, prepare=prepare, prepare_version=prepare_version, on_drift=on_drift, counters=counters
        )
        self.reader = Reader(
            files if cache is None else CachedStore(files, cache),
            maker,
            SiblingFiles(self.location, Siblings(counters), as_stored=prepare is not None),
            BadSamples(self.location, counters, skips=on_error == "skip"),
        )
        listed = open_index(self._store, self._shelf, index, on_drift, matches)
        if choose is None:
            choice = choosing.Choice(choosing.matching(matches, listed, self.location), target)
        else:
            choice = choose(choosing.Catalog(listed, self.reader.read_as_stored, wanted))
        self._target = target if choice.target is None else choice.target
        self._take(listed, choice.positions, wanted)

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
            keys: paths below the location, as in ``dataset.keys``; one may be given more than once. ``./a``, ``a//b``
                and ``a/../b`` are understood as an operating system does, and so is ``a\b``, unless there is a file of
                that name.
            targets: a label for each key, in the same order, or a mapping from key to label.
            options: as for the class, without ``pattern``; ``target`` only if there are no ``targets``.

        Raises:
            NotFoundError: some keys are not there.
        """
        _refuse(options, "from_keys", "pattern", *(["target"] if targets is not None else []))
        keys = choosing.as_paths(keys)
        if targets is not None and not isinstance(targets, Mapping):
            choosing.check_labels(targets, len(keys))
        return cls._of_chosen(partial(choosing.given_keys, keys, targets), location, options)

    @classmethod
    def from_split_file(cls, location: Location, file: str | os.PathLike[str], **options: Any) -> Self:
        """A dataset of the files that a split file lists, with lines such as ``Class/some image.jpg 0``.

        The label is what follows the last space, or the last tab if there is one; a path or a label with blanks may
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
        return cls._of_chosen(partial(split_file, file), location, options)

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
            prefix: put before each value in ``key``, such as ``"images/"``.
            suffix: put after it, such as ``".jpg"``.
            delimiter: what stands between columns; by default ``,``, ``;``, a tab or ``|``, whichever makes these
                columns.
            columns: the names of the columns, if the file has no line with them.
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
        columns_of(key, target)
        says = Columns(key, target, prefix, suffix)
        return cls._of_chosen(partial(csv_file, file, says, delimiter, columns), location, options)

    @classmethod
    def _of_chosen(cls, choose: choosing.Choose, location: Location, options: Mapping[str, Any]) -> Self:
        """A dataset of the samples that are chosen once the location is open; a subclass's constructor makes it."""
        before = _CHOOSE.set(choose)
        try:
            return cls(location, **options)
        finally:
            _CHOOSE.reset(before)

    @property
    def keys(self) -> Sequence[str]:
        """The samples' keys, in the order of their indices; a read-only sequence that takes neither time nor memory.

        For functions that need a list, such as ``json.dumps``, write ``list(dataset.keys)``; the same holds for
        ``targets``.
        """
        return self.reader.entries.keys

    def refresh(self) -> None:
        """List the location anew. Indices may then mean other samples; a class keeps its number.

        Raises:
            LocationError: there is a new class. A new dataset gives numbers anew.
            EmptyClassError: a class has no file any more, without ``allow_empty``.
        """
        wanted, targets = self._wanted, self.reader.maker.targets
        if targets is not None and targets.numbering is not None:
            allow_empty = wanted.allow_empty or self._pattern is None
            wanted = GivenClasses(self.location, targets.numbering, allow_empty)
        index = list_anew(self._store, self._shelf)
        if self._pattern is None:
            positions = choosing.found(self.keys, index, self.location)
        else:
            positions = choosing.matching(Pattern(self._pattern), index, self.location)
        self._take(index, positions, wanted)

    def _take(self, index: Index, positions: Sequence[int], wanted: GivenClasses) -> None:
        """Take the samples at these positions of a listing, and label them."""
        entries = ChosenEntries.at_positions(index.entries, positions)
        target = keyed_alike(self._target, entries.keys) if isinstance(self._target, Mapping) else self._target
        targets = Targets.of(target, entries.keys, wanted, partial(self._folders, index))
        self.index, self._wanted = index, wanted
        self.reader.begin(index, entries, targets)
        values, numbering = (targets.values, targets.numbering) if targets is not None else (None, None)
        self.targets: Sequence[Any] | None = list(values) if isinstance(values, list) else values
        self.classes = list(numbering.names) if numbering is not None else None
        self.class_to_idx = dict(numbering.numbers) if numbering is not None else None
        if numbering is not None:
            compare(numbering, self.location, is_given=wanted.classes is not None)

    @property
    def _shelf(self) -> Shelf | None:
        """The place that keeps listings."""
        cache = self.reader.files.cache
        return None if cache is None else session_of(cache)

    def _folders(self, index: Index) -> Folders:
        if self._lists_folders:
            find_folders(index, self._store, self._shelf)
        return choosing.class_folders(self._pattern, index)

    # --- samples

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.reader.entries)

    def __getitem__(self, index: int) -> Any:
        """One sample.

        Raises:
            SampleError: it cannot be read, decoded or transformed.
            SkippedError: the same, under ``on_error="skip"``.
        """
        index = self.reader.checked(index)
        if self.reader.maker.gives_bytes and (data := self.reader.hit(index)) is not None:
            return data
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples, fetched at once; a bad one is left out under ``on_error="skip"``.

        Raises:
            SampleError: as for a single one.
            SkippedError: all are to be skipped.
        """
        indices = [self.reader.checked(index) for index in indices]
        items = [item for _, item in self.reader.good(indices)]
        if indices and not items:
            raise self.reader.skipped(indices[-1])
        return items

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """What is applied to ``x``."""
        return self.reader.maker.transform

    @transform.setter
    def transform(self, transform: Callable[[Any], Any] | None) -> None:
        self.reader.maker.transform = transform

    @property
    def target_transform(self) -> Callable[[Any], Any] | None:
        """What is applied to ``y``."""
        return self.reader.maker.target_transform

    @target_transform.setter
    def target_transform(self, transform: Callable[[Any], Any] | None) -> None:
        self.reader.maker.target_transform = transform

    def warm(self, progress: bool = True) -> dict[str, int]:  # noqa: FBT001, FBT002  as users of progress bars expect
        """Bring every sample into the cache, with its siblings, as far as there is room.

        If nothing is known of siblings yet, one sample is made to learn which ones samples have.

        Args:
            progress: show a bar.

        Returns:
            How many ``files`` are in the cache now, and the ``bytes`` that came over the network for it.
        """
        if self.reader.cached is None:
            tell_once(f"{self.location}: nothing to warm, since this dataset has no cache")
            return {"files": 0, "bytes": 0}
        return warm(self.reader, self.reader.cached, progress=progress)

    def stats(self) -> dict[str, float]:
        """What this dataset and its copies in all workers have done so far.

        ``hits`` and ``misses`` (files), ``bytes_from_cache`` and ``bytes_from_network``, ``requests`` in all and by
        kind, ``retries``, ``seconds_waited`` before retries, ``stored``, ``passed_through`` (read, but not kept),
        ``damaged``, ``skipped``, and ``changed`` (another version came than was listed).
        """
        totals: dict[str, float] = dict(self.reader.files.counters.totals())
        totals["seconds_waited"] = totals.pop("waited_ns") / 1e9
        totals["requests"] = sum(number for name, number in totals.items() if name.startswith("requests_"))
        return totals

    def __repr__(self) -> str:
        """A short description for people."""
        return f"{type(self).__name__}({self.location!r}, {len(self)} samples, cache={self.reader.files.cache!r})"


def _refuse(options: Mapping[str, Any], what: str, *names: str) -> None:
    for name in names:
        if name in options:
            raise TypeError(f"{what} takes no {name}=: the samples and their labels are given already")


def _check_option(name: str, value: object, *options: str) -> None:
    if value not in options:
        raise ValueError(f"{name} is {', '.join(map(repr, options[:-1]))} or {options[-1]!r}, not {value!r}")


def _check_functions(**functions: object) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} is a function or None, not {function!r}")
