"""What is to be copied, and how; and what a directory lacks for it."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from ai4os_data.cache import Preparation
    from ai4os_data.datasets import Index, Pattern
    from ai4os_data.folders.journal import Journal
    from ai4os_data.folders.target import Target
    from ai4os_data.stores import Entry, Store
    from ai4os_data.telemetry import Counters


@dataclass(frozen=True)
class Job:
    """What is to be copied, and how.

    Attributes:
        store: where the files are.
        pattern: which of them.
        preparation: what is made of each; None for nothing.
        limit_bytes: the most that the copy may take; None for what the disk has.
        overwrite: whether files that are not ours may be replaced.
        counters: where requests and bytes are counted.
    """

    store: Store
    pattern: Pattern
    preparation: Preparation | None
    limit_bytes: int | None
    overwrite: bool
    counters: Counters

    @property
    def prepared_as(self) -> str:
        """What distinguishes what is made of the files; empty for nothing."""
        return "" if self.preparation is None else self.preparation.name

    @property
    def name(self) -> str:
        """What distinguishes it from other jobs with the same record."""
        return repr((self.pattern.given, self.prepared_as))


class Outdated(NamedTuple):
    """A file that is to be fetched, and the local one whose place it may take."""

    entry: Entry
    over: os.stat_result | None


@dataclass
class Difference:
    """What a directory lacks beside a listing.

    Attributes:
        outdated: what is to be fetched.
        kept: the local sizes of the files that are right as they are, by their keys.
        strangers: the keys of files that are not ours, where ours belong.
        blocked: the names of what can never be replaced by a file or a folder of ours.
        vanished: the keys of files of ours that are on the storage no more.
        left: those of them that were changed here, and so stay.
        gone: those of them that are not here either.
        bare: folders of ours that are on the storage no more, the deepest first.
        lacking: folders in which there is nothing, and which are to be made.
    """

    outdated: list[Outdated] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    @property
    def replaced(self) -> list[str]:
        """The keys of the files that are there in another version."""
        return [one.entry.key for one in self.outdated if one.over is not None]

    @property
    def may_turn(self) -> bool:
        """Whether what blocks may go with what vanishes: a file became a folder on the storage, or a folder a file."""
        return bool(self.blocked and (self.vanished or self.bare))


def difference(job: Job, listed: Index, positions: Iterable[int], journal: Journal, target: Target) -> Difference:
    """Compare a directory with a listing, by one look at each file."""
    found = Difference()
    wanted = frozenset(positions)
    entries = [entry for position, entry in enumerate(listed.entries) if position in wanted]
    hollow = listed.hollow if job.pattern.is_everything else ()
    _compare_ways(found, {*(entry.key.rpartition("/")[0] for entry in entries), *hollow}, target)
    found.lacking = [folder for folder in hollow if target.found(folder) is None]
    for entry in entries:
        here = target.found(entry.key)
        if here is None:
            found.outdated.append(Outdated(entry, None))
        else:
            _compare(found, job, entry, here, journal)
    _compare_vanished(found, listed, journal, target)
    return found


def _compare(found: Difference, job: Job, entry: Entry, here: os.stat_result, journal: Journal) -> None:
    written = journal.settle(entry.key, here)
    if written is not None and written.is_of(entry, job.prepared_as) and written.local_bytes == here.st_size:
        found.kept[entry.key] = here.st_size
    elif stat.S_ISDIR(here.st_mode):
        found.blocked.append(entry.key)
    elif written is not None or job.overwrite:
        found.outdated.append(Outdated(entry, here))
    else:
        found.strangers.append(entry.key)


def _compare_ways(found: Difference, folders: Iterable[str], target: Target) -> None:
    """Find what is in the way of folders: a file, or a link, which is never followed."""
    clear = {""}
    for folder in sorted(folders):
        if (way := target.in_the_way(folder, clear)) is not None and way not in found.blocked:
            found.blocked.append(way)


def _compare_vanished(found: Difference, listed: Index, journal: Journal, target: Target) -> None:
    hidden = {one.key for one in listed.unreadable}  # what cannot be read has not vanished
    for key in journal.files:
        if key in found.kept or key in listed.by_key or (hidden and _is_in(key, hidden)):
            continue
        here = target.found(key)
        if here is None:
            found.gone.append(key)
        else:
            (found.left if journal.settle(key, here) is None else found.vanished).append(key)
    if journal.folders:
        there = {*with_those_above(listed.keys), *listed.hollow, *with_those_above(listed.hollow)}
        bare = [folder for folder in journal.folders - there if not (hidden and _is_in(folder, hidden))]
        found.bare = sorted(bare, key=len, reverse=True)


def _is_in(key: str, folders: set[str]) -> bool:
    """Whether a key is one of some, or below one."""
    while key not in folders:
        key, slash, _ = key.rpartition("/")
        if not slash:
            return False
    return True


def with_those_above(keys: Iterable[str]) -> set[str]:
    """All folders above some keys."""
    above: set[str] = set()
    for key in keys:
        folder = key.rpartition("/")[0]
        while folder and folder not in above:
            above.add(folder)
            folder = folder.rpartition("/")[0]
    return above
