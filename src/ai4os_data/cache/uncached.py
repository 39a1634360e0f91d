"""Files read from their store, for a cache or without one: each whole, of one version, and prepared."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from ai4os_data import errors, telemetry
from ai4os_data.cache.entries import digest
from ai4os_data.cache.paths import LocalPath
from ai4os_data.cache.preparation import Preparation, Prepare
from ai4os_data.cache.temporaries import TemporaryBody, write_temporary
from ai4os_data.cache.versions import Drift, Versions, WantedFile
from ai4os_data.http import Body, LargeBody, MemoryBody
from ai4os_data.machine import in_threads
from ai4os_data.stores import BLOCK_BYTES, Entry, Fetched, RangedFile, local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.stores import Store

File = Entry | WantedFile
Result = tuple[WantedFile, bytes | errors.StorageError]
Outcome = tuple[WantedFile, Fetched | errors.StorageError]

IN_MEMORY_BYTES = 16 * 1024 * 1024


class UncachedStore:
    """Reads whole files of a store.

    Args:
        store: where the files are.
        prepare: turns a file's bytes into those that are given out.
        prepare_version: distinguishes the results of ``prepare`` from those of other functions; by default it follows
            from the code.
        on_drift: what to do if a file has another version than the listed one: raise, warn, or use it.
        counters: where misses and bytes are counted.
    """

    cache: None = None

    def __init__(
        self,
        store: Store,
        *,
        prepare: Prepare | None = None,
        prepare_version: str | int | None = None,
        on_drift: Drift = "warn",
        counters: telemetry.Counters | None = None,
    ) -> None:
        self.store = store
        self.counters = counters or telemetry.Counters()
        self.versions = Versions(store.location, on_drift, self.counters)
        self.preparation = Preparation.of(prepare, prepare_version)

    def current(self, file: File) -> WantedFile:
        """A file in the version that it has now, as far as this process knows."""
        entry, as_stored = file if isinstance(file, WantedFile) else (file, False)
        return WantedFile(self.versions.current(entry), as_stored)

    def name(self, file: File) -> str:
        """The digest that a file would be cached under: another version of it has another one."""
        entry, as_stored = file if isinstance(file, WantedFile) else (file, False)
        prepared_as = "" if as_stored or self.preparation is None else self.preparation.name
        return digest(self.store.identity, entry.key, entry.version, str(entry.size_bytes), prepared_as)

    def is_large(self, wanted: WantedFile) -> bool:
        """Whether the bytes of a file are so many that they are written to a local file as they come."""
        return wanted.entry.size_bytes > IN_MEMORY_BYTES and (wanted.as_stored or self.preparation is None)

    def read(self, file: File) -> bytes:
        """One whole file.

        Raises:
            StorageError: it cannot be read.
        """
        return only_result(self.read_many([file]))

    def read_many(self, files: Iterable[File]) -> Iterator[Result]:
        """Read whole files as they arrive. Each comes with its bytes or with its own error."""
        for wanted, outcome in self.fetch(map(self.current, files), self._body):
            if isinstance(outcome, Fetched):
                self.counters.row[telemetry.PASSED_THROUGH] += 1
                yield wanted, content_of(outcome.body)
            else:
                yield wanted, outcome

    def _body(self, wanted: WantedFile) -> Body:
        return LargeBody() if self.is_large(wanted) else MemoryBody()

    def fetch(self, files: Iterable[WantedFile], body: Callable[[WantedFile], Body]) -> Iterator[Outcome]:
        """Fetch files, each checked against the listed version, and prepared if it is wanted so.

        Args:
            files: taken one by one, as the store has room for them.
            body: makes what takes the bytes of a file.
        """
        under_way: dict[str, WantedFile] = {}
        again: list[WantedFile] = []

        def entries() -> Iterator[Entry]:
            for wanted in files:
                if wanted.key in under_way:  # it is wanted in two forms
                    again.append(wanted)
                else:
                    under_way[wanted.key] = wanted
                    yield wanted.entry

        def accepted() -> Iterator[Outcome]:
            for entry, outcome in self.store.read_many(entries(), lambda entry: body(under_way[entry.key])):
                self.counters.row[telemetry.MISSES] += 1
                wanted = under_way[entry.key]
                yield wanted, self._accepted(wanted, outcome)
                del under_way[entry.key]

        yield from accepted() if self.preparation is None else in_threads(self._prepared, accepted())
        if again:
            yield from self.fetch(again, body)

    def _accepted(self, wanted: WantedFile, outcome: Fetched | errors.StorageError) -> Fetched | errors.StorageError:
        """What came, if its version may be used."""
        if isinstance(outcome, errors.StorageError):
            return outcome
        return self.versions.check(wanted.entry, outcome.entry) or outcome

    def _prepared(self, came: Outcome) -> Outcome:
        """What came, in the form that is wanted. It is called by several threads."""
        wanted, outcome = came
        if wanted.as_stored or self.preparation is None or not isinstance(outcome, Fetched):
            return came
        if not isinstance(outcome.body, MemoryBody):
            return came
        what = f"{self.store.location}: prepare(…) of {wanted.key!r}"
        prepared = self.preparation.apply(outcome.body.getvalue(), what)
        if isinstance(prepared, errors.StorageError):
            return wanted, prepared
        body = MemoryBody()
        body.write(prepared)
        return wanted, Fetched(outcome.entry, body)

    def open(self, file: File) -> IO[bytes]:
        """A file as a seekable binary file; a large one is read in ranges.

        Raises:
            StorageError: it cannot be read.
        """
        wanted = self.current(file)
        return self.open_ranges(wanted) if self.is_large(wanted) else io.BytesIO(self.read(wanted))

    def open_ranges(self, wanted: WantedFile) -> IO[bytes]:
        """A file that is read in ranges, of the version that it has now if that may be used; its beginning is read."""
        with suppress(errors.ChangedError):
            return self._begun_ranges(wanted.entry)
        served = self.store.stat(wanted.key)
        if (error := self.versions.check(wanted.entry, served)) is not None:
            raise error
        return self._begun_ranges(served)

    def _begun_ranges(self, entry: Entry) -> IO[bytes]:
        file = io.BufferedReader(RangedFile(self.store, entry), buffer_size=BLOCK_BYTES)
        file.peek(1)
        return file

    def path(self, file: File, data: bytes | None = None) -> LocalPath:
        """A local file with a file's bytes, that stays while the path object lives.

        Args:
            file: the file.
            data: its bytes, if they have been read already.

        Raises:
            StorageError: it cannot be read.
        """
        wanted = self.current(file)
        if (local := self._local_path(wanted)) is not None:
            return LocalPath.in_place(local)
        return self.temporary_path(wanted) if data is None else LocalPath.temporary(write_temporary([data], wanted.key))

    def temporary_path(self, wanted: WantedFile) -> LocalPath:
        """A file of its own with what is fetched."""
        is_large = self.is_large(wanted)
        for _, outcome in self.fetch([wanted], lambda _: TemporaryBody(wanted.key) if is_large else MemoryBody()):
            if isinstance(outcome, errors.StorageError):
                raise outcome
            self.counters.row[telemetry.PASSED_THROUGH] += 1
            body = outcome.body
            path = body.take() if isinstance(body, TemporaryBody) else write_temporary([content_of(body)], wanted.key)
            return LocalPath.temporary(path)
        raise AssertionError  # there is an outcome for each file

    def _local_path(self, wanted: WantedFile) -> str | None:
        """Where a file lies on a disk of this machine, if it is wanted as it is there."""
        return local_path(self.store, wanted.entry) if wanted.as_stored or self.preparation is None else None

    def holds(self, file: File) -> bool:
        """Whether a file lies on the local disk."""
        return self._local_path(self.current(file)) is not None

    def forget(self, file: File) -> None:
        """Do nothing: no file is kept."""


def only_result(results: Iterator[Result]) -> bytes:
    """The bytes of the one file that was asked for.

    Raises:
        StorageError: it could not be read.
    """
    for _, result in results:
        if isinstance(result, errors.StorageError):
            raise result
        return result
    raise AssertionError  # there is a result for each file


def content_of(body: Body) -> bytes:
    """What came, in one piece of memory."""
    assert isinstance(body, (MemoryBody, LargeBody))
    return body.getvalue()
