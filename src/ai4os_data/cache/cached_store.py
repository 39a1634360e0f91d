"""A store seen through the cache: what is there comes from the local disk, what is not is fetched once and kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Literal

from ai4os_data import errors, telemetry
from ai4os_data.bodies import Body, MemoryBody
from ai4os_data.cache.claims import Claim
from ai4os_data.cache.fingerprints import fingerprint
from ai4os_data.cache.objects import Held, LocalPath, digest, intact, is_at, share
from ai4os_data.cache.temporaries import write_temporary
from ai4os_data.packed import PackedList, Same, packed_texts
from ai4os_data.ranged import BLOCK_BYTES, RangedFile
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data.cache.disk_cache import DiskCache
    from ai4os_data.stores.base import Entry, Fetched, Store

Prepare = Callable[[bytes], bytes]
Drift = Literal["error", "warn", "refresh"]
Result = tuple["Entry", bytes | errors.StorageError]
Arrival = tuple["Entry", list[bytes] | errors.StorageError]
Hit = Callable[[Held], list[bytes] | None]

IN_MEMORY_BYTES = 16 * 1024 * 1024


class CachedStore:
    """Reads whole files of a store through a cache.

    Args:
        store: where the files are.
        cache: where they are kept; None reads every time.
        prepare: turns a file's bytes into those that are kept and given out.
        prepare_version: tells what ``prepare`` makes from what another one makes; by default it follows from its
            code.
        on_drift: what to do about a file that is another version than the listed one: raise, warn, or take it.
        counters: where hits, misses and bytes are counted.
    """

    def __init__(
        self,
        store: Store,
        cache: DiskCache | None,
        *,
        prepare: Prepare | None = None,
        prepare_version: str | int | None = None,
        on_drift: Drift = "warn",
        counters: telemetry.Counters | None = None,
    ) -> None:
        self.store = store
        self.cache = cache
        self.on_drift: Drift = on_drift
        self.counters = counters or telemetry.Counters()
        self._prepare = prepare
        self._prepared_as = (
            "" if prepare is None else str(prepare_version if prepare_version is not None else fingerprint(prepare))
        )
        self._newer: dict[str, Entry] = {}
        self._listed: Sequence[Entry] = ()
        self._names: PackedList[str] = Same("", 0)

    def __setstate__(self, state: dict[str, object]) -> None:
        """Be known to the cache in this process too."""
        self.__dict__.update(state)
        newer = self._newer
        self.keep_together(self._listed)
        self._newer = newer

    def keep_together(self, entries: Sequence[Entry]) -> None:
        """Read these from now on; under the policy ``"auto"`` they do not evict each other while this object lives."""
        self._listed = entries
        self._names = Same("", 0)
        self._newer = {}  # than an earlier listing
        if self.cache is not None and entries:
            self.cache.keep_together(self._names_together)

    @property
    def names(self) -> Sequence[str]:
        """The digests of the entries that are read from here, in their order."""
        self._names_together()
        return self._names

    def _names_together(self) -> Iterable[str]:
        if len(self._names) != len(self._listed):
            self._names = packed_texts([self.name(entry) for entry in self._listed])
        return self._names

    def name(self, entry: Entry) -> str:
        """The digest under which an entry is cached: another version of the file has another one."""
        return digest(self.store.identity, entry.key, entry.version, str(entry.size_bytes), self._prepared_as)

    # --- reading

    def read(self, entry: Entry) -> bytes:
        """One whole file.

        Raises:
            StorageError: it cannot be read.
        """
        for _, result in self.read_many([entry]):
            if isinstance(result, errors.StorageError):
                raise result
            return result
        raise AssertionError  # read_many gives a result for each entry

    def hit(self, held: Held) -> bytes | None:
        """The bytes of a cached file, checked; None where it is damaged, or was evicted."""
        row = self.counters.row
        try:
            data = self.cache.read(held)  # type: ignore[union-attr]  # without a cache nothing is held
        except FileNotFoundError:
            return None
        if data is None:
            row[telemetry.DAMAGED] += 1
            return None
        row[telemetry.HITS] += 1
        row[telemetry.BYTES_FROM_CACHE] += held.size_bytes
        return data

    def read_many(self, entries: Iterable[Entry]) -> Iterator[Result]:
        """Read whole files: hits at once, misses as they arrive. Each comes with its bytes or with its own error."""
        entries = [self._newer.get(entry.key, entry) for entry in entries] if self._newer else list(entries)
        if self.cache is None:
            for entry, result in self._fetch_claimed(entries, {}):
                yield entry, _joined(result)
            return
        missing = []
        known = self.cache.objects.known
        for entry in entries:
            name = self.name(entry)
            held = known.get(name)
            data = self.hit(held) if held is not None else None
            if data is None:
                missing.append((entry, name))
            else:
                yield entry, data
        for entry, result in self._fetch(missing, self._hit_pieces):
            yield entry, _joined(result)

    def open(self, entry: Entry) -> IO[bytes]:
        """An entry as a seekable binary file: from the cache, or, where it is large, in ranges from the store.

        Raises:
            StorageError: it cannot be read.
        """
        entry = self._newer.get(entry.key, entry)
        if entry.size_bytes <= IN_MEMORY_BYTES or self._prepare is not None:
            return io.BytesIO(self.read(entry))
        held = self.cache.objects.find(self.name(entry)) if self.cache is not None else None
        if held is not None and intact(held):
            with suppress(FileNotFoundError):
                file = open(held.path, "rb")  # noqa: SIM115  the caller's to close
                try:
                    share(file.fileno(), held.path)
                    is_there = is_at(file.fileno(), held.path)
                except OSError:
                    is_there = False
                if not is_there:
                    file.close()
                    raise FileNotFoundError(held.path)
                self.counters.row[telemetry.HITS] += 1
                return file
        return self._open_ranges(entry)

    def _open_ranges(self, entry: Entry) -> IO[bytes]:
        """A file that is read in ranges, of the version that it has now if that may be used; its beginning is read."""
        with suppress(errors.ChangedError):
            return self._begun_ranges(entry)
        served = self.store.stat(entry.key)
        if (error := self._drift(entry, served)) is not None:
            raise error
        return self._begun_ranges(served)

    def _begun_ranges(self, entry: Entry) -> IO[bytes]:
        file = io.BufferedReader(RangedFile(self.store, entry), buffer_size=BLOCK_BYTES)
        file.peek(1)
        return file

    def path(self, entry: Entry, data: bytes | None = None) -> LocalPath:
        """A local file with an entry's bytes, that stays while the path object lives.

        Args:
            entry: as it was listed.
            data: its bytes, where they have been read already.

        Raises:
            StorageError: it cannot be read.
        """
        entry = self._newer.get(entry.key, entry)
        if (local := self._local_path(entry)) is not None:
            return LocalPath.in_place(local)
        if self.cache is not None:
            name = self.name(entry)
            was_read = data is not None
            for _ in range(3):  # it can be evicted between our look and our pin
                held = self.cache.objects.find(name)
                if held is not None:
                    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                        path = LocalPath.in_cache(held.path)
                        if intact(held):
                            if not was_read:  # then it has been counted
                                self.counters.row[telemetry.HITS] += 1
                                self.counters.row[telemetry.BYTES_FROM_CACHE] += held.size_bytes
                            self.cache.note_use(held)
                            return path
                    self.cache.objects.discard(held)
                data = self.read(entry) if data is None else data
                was_read = True
                if self.cache.objects.find(name) is None:
                    return _temporary(data, entry.key)
        return _temporary(self.read(entry) if data is None else data, entry.key)

    def _local_path(self, entry: Entry) -> str | None:
        """Where a file lies on a disk of this machine, if it is wanted as it is there."""
        return self.store.local_path(entry) if self.cache is None and self._prepare is None else None

    def holds(self, entry: Entry) -> bool:
        """Whether an entry is on the local disk, in the cache or as the file itself."""
        if self.cache is None:
            return self._local_path(entry) is not None
        held = self.cache.objects.find(self.name(entry))
        return held is not None and self.cache.objects.is_there(held)

    def forget(self, entry: Entry) -> None:
        """Remove an entry from the cache: after a write, since some servers give a quick rewrite the same ETag."""
        if self.cache is not None and (held := self.cache.objects.find(self.name(entry))) is not None:
            self.cache.objects.discard(held)

    def fill(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, int | errors.StorageError]]:
        """Bring entries into the cache; each comes with the bytes that were fetched for it, 0 where it was there."""
        for entry, result in self._fetch(((entry, self.name(entry)) for entry in entries), self._unread):
            yield entry, result if isinstance(result, errors.StorageError) else sum(map(len, result))

    def fetch_ahead(
        self, entries: Iterable[Entry], is_wanted: Callable[[], bool] = lambda: True
    ) -> Iterator[tuple[Entry, int | errors.StorageError]]:
        """As `fill`, for entries that nobody waits for: those that another process is fetching are left out.

        Where the cache has no more room, or the last one is not wanted any more, no further entry is taken.

        Args:
            entries: as they were listed, or newer.
            is_wanted: asked when nobody else can fetch the entry that was taken last: somebody may have fetched it
                meanwhile, and found no room to keep it.
        """
        wanted = ((entry, self.name(entry)) for entry in entries)
        for entry, result in self._fetch(wanted, self._unread, ahead=is_wanted):
            yield entry, result if isinstance(result, errors.StorageError) else sum(map(len, result))

    def absent(self, entries: Iterable[Entry], *, trusting: bool = False, noting: bool = False) -> list[Entry]:
        """Those entries that are not in the cache.

        Args:
            entries: as they were listed, or newer.
            trusting: take what this process has found there before for still being there, without a look at the disk.
            noting: remember that those that are there will be used, so that an eviction in the meantime spares them.
        """
        if self.cache is None:
            return list(entries)
        objects = self.cache.objects
        absent = []
        for entry in entries:
            current = self._newer.get(entry.key, entry) if self._newer else entry
            name = self.name(current)
            held = objects.known.get(name) or objects.find(name)
            if held is None or not (trusting or objects.is_there(held)):
                absent.append(current)
            elif noting:
                self.cache.note_use(held)
        return absent

    # --- fetching

    def _fetch(
        self, wanted: Iterable[tuple[Entry, str]], hit: Hit, *, ahead: Callable[[], bool] | None = None
    ) -> Iterator[Arrival]:
        """Fetch what no other process is fetching; then take what the others have fetched.

        Entries are claimed one by one as the store has room for them, so that its connections are never idle.
        """
        assert self.cache is not None
        claims: dict[str, Claim] = {}
        found_here: list[Arrival] = []
        theirs: list[tuple[Entry, str]] = []

        def absent() -> Iterator[Entry]:
            for entry, name in wanted:
                found = self._claim_or_hit(name, hit)
                if isinstance(found, list):
                    found_here.append((entry, found))
                    continue
                if found is None:
                    theirs.append((entry, name))
                    continue
                if isinstance(found, Claim) and self._has_room(found, entry, ahead):
                    claims[entry.key] = found
                elif ahead is not None:  # it could not be kept, and would come in vain
                    return
                yield entry

        try:
            for arrival in self._fetch_claimed(absent(), claims):
                yield from found_here
                found_here.clear()
                yield arrival
        finally:
            for claim in claims.values():
                self.cache.give_up(claim)
        yield from found_here
        # Only now, with no claim of our own left: two processes never wait for each other.
        for entry, name in theirs if ahead is None else ():
            yield from self._take_over(entry, name, hit)

    def _claim_or_hit(self, name: str, hit: Hit) -> Claim | Held | list[bytes] | Literal["unwritable"] | None:
        """A claim as `_claim` gives it, or the pieces of an entry that is there by now."""
        found = self._claim(name)
        if isinstance(found, Held):
            pieces = hit(found)
            return self._claim(name) if pieces is None else pieces
        return found

    def _claim(self, name: str) -> Claim | Held | Literal["unwritable"] | None:
        assert self.cache is not None
        try:
            return self.cache.claim(name)
        except OSError as error:
            self.cache.trouble(error)
            return "unwritable"

    def _has_room(self, claim: Claim, entry: Entry, is_wanted: Callable[[], bool] | None = None) -> bool:
        """Reserve room for an entry, or end its claim. For what `prepare` makes, it is reserved later."""
        assert self.cache is not None
        if (is_wanted is None or is_wanted()) and (
            self._prepare is not None or self.cache.reserve(claim, entry.size_bytes)
        ):
            return True
        self.cache.give_up(claim)
        return False

    def _hit_pieces(self, held: Held) -> list[bytes] | None:
        data = self.hit(held)
        return None if data is None else [data]

    def _unread(self, held: Held) -> list[bytes] | None:
        """What a hit gives where only its being there counts."""
        assert self.cache is not None
        return [] if self.cache.objects.is_there(held) else None

    def _take_over(self, entry: Entry, name: str, hit: Hit) -> Iterator[Arrival]:
        """What another process was fetching: from the cache, or by ourselves where it gave up."""
        assert self.cache is not None
        try:
            found = self.cache.wait(name)
        except OSError as error:
            self.cache.trouble(error)
            found = None
        if isinstance(found, Held) and (pieces := hit(found)) is not None:
            yield entry, pieces
            return
        claims = {entry.key: found} if isinstance(found, Claim) and self._has_room(found, entry) else {}
        try:
            yield from self._fetch_claimed([entry], claims)
        finally:
            for claim in claims.values():
                self.cache.give_up(claim)

    def _fetch_claimed(self, entries: Iterable[Entry], claims: dict[str, Claim]) -> Iterator[Arrival]:
        """Fetch entries, and keep those that there are claims for; each claim ends as its entry comes."""

        def body(entry: Entry) -> Body:
            is_large = entry.size_bytes > IN_MEMORY_BYTES and self._prepare is None
            return claims.get(entry.key, MemoryBody()) if is_large else MemoryBody()

        for entry, outcome in self.store.read_many(entries, body):
            self.counters.row[telemetry.MISSES] += 1
            claim = claims.get(entry.key)
            result: list[bytes] | errors.StorageError
            if isinstance(outcome, errors.StorageError):
                result = outcome
            else:
                error = self._drift(entry, outcome.entry)
                result = error or self._taken(entry, outcome, claim)
                claim = None if error is None else claim
            self._give_up(claim)
            claims.pop(entry.key, None)  # not before: an interrupt would leave it to nobody
            yield entry, result

    def _taken(self, entry: Entry, fetched: Fetched, claim: Claim | None) -> list[bytes] | errors.PreparationError:
        """The bytes that came, in pieces; they are kept, and the claim ends."""
        body = fetched.body
        is_listed = fetched.entry is entry or entry.is_same_version(fetched.entry)
        if isinstance(body, Claim):
            return [self._large_taken(entry, body, is_listed=is_listed)]
        assert isinstance(body, MemoryBody)
        pieces = body.chunks
        if self._prepare is not None:
            prepared = self._prepared(entry, body.getvalue())
            if isinstance(prepared, errors.StorageError):
                self._give_up(claim)
                return prepared
            pieces = [prepared]
        if claim is not None and is_listed:
            try:
                kept = self._keep(claim, entry.key, pieces)
            except BaseException:
                self._give_up(claim)
                raise
            self.counters.row[telemetry.STORED if kept else telemetry.PASSED_THROUGH] += 1
        else:  # another version than the claim is for is kept when it is asked for next
            self._give_up(claim)
            self.counters.row[telemetry.PASSED_THROUGH] += 1
        return pieces

    def _prepared(self, entry: Entry, data: bytes) -> bytes | errors.PreparationError:
        """What the user's function makes of a file."""
        assert self._prepare is not None
        where = f"{self.store.location}: prepare(…) of {entry.key!r}"
        try:
            prepared: object = self._prepare(data)
        except Exception as error:  # noqa: BLE001  it may raise anything, and it is about this file alone
            failure = errors.PreparationError(f"{where} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure
        if not isinstance(prepared, (bytes, bytearray, memoryview)):
            return errors.PreparationError(f"{where} gave {type(prepared).__name__}; it has to turn bytes into bytes")
        return bytes(prepared)

    def _give_up(self, claim: Claim | None) -> None:
        if claim is not None:
            assert self.cache is not None
            self.cache.give_up(claim)

    def _drift(self, listed: Entry, served: Entry) -> errors.ChangedError | None:
        """What to say of a file that is another version than the listed one; nothing where it may be used."""
        if served is listed or listed.is_same_version(served):
            return None
        what = (
            f"{self.store.location}: {listed.key!r} is not the version that was listed: {listed.size_bytes:,} bytes "
            f"then, {served.size_bytes:,} now"
        )
        if self.on_drift == "error":
            return errors.ChangedError(f"{what}. Open the dataset again, call refresh(), or choose on_drift='warn'")
        if self.on_drift == "warn":
            tell_once(f"{what}. The new version is used; refresh() lists anew")
        self._newer[listed.key] = served
        return None

    def _keep(self, claim: Claim, key: str, pieces: list[bytes]) -> bool:
        """Store an entry, and end its claim; tells whether there was room."""
        assert self.cache is not None
        try:
            if self._prepare is not None and not self.cache.reserve(claim, sum(map(len, pieces))):
                self.cache.give_up(claim)
                return False
            claim.write_pieces(pieces)
            return self.cache.store(claim, key) is not None
        except OSError as error:
            self.cache.trouble(error)
            self.cache.give_up(claim)
            return False

    def _large_taken(self, entry: Entry, claim: Claim, *, is_listed: bool) -> bytes:
        """The bytes of an answer that went straight into the staged file, which is kept if the disk took it all."""
        assert self.cache is not None
        data = claim.content()
        kept = None
        if claim.error is not None:
            self.cache.trouble(claim.error)
        try:
            if is_listed and claim.is_whole:
                kept = self.cache.store(claim, entry.key)
        except OSError as error:
            self.cache.trouble(error)
        if kept is None:
            self.cache.give_up(claim)
        self.counters.row[telemetry.STORED if kept else telemetry.PASSED_THROUGH] += 1
        return data


def _joined(result: list[bytes] | errors.StorageError) -> bytes | errors.StorageError:
    if isinstance(result, errors.StorageError):
        return result
    return result[0] if len(result) == 1 else b"".join(result)


def _temporary(data: bytes, key: str) -> LocalPath:
    return LocalPath.temporary(write_temporary(data, key))
