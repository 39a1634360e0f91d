"""A store seen through the cache: what is there comes from the local disk, what is not is fetched once and kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import IO, TYPE_CHECKING, Literal

from ai4os_data import errors, telemetry
from ai4os_data.cache.claims import Claim
from ai4os_data.cache.disk_cache import session_of
from ai4os_data.cache.entries import Held, digest, intact
from ai4os_data.cache.fingerprints import fingerprint
from ai4os_data.cache.live import live_in
from ai4os_data.cache.objects import share
from ai4os_data.cache.paths import LocalPath
from ai4os_data.cache.staged import allocated
from ai4os_data.cache.temporaries import TemporaryBody, write_temporary
from ai4os_data.http import Body, LargeBody, MemoryBody, NoBody
from ai4os_data.machine import PackedList, Same, is_at, packed_texts
from ai4os_data.stores import BLOCK_BYTES, RangedFile
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.cache.disk_cache import DiskCache
    from ai4os_data.stores import Entry, Fetched, Store

Prepare = Callable[[bytes], bytes]
Drift = Literal["error", "warn", "refresh"]
As = Literal["bytes", "file", "nothing"]
"""How a large file is wanted: in memory, as a local file, or merely in the cache."""
Result = tuple["Entry", bytes | errors.StorageError]
Content = list[bytes] | Held | TemporaryBody | NoBody
"""What came: pieces in memory, a file of the cache, a file outside of it, or nothing that anybody reads."""
Arrival = tuple["Entry", Content | errors.StorageError]
Hit = Callable[[Held], Content | None]

_MOST_CHANGES = 8  # of one file, one after the other
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
        self._listing: str | None = None
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
        if self.cache is not None and entries:
            live_in(self.cache.directory).keep_together(self._names_together)

    def begin(self, listing: str, newer: Mapping[str, Entry]) -> None:
        """Read by a listing from now on.

        Args:
            listing: tells it from any other. What a file of it was found to have become holds for it alone: a later
                listing may find the file as it was.
            newer: files that are known to have changed since, by their keys.
        """
        self._listing = listing
        self._newer = dict(newer)

    @property
    def names(self) -> Sequence[str]:
        """The digests of the entries that are read from here, in their order."""
        if len(self._names) != len(self._listed):
            newer = self._newer
            entries = (newer.get(entry.key, entry) for entry in self._listed) if newer else self._listed
            self._names = packed_texts([self.name(entry) for entry in entries])
        if self._listing is None or self.cache is None or not (newer_names := session_of(self.cache).known.newer):
            return self._names
        return [newer_names.get(self._link(name), name) for name in self._names]

    def _names_together(self) -> Iterable[str]:
        return self.names

    def _link(self, name: str) -> str:
        """What stands for a file of this listing, where it is noted what the file has become."""
        return digest("newer", name, self._listing or "")

    def _found_newer(self, name: str) -> Held | None:
        """The cached file of what a file was found to have become since it was listed, if that may be used."""
        if self._listing is None or self.on_drift == "error" or self.cache is None:
            return None
        session = session_of(self.cache)
        for _ in range(_MOST_CHANGES):
            newer = session.known.newer.get(self._link(name)) if session.known.newer else None
            if newer is None:
                return None
            if (held := session.known.find(newer)) is not None and session.objects.is_there(held):
                return held
            name = newer
        return None

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
            data = session_of(self.cache).read(held)  # type: ignore[arg-type]  # without a cache nothing is held
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
        for entry in entries:
            held = self.known(entry)
            data = self.hit(held) if held is not None else None
            if data is None:
                missing.append((entry, self.name(entry)))
            else:
                yield entry, data
        for entry, result in self._fetch(missing, self._hit_pieces):
            yield entry, _joined(result)

    def known(self, entry: Entry) -> Held | None:
        """The cached file of an entry, or of what it has become, as far as this process has heard of it."""
        assert self.cache is not None
        name = self.name(self._newer.get(entry.key, entry) if self._newer else entry)
        return session_of(self.cache).known.find(name) or self._found_newer(name)

    def open(self, entry: Entry) -> IO[bytes]:
        """An entry as a seekable binary file: from the cache, or, where it is large, in ranges from the store.

        Raises:
            StorageError: it cannot be read.
        """
        entry = self._newer.get(entry.key, entry)
        if entry.size_bytes <= IN_MEMORY_BYTES or self._prepare is not None:
            return io.BytesIO(self.read(entry))
        held = self._held(entry) if self.cache is not None else None
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
        found: Content | None = None if data is None else [data]
        for _ in range(3):  # it can be evicted between our look and our pin
            path = None if self.cache is None else self._pinned(entry, is_counted=found is not None)
            if path is not None:
                return path
            if not isinstance(found, list):
                found = self._brought(entry, past_cache=self.cache is None)
                entry = self._newer.get(entry.key, entry)
            if isinstance(found, TemporaryBody):
                return LocalPath.temporary(found.take())
            if isinstance(found, list) and (self.cache is None or self._held(entry) is None):
                break
        if not isinstance(found, list):  # the cache lost it each time
            found = self._brought(entry, past_cache=True)
        if isinstance(found, TemporaryBody):
            return LocalPath.temporary(found.take())
        assert isinstance(found, list)
        return LocalPath.temporary(write_temporary(found, entry.key))

    def _pinned(self, entry: Entry, *, is_counted: bool) -> LocalPath | None:
        """The path of a cached file, if it is there and whole."""
        assert self.cache is not None
        held = self._held(entry)
        if held is None:
            return None
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            path = LocalPath.in_cache(held.path)
            if intact(held):
                if not is_counted:
                    self.counters.row[telemetry.HITS] += 1
                    self.counters.row[telemetry.BYTES_FROM_CACHE] += held.size_bytes
                session_of(self.cache).budget.note_use(held.name)
                return path
        session_of(self.cache).objects.discard(held)
        return None

    def _brought(self, entry: Entry, *, past_cache: bool) -> Content:
        """An entry as it was fetched, for its path: in the cache, or in a file outside of it, or small."""
        fetched = (
            self._fetch_claimed([entry], {}, "file")
            if past_cache
            else self._fetch([(entry, self.name(entry))], self._there, as_="file")
        )
        for _, result in fetched:
            if isinstance(result, errors.StorageError):
                raise result
            return result
        raise AssertionError  # there is a result for each entry

    def _held(self, entry: Entry) -> Held | None:
        """The cached file of an entry, or of what it has become."""
        assert self.cache is not None
        name = self.name(entry)
        held = session_of(self.cache).known.find(name)
        return held if held is not None else self._found_newer(name)

    def _local_path(self, entry: Entry) -> str | None:
        """Where a file lies on a disk of this machine, if it is wanted as it is there."""
        return self.store.local_path(entry) if self.cache is None and self._prepare is None else None

    def holds(self, entry: Entry) -> bool:
        """Whether an entry is on the local disk, in the cache or as the file itself."""
        if self.cache is None:
            return self._local_path(entry) is not None
        held = self._held(entry)
        return held is not None and session_of(self.cache).objects.is_there(held)

    def forget(self, entry: Entry) -> None:
        """Remove an entry from the cache: after a write, since some servers give a quick rewrite the same ETag."""
        if self.cache is not None and (held := session_of(self.cache).known.find(self.name(entry))) is not None:
            session_of(self.cache).objects.discard(held)

    def fill(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, int | errors.StorageError]]:
        """Bring entries into the cache; each comes with the bytes that were fetched for it, 0 where it was there."""
        wanted = ((entry, self.name(entry)) for entry in entries)
        for entry, result in self._fetch(wanted, self._unread, as_="nothing"):
            yield entry, result if isinstance(result, errors.StorageError) else _length(result)

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
        for entry, result in self._fetch(wanted, self._unread, as_="nothing", ahead=is_wanted):
            yield entry, result if isinstance(result, errors.StorageError) else _length(result)

    def absent(self, entries: Iterable[Entry], *, trusting: bool = False, noting: bool = False) -> list[Entry]:
        """Those entries that are not in the cache.

        Args:
            entries: as they were listed, or newer.
            trusting: take what this process has found there before for still being there, without a look at the disk.
            noting: remember that those that are there will be used, so that an eviction in the meantime spares them.
        """
        if self.cache is None:
            return list(entries)
        session = session_of(self.cache)
        absent = []
        for entry in entries:
            current = self._newer.get(entry.key, entry) if self._newer else entry
            held = session.known.recent.get(self.name(current)) or self._held(current)
            if held is None or not (trusting or session.objects.is_there(held)):
                absent.append(current)
            elif noting:
                session_of(self.cache).budget.note_use(held.name)
        return absent

    # --- fetching

    def _fetch(
        self,
        wanted: Iterable[tuple[Entry, str]],
        hit: Hit,
        *,
        as_: As = "bytes",
        ahead: Callable[[], bool] | None = None,
    ) -> Iterator[Arrival]:
        """Fetch what no other process is fetching; then take what the others have fetched.

        Entries are claimed one by one as the store has room for them, so that its connections are never idle.
        """
        assert self.cache is not None
        sorted_ = _Sorted()
        try:
            for arrival in self._fetch_claimed(self._absent(wanted, hit, as_, ahead, sorted_), sorted_.claims, as_):
                yield from sorted_.here
                sorted_.here.clear()
                yield arrival
        finally:
            for claim in sorted_.claims.values():
                session_of(self.cache).give_up(claim)
        yield from sorted_.here
        # Only now, with no claim of our own left: two processes never wait for each other.
        for entry, name in sorted_.theirs if ahead is None else ():
            yield from self._take_over(entry, name, hit, as_)

    def _absent(
        self,
        wanted: Iterable[tuple[Entry, str]],
        hit: Hit,
        as_: As,
        ahead: Callable[[], bool] | None,
        sorted_: _Sorted,
    ) -> Iterator[Entry]:
        """Those entries that are to be fetched here; the others are sorted out."""
        for entry, name in wanted:
            found = self._claim_or_hit(name, hit)
            if isinstance(found, Claim):
                found = self._with_room(found, entry, as_, ahead)
            if found is None:
                sorted_.theirs.append((entry, name))
            elif not isinstance(found, (Claim, str)):
                sorted_.here.append((entry, found))
            elif isinstance(found, Claim):
                sorted_.claims[entry.key] = found
                yield entry
            elif ahead is None:
                yield entry
            else:  # it could not be kept, and would come in vain
                return

    def _claim_or_hit(self, name: str, hit: Hit) -> Claim | Content | Literal["unwritable"] | None:
        """A claim as `_claim` gives it, or what a hit gives of an entry that is there by now."""
        for _ in range(2):  # it may be damaged
            found = self._claim(name)
            if not isinstance(found, Held):
                return self._newer_or_claim(name, found, hit) if isinstance(found, Claim) else found
            if (content := hit(found)) is not None:
                return content
        return "unwritable"  # and so it is read past the cache

    def _newer_or_claim(self, name: str, claim: Claim, hit: Hit) -> Claim | Content:
        """What is there of a file that was found to have changed since it was listed; else the claim."""
        held = self._found_newer(name)
        content = hit(held) if held is not None else None
        if content is None:
            return claim
        self._give_up(claim)
        return content

    def _claim(self, name: str) -> Claim | Held | Literal["unwritable"] | None:
        assert self.cache is not None
        try:
            return session_of(self.cache).claim(name)
        except OSError as error:
            session_of(self.cache).budget.trouble(error)
            return "unwritable"

    def _with_room(
        self, claim: Claim, entry: Entry, as_: As, ahead: Callable[[], bool] | None
    ) -> Claim | NoBody | Literal["unwritable"]:
        """A claim that there is room for; else a large file that nobody reads is not fetched at all."""
        if self._has_room(claim, entry, ahead):
            return claim
        if ahead is not None or as_ != "nothing" or not self._is_large(entry):
            return "unwritable"
        self.counters.row[telemetry.PASSED_THROUGH] += 1
        return NoBody()

    def _has_room(self, claim: Claim, entry: Entry, is_wanted: Callable[[], bool] | None = None) -> bool:
        """Reserve room for an entry, or end its claim. For what `prepare` makes, it is reserved later."""
        assert self.cache is not None
        if (is_wanted is None or is_wanted()) and (
            self._prepare is not None or session_of(self.cache).budget.reserve(claim, entry.size_bytes)
        ):
            return True
        session_of(self.cache).give_up(claim)
        return False

    def _hit_pieces(self, held: Held) -> Content | None:
        data = self.hit(held)
        return None if data is None else [data]

    def _unread(self, held: Held) -> Content | None:
        """What a hit gives where only its being there counts."""
        assert self.cache is not None
        return [] if session_of(self.cache).objects.is_there(held) else None

    def _there(self, held: Held) -> Content | None:
        """What a hit gives where its path is wanted."""
        assert self.cache is not None
        return held if session_of(self.cache).objects.is_there(held) else None

    def _take_over(self, entry: Entry, name: str, hit: Hit, as_: As) -> Iterator[Arrival]:
        """What another process was fetching: from the cache, or by ourselves where it gave up."""
        assert self.cache is not None
        try:
            found = session_of(self.cache).wait(name)
        except OSError as error:
            session_of(self.cache).budget.trouble(error)
            found = None
        if isinstance(found, Claim):
            newer = self._newer_or_claim(name, found, hit)
            content = None if isinstance(newer, Claim) else newer
        else:
            content = hit(found) if found is not None else None
        if content is not None:
            yield entry, content
            return
        claims = {entry.key: found} if isinstance(found, Claim) and self._has_room(found, entry) else {}
        try:
            yield from self._fetch_claimed([entry], claims, as_)
        finally:
            for claim in claims.values():
                session_of(self.cache).give_up(claim)

    def _is_large(self, entry: Entry) -> bool:
        """Whether an entry's bytes go to a file as they come."""
        return entry.size_bytes > IN_MEMORY_BYTES and self._prepare is None

    def _fetch_claimed(
        self, entries: Iterable[Entry], claims: dict[str, Claim], as_: As = "bytes"
    ) -> Iterator[Arrival]:
        """Fetch entries, and keep those that there are claims for; each claim ends as its entry comes."""

        def body(entry: Entry) -> Body:
            if not self._is_large(entry):
                return MemoryBody()
            claim = claims.get(entry.key)
            if claim is None:
                return _outside(entry, as_)
            claim.make_instead = partial(_outside, entry, as_)
            return claim

        for entry, outcome in self.store.read_many(entries, body):
            self.counters.row[telemetry.MISSES] += 1
            claim = claims.get(entry.key)
            result: Content | errors.StorageError
            try:
                if isinstance(outcome, errors.StorageError):
                    result = outcome
                else:
                    result = self._drift(entry, outcome.entry) or self._taken(entry, outcome, claim, as_)
            finally:
                self._give_up(claim)
            claims.pop(entry.key, None)  # not before: an interrupt would leave it to nobody
            yield entry, result

    def _taken(self, entry: Entry, fetched: Fetched, claim: Claim | None, as_: As) -> Content | errors.PreparationError:
        """What came; it is kept, under the version that it is of."""
        body = fetched.body
        result: Content
        if isinstance(body, MemoryBody):
            result = body.chunks
            if self._prepare is not None:
                prepared = self._prepared(entry, body.getvalue())
                if isinstance(prepared, errors.StorageError):
                    return prepared
                result = [prepared]
        elif isinstance(body, Claim):
            if body.error is not None:
                assert self.cache is not None
                session_of(self.cache).budget.trouble(body.error)
            result = _of_large(body.instead or body, as_)
        else:
            result = _of_large(body, as_)
        kept = self._kept(entry, fetched, claim, result)
        self.counters.row[telemetry.STORED if kept else telemetry.PASSED_THROUGH] += 1
        return kept if kept is not None and as_ != "bytes" and self._is_large(entry) else result

    def _kept(self, entry: Entry, fetched: Fetched, claim: Claim | None, content: Content) -> Held | None:
        """The cached file of what came; None if there was no room, or somebody else is filling it."""
        if claim is None:
            return None
        if fetched.entry is entry or entry.is_same_version(fetched.entry):
            return self._stored(claim, entry.key, fetched.body, content)
        name = self.name(fetched.entry)
        newer = self._claim(name)
        if isinstance(newer, Claim):
            claim.hand_over(newer)
            try:
                newer = self._stored(newer, entry.key, fetched.body, content)
            finally:
                self._give_up(newer if isinstance(newer, Claim) else None)
        if not isinstance(newer, Held):
            return None
        if self._listing is not None and self.cache is not None:
            # Before the claim ends: who waits for it finds this.
            session_of(self.cache).known.note_newer(self._link(claim.name), name)
        return newer

    def _stored(self, claim: Claim, key: str, body: Body, content: Content) -> Held | None:
        """The cached file, and the claim has ended; None if there is no room on the disk."""
        assert self.cache is not None
        try:
            if isinstance(body, Claim):
                return session_of(self.cache).store(claim, key) if claim.is_whole else None
            if not isinstance(content, list):
                return None
            size_bytes = sum(map(len, content))
            if allocated(size_bytes) > claim.reserved_bytes and not session_of(self.cache).budget.reserve(
                claim, size_bytes
            ):
                return None
            claim.write_pieces(content)
            return session_of(self.cache).store(claim, key)
        except OSError as error:
            session_of(self.cache).budget.trouble(error)
            return None

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
        if claim is not None and claim.is_ours:  # it has ended where its entry was stored
            assert self.cache is not None
            session_of(self.cache).give_up(claim)

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
        self.counters.row[telemetry.CHANGED] += 1
        if self.on_drift == "warn" and self.counters.is_first("a file changed"):  # of all files, in all processes
            log.warning(
                "%s. The new version is used. Other files that changed are not logged: stats()['changed'] counts them, "
                "refresh() lists anew",
                what,
            )
        self._newer[listed.key] = served
        return None


