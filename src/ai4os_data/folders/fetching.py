"""Files come, each whole and of one version; they are prepared, recorded, and appear under their names."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.folders.journal import Written
from ai4os_data.folders.parts import Part, name_of
from ai4os_data.folders.room import disk_error
from ai4os_data.folders.sampling import Prepared, what
from ai4os_data.folders.staged import StagedFile, write_staged
from ai4os_data.http import Body, MemoryBody
from ai4os_data.machine import in_threads
from ai4os_data.stores import Entry, modified_ns, read_among, read_resumed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ai4os_data.folders.job import Job, Outdated
    from ai4os_data.folders.journal import Journal
    from ai4os_data.folders.progress import Tally
    from ai4os_data.folders.sampling import Sample
    from ai4os_data.folders.target import Target
    from ai4os_data.stores import Fetched

IN_RANGES_BYTES = 16 * 1024 * 1024  # from here on, a file comes in several ranges at a time
PREPARED_IN_MEMORY_BYTES = 48 * 1024 * 1024  # of all files that are to be prepared; the others wait on the disk
_IN_MEMORY_BYTES = 1024 * 1024  # from here on, bytes go to the disk as they come


class Fetching:
    """Fetches files into a directory.

    Args:
        job: says how.
        journal: records what is written.
        target: the directory.
        tally: counts what comes.
        check: called with the size of a file before it is placed; it raises if that is too much.
        listed: all files there are.

    Attributes:
        sizes: the local size of each file that has come, by its key.
        failed: what did not come, and why.
    """

    def __init__(
        self,
        job: Job,
        journal: Journal,
        target: Target,
        tally: Tally,
        *,
        check: Callable[[int], object],
        listed: Sequence[Entry],
    ) -> None:
        self.sizes: dict[str, int] = {}
        self.failed: list[tuple[Entry, errors.StorageError]] = []
        self._job = job
        self._journal = journal
        self._target = target
        self._tally = tally
        self._check = check
        self._listed = listed
        self._over: dict[str, os.stat_result | None] = {}
        self._held: dict[str, int] = {}  # large files that are in memory, to be prepared

    def bring(self, outdated: Sequence[Outdated], sample: Sample | None) -> None:
        """Fetch files.

        Args:
            outdated: what is to come.
            sample: what of it has come already, and was prepared.

        Raises:
            LocalDiskError: the local disk cannot take it.
            OSError: the same.
        """
        self._over = {one.entry.key: one.over for one in outdated}
        entries = [one.entry for one in outdated]
        self._tally.expect(len(entries), sum(entry.size_bytes for entry in entries))
        if sample is None:
            rest = [entry for entry in entries if entry.size_bytes < IN_RANGES_BYTES]
            rest += self._bring_in_ranges([entry for entry in entries if entry.size_bytes >= IN_RANGES_BYTES])
            self._bring_many(rest)
            return
        self.failed += sample.failed
        for made in sample.prepared:
            self._tally.came(made.wanted.size_bytes)
            self._place_prepared(made)
        has_come = {made.wanted.key for made in sample.prepared} | {entry.key for entry, _ in sample.failed}
        self._bring_prepared([entry for entry in entries if entry.key not in has_come])

    # --- as they are

    def _bring_many(self, entries: Sequence[Entry]) -> None:
        """Fetch files, many at a time."""
        with closing(self._came(entries)) as came:
            for entry, fetched in came:
                self._finish(entry, fetched.entry, self._staged(fetched.body))

    def _staged(self, body: Body) -> str:
        """The path of a staged file with the bytes of an answer."""
        if isinstance(body, StagedFile):
            body.close()
            return body.path
        assert isinstance(body, MemoryBody)
        path = self._target.new_path()
        write_staged(path, body.chunks)
        return path

    def _came(self, entries: Sequence[Entry]) -> Generator[tuple[Entry, Fetched], None, None]:
        """The files that come; the others are among those that failed."""
        outcomes = read_among(self._job.store, entries, self._listed, self._body)
        with closing(outcomes) if isinstance(outcomes, Generator) else nullcontext():
            for entry, outcome in outcomes:
                if isinstance(outcome, errors.StorageError):
                    self.failed.append((entry, outcome))
                    self._held.pop(entry.key, None)
                    continue
                if isinstance(outcome.body, MemoryBody):
                    self._tally.came(outcome.body.length)
                yield entry, outcome

    def _body(self, entry: Entry) -> Body:
        if entry.size_bytes < _IN_MEMORY_BYTES:
            return MemoryBody()
        if self._job.preparation and sum(self._held.values()) + entry.size_bytes <= PREPARED_IN_MEMORY_BYTES:
            self._held[entry.key] = entry.size_bytes
            return MemoryBody()
        return StagedFile(self._target.new_path(), self._tally.came)

    def _bring_in_ranges(self, entries: Iterable[Entry]) -> list[Entry]:
        """Fetch large files, each in several ranges at a time; those that have to come in one piece are given back."""
        rest = []
        for entry in entries:
            part = Part(self._target.new_path(name_of(entry)))
            try:
                is_whole = self._is_brought(entry, part)
            except errors.StorageError as error:
                self.failed.append((entry, error))
                continue
            finally:
                part.close()
            if is_whole:
                self._finish(entry, entry, part.path)
            else:
                rest.append(entry)
            part.discard()
        return rest

    def _is_brought(self, entry: Entry, part: Part) -> bool:
        """Whether all ranges of a file are there."""
        came_bytes = sum(stop - start for start, stop in part.there.items())
        self._tally.came(came_bytes)

        def came(start: int, stop: int) -> None:
            nonlocal came_bytes
            part.came(start, stop)
            came_bytes += stop - start
            self._tally.came(stop - start)

        if read_resumed(self._job.store, entry, part.file, came, part.there) and came_bytes == entry.size_bytes:
            return True
        self._tally.came(-came_bytes)
        return False

    # --- prepared

    def _bring_prepared(self, entries: Sequence[Entry]) -> None:
        """Fetch files, and prepare them on all processors that this process may use."""
        with closing(self._came(entries)) as came, closing(in_threads(self._prepared, came)) as all_made:
            for wanted, served, made in all_made:
                self._held.pop(wanted.key, None)
                if isinstance(made, errors.PreparationError):
                    self.failed.append((wanted, made))
                else:
                    self._place_prepared(Prepared(wanted, served, made))

    def _prepared(self, arrival: tuple[Entry, Fetched]) -> tuple[Entry, Entry, bytes | errors.PreparationError]:
        assert self._job.preparation is not None
        wanted, (served, body) = arrival
        if isinstance(body, StagedFile):
            data = body.read()
            body.close()
            os.unlink(body.path)
        else:
            assert isinstance(body, MemoryBody)
            data = body.getvalue()
        return wanted, served, self._job.preparation.apply(data, what(self._job, wanted))

    def _place_prepared(self, made: Prepared) -> None:
        path = self._target.new_path()
        write_staged(path, [made.data])
        self._finish(made.wanted, made.served, path)

    # --- into its place

    def _finish(self, wanted: Entry, served: Entry, staged: str) -> None:
        """Let a file that is whole appear under its name."""
        changed_ns = modified_ns(self._job.store, served)
        if changed_ns is not None:
            os.utime(staged, ns=(changed_ns, changed_ns))
        found = os.stat(staged)
        self._check(found.st_size)
        version = (served.size_bytes, served.etag, served.modified, self._job.prepared_as)
        written = Written(*version, found.st_ino, found.st_size, found.st_mtime_ns)
        try:
            self._place(staged, wanted.key, written)
        except OSError as error:
            refusal = disk_error(self._target.root, "placing a file", error)
            if isinstance(error, errors.OverwriteError):
                refusal = error
            if not isinstance(refusal, (errors.OverwriteError, errors.NameRefusedError)):
                raise
            self.failed.append((wanted, refusal))
            os.unlink(staged)
            return
        self.sizes[wanted.key] = found.st_size
        self._tally.placed()

    def _place(self, staged: str, key: str, written: Written) -> None:
        folder = key.rpartition("/")[0]
        self._target.make_folders(folder, self._journal.add_folder)
        self._journal.add(key, written)
        try:
            self._target.place(staged, key, self._over[key])
        except FileNotFoundError:  # another copy into the same directory has removed the folder, which was empty
            self._target.forget_folders()
            self._target.make_folders(folder, self._journal.add_folder)
            self._target.place(staged, key, self._over[key])
