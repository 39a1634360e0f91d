"""Missing files are fetched once and kept: by this process if it gets the claim, else by the one that has it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Literal

from ai4os_data import errors, telemetry
from ai4os_data.cache.claims import Claim
from ai4os_data.cache.disk_cache import session_of
from ai4os_data.cache.entries import Held
from ai4os_data.cache.staged import allocated
from ai4os_data.cache.temporaries import TemporaryBody
from ai4os_data.cache.uncached import content_of
from ai4os_data.http import Body, LargeBody, MemoryBody, NoBody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.cache.lookup import Lookup
    from ai4os_data.cache.uncached import UncachedStore
    from ai4os_data.cache.versions import WantedFile
    from ai4os_data.stores import Fetched

    _Claiming = Callable[[str], Claim | Held | "_PastCache" | None]

As = Literal["bytes", "file", "nothing"]
"""How a file is wanted: in memory, as a local file, or only in the cache."""
Content = list[bytes] | Held | TemporaryBody | NoBody
"""What came: pieces in memory, a cached file, a file outside the cache, or a body that nobody reads."""
_PastCache = Literal["past the cache"]  # it cannot be kept
Arrival = tuple["WantedFile", Content | errors.StorageError]


class Fetch:
    """Some files that are wanted in one way.

    Files are claimed one by one as the store has room for them, so that its connections are never idle. Files that
    another process is fetching come last, when this one holds no claim: two processes never wait for each other.

    Args:
        source: where files come from.
        lookup: what of them is in the cache.
        as_: how they are wanted.
        is_wanted: given for files that nobody waits for, and asked once this process alone can fetch the file that was
            taken last. Files that another process is fetching are then left out, and the first file that is no longer
            wanted, or has no room, ends the request.
    """

    def __init__(
        self, source: UncachedStore, lookup: Lookup, as_: As, is_wanted: Callable[[], bool] | None = None
    ) -> None:
        self._source = source
        self._lookup = lookup
        self._session = session_of(lookup.cache)
        self._counts = source.counters.row
        self._as = as_
        self._is_wanted = is_wanted
        self._claims: dict[WantedFile, Claim] = {}
        self._here: list[Arrival] = []  # found in the cache
        self._theirs: list[WantedFile] = []  # another process is fetching them

    def arrivals(self, files: Iterable[WantedFile]) -> Iterator[Arrival]:
        """Each file with its content or its own error."""
        yield from self._arrivals(files, self._session.claim)
        for wanted in self._theirs if self._is_wanted is None else ():
            yield from self._arrivals([wanted], self._waited)

    def _arrivals(self, files: Iterable[WantedFile], claim: _Claiming) -> Iterator[Arrival]:
        for arrival in self._fetched(self._absent(files, claim)):
            yield from self._found()
            yield arrival
        yield from self._found()

    def _found(self) -> list[Arrival]:
        found, self._here = self._here, []
        return found

    # --- who fetches it

    def _absent(self, files: Iterable[WantedFile], claim: _Claiming) -> Iterator[WantedFile]:
        """Those files that are to be fetched here."""
        for wanted in files:
            found = self._claim_or_content(self._source.name(wanted), claim)
            if isinstance(found, Claim):
                self._claims[wanted] = found  # it ends with this request, whatever happens
                if self._has_room(found, wanted):
                    yield wanted
                    continue
                self._end(wanted)
                found = "past the cache"
            if found is None:
                self._theirs.append(wanted)
            elif not isinstance(found, str):
                self._here.append((wanted, found))
            elif self._is_wanted is not None:
                return  # it could not be kept: fetching it would be in vain
            elif self._as == "nothing" and self._source.is_large(wanted):
                self._counts[telemetry.PASSED_THROUGH] += 1
                self._here.append((wanted, NoBody()))  # nobody reads it
            else:
                yield wanted

    def _claim_or_content(self, name: str, claim: _Claiming) -> Claim | Content | _PastCache | None:
        """The right to fetch an entry, or what is there by now; None if another process is fetching it."""
        for _ in range(2):  # the first one found may be damaged
            found = self._try(claim, name)
            if isinstance(found, Claim):
                return self._newer_or(found)
            if not isinstance(found, Held):
                return found
            if (content := self._content(found)) is not None:
                return content
        return "past the cache"

    def _try(self, claim: _Claiming, name: str) -> Claim | Held | _PastCache | None:
        try:
            return claim(name)
        except OSError as error:
            self._session.budget.trouble(error)
            return "past the cache"

    def _waited(self, name: str) -> Claim | Held | _PastCache:
        return self._session.wait(name) or "past the cache"

    def _newer_or(self, claim: Claim) -> Claim | Content:
        """The cached newer version of a file that has changed since it was listed; otherwise the claim."""
        try:
            held = self._lookup.newer(claim.name)
            content = self._content(held) if held is not None else None
        except BaseException:  # the claim is not yet one of this request's
            self._give_up(claim)
            raise
        if content is None:
            return claim
        self._give_up(claim)
        return content

    def _content(self, held: Held) -> Content | None:
        """The content of a cached file; None if it is not there, or damaged."""
        if self._as == "bytes":
            data = self._lookup.hit(held)
            return None if data is None else [data]
        if not self._session.objects.is_there(held):
            return None
        return held if self._as == "file" else NoBody()

    def _has_room(self, claim: Claim, wanted: WantedFile) -> bool:
        """Reserve room for a file that is still wanted. For what `prepare` makes, it is reserved later."""
        if self._is_wanted is not None and not self._is_wanted():
            return False
        is_prepared = not wanted.as_stored and self._source.preparation is not None
        return is_prepared or self._session.budget.reserve(claim, wanted.size_bytes)

    # --- fetching

    def _fetched(self, files: Iterable[WantedFile]) -> Iterator[Arrival]:
        """Fetch files, and keep those that there are claims for; each claim ends as its file comes."""
        try:
            for wanted, outcome in self._source.fetch(files, self._body):
                claim = self._claims.get(wanted)
                result = outcome if isinstance(outcome, errors.StorageError) else self._taken(wanted, outcome, claim)
                self._end(wanted)
                yield wanted, result
        finally:
            with ExitStack() as ends:  # all of them end, even if one raises
                for wanted in list(self._claims):
                    ends.callback(self._end, wanted)

    def _body(self, wanted: WantedFile) -> Body:
        """What takes the bytes of a file: those of a large one go to the disk as they come."""
        if not self._source.is_large(wanted):
            return MemoryBody()
        claim = self._claims.get(wanted)
        if claim is None:
            return self._outside(wanted)
        claim.make_instead = partial(self._outside, wanted)
        return claim

    def _outside(self, wanted: WantedFile) -> Body:
        """What takes a large answer that the cache has no room for."""
        if self._as == "bytes":
            return LargeBody()
        return TemporaryBody(wanted.key) if self._as == "file" else NoBody()

    def _taken(self, wanted: WantedFile, fetched: Fetched, claim: Claim | None) -> Content:
        """What came, after it was stored under its own version."""
        content = self._received(fetched.body)
        kept = self._kept(wanted, fetched, claim, content) if claim is not None else None
        self._counts[telemetry.STORED if kept else telemetry.PASSED_THROUGH] += 1
        return kept if kept is not None and self._as != "bytes" and self._source.is_large(wanted) else content

    def _received(self, body: Body) -> Content:
        """What a body has taken, in the form that is wanted."""
        if isinstance(body, MemoryBody):
            return body.chunks
        outer = body
        if isinstance(body, Claim):
            if body.error is not None:
                self._session.budget.trouble(body.error)
            outer = body.instead or body
        if self._as == "bytes":
            return [body.content() if isinstance(body, Claim) else content_of(body)]
        if isinstance(outer, (TemporaryBody, NoBody)):
            return outer
        nothing = NoBody()  # the bytes are in the staged file, which is kept
        nothing.length = outer.length
        return nothing

    def _kept(self, wanted: WantedFile, fetched: Fetched, claim: Claim, content: Content) -> Held | None:
        """The cached file of what came; None if there was no room, or somebody else is filling it."""
        if fetched.entry is wanted.entry or wanted.entry.is_same_version(fetched.entry):
            return self._stored(claim, wanted.key, fetched.body, content)
        name = self._source.name(wanted._replace(entry=fetched.entry))
        newer = self._try(self._session.claim, name)
        if isinstance(newer, Claim):
            other = newer
            try:
                claim.hand_over(other)
                newer = self._stored(other, wanted.key, fetched.body, content)
            finally:
                self._give_up(other)
        if not isinstance(newer, Held):
            return None
        if (link := self._source.versions.link(claim.name)) is not None:
            self._session.known.note_newer(link, name)  # before the claim ends, so that processes that wait find it
        return newer

    def _stored(self, claim: Claim, key: str, body: Body, content: Content) -> Held | None:
        """The cached file, and the claim has ended; None if there is no room on the disk."""
        try:
            if isinstance(body, Claim):
                return self._session.store(claim, key) if claim.is_whole else None
            if not isinstance(content, list):
                return None
            size_bytes = sum(map(len, content))
            if allocated(size_bytes) > claim.reserved_bytes and not self._session.budget.reserve(claim, size_bytes):
                return None
            claim.write_pieces(content)
            return self._session.store(claim, key)
        except OSError as error:
            self._session.budget.trouble(error)
            return None

    def _give_up(self, claim: Claim | None) -> None:
        if claim is not None and claim.is_ours:  # otherwise it ended when its file was stored
            self._session.give_up(claim)

    def _end(self, wanted: WantedFile) -> None:
        """End the claim on a file, if there is one."""
        self._give_up(self._claims.get(wanted))
        self._claims.pop(wanted, None)  # last: after an interrupt before this, the claim still belongs to the request