class _Sorted:
    """Entries that are wanted, by where they come from.

    Attributes:
        claims: of those that are fetched here, by key.
        here: those that were found in the cache.
        theirs: those that another process is fetching.
    """

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self.here: list[Arrival] = []
        self.theirs: list[tuple[Entry, str]] = []


def _outside(entry: Entry, as_: As) -> Body:
    """What takes a large answer that the cache has no room for."""
    if as_ == "bytes":
        return LargeBody()
    return TemporaryBody(entry.key) if as_ == "file" else NoBody()


def _of_large(body: Body, as_: As) -> Content:
    """A large answer in the form that was asked for."""
    if as_ != "bytes":
        if isinstance(body, (TemporaryBody, NoBody)):
            return body
        nothing = NoBody()  # it is in the staged file, and is kept
        nothing.length = body.length
        return nothing
    assert isinstance(body, (Claim, LargeBody))
    return [body.content() if isinstance(body, Claim) else body.getvalue()]


def _length(content: Content) -> int:
    """How many bytes came."""
    if isinstance(content, list):
        return sum(map(len, content))
    return content.size_bytes if isinstance(content, Held) else content.length


def _joined(result: Content | errors.StorageError) -> bytes | errors.StorageError:
    if isinstance(result, errors.StorageError):
        return result
    assert isinstance(result, list)
    return result[0] if len(result) == 1 else b"".join(result)
