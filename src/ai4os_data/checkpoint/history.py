"""The checkpoints of a run, on the server and in the spool, in the order in which they are tried.

The newest attempt comes first, and in it the highest step. Then follows the checkpoint that this attempt was resumed
from, and those before it. So an abandoned branch does not come back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ai4os_data import errors
from ai4os_data.checkpoint.manifest import Manifest
from ai4os_data.checkpoint.names import COMMITTED, MANIFEST, AttemptName, CheckpointName
from ai4os_data.checkpoint.restored import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ai4os_data.checkpoint.manifest import FileFacts
    from ai4os_data.checkpoint.spool import Spooled
    from ai4os_data.stores import Entry, Store


class Spooling(Protocol):
    """What this machine has of a run."""

    def attempts(self) -> list[AttemptName]:
        """Every attempt that has a folder here."""

    def entries(self) -> list[Spooled]:
        """Complete checkpoints, newest last."""


@dataclass
class Seen:
    """A folder whose name is that of a checkpoint.

    Attributes:
        name: of the checkpoint.
        files: the store's files in it, by name.
        spooled: the copy on this machine, if there is one.
    """

    name: CheckpointName
    files: dict[str, Entry] = field(default_factory=dict)
    spooled: Spooled | None = None

    @property
    def is_committed(self) -> bool:
        """Whether it has a manifest, even a damaged one."""
        return self.spooled is not None or MANIFEST in self.files

    def has(self, files: Mapping[str, FileFacts]) -> bool:
        """Whether the store lists each of these files with its size."""
        listed = {file: entry.size_bytes for file, entry in self.files.items()}
        return all(listed.get(file) == facts.size_bytes for file, facts in files.items())

    @property
    def signature(self) -> tuple[tuple[str, int, str], ...]:
        """A value that changes when somebody writes to the folder."""
        return tuple(sorted((name, entry.size_bytes, entry.version) for name, entry in self.files.items()))


class History:
    """The checkpoints of a run, as one listing shows them.

    Args:
        store: of the run.
        spool: of this machine.
        manifests: those that are known already; they never change. Manifests that are read are added.

    Raises:
        StorageError: the store cannot be listed.
    """

    def __init__(self, store: Store, spool: Spooling, manifests: dict[CheckpointName, Manifest]) -> None:
        self._store = store
        self._manifests = manifests
        self.seen: dict[CheckpointName, Seen] = {}
        self.marked: set[AttemptName] = set()  # attempts that have had a whole checkpoint on the store
        self._attempts = set(spool.attempts())
        for entry in store.list_below(""):
            self._take(entry)
        for spooled in spool.entries():
            self.seen.setdefault(spooled.name, Seen(spooled.name)).spooled = spooled

    def _take(self, entry: Entry) -> None:
        folder, _, file = entry.key.rpartition("/")
        name = CheckpointName.parse(folder)
        if file == COMMITTED and (attempt := AttemptName.parse(folder)) is not None:
            self.marked.add(attempt)
            self._attempts.add(attempt)
        elif name is not None:
            self.seen.setdefault(name, Seen(name)).files[file] = entry
            self._attempts.add(name.attempt)

    @property
    def highest_attempt(self) -> int:
        """The number of the last attempt; 0 if there was none."""
        return max((attempt.number for attempt in self._attempts), default=0)

    @property
    def has_some(self) -> bool:
        """Whether there is a checkpoint, or the store says that there was one."""
        return bool(self.marked) or any(seen.is_committed for seen in self.seen.values())

    def committed(self) -> list[Seen]:
        """Every checkpoint that has a manifest, newest first."""
        return [seen for seen in self._newest_first(self.seen.values()) if seen.is_committed]

    def uncommitted(self) -> list[Seen]:
        """Folders without a manifest, newest first: the upload was cut off, or the manifest was lost."""
        return [seen for seen in self._newest_first(self.seen.values()) if not seen.is_committed]

    def manifest(self, seen: Seen) -> Manifest:
        """The manifest of a checkpoint.

        Raises:
            IntegrityError: its manifest is damaged, or not there.
            StorageError: it cannot be read.
        """
        if seen.name in self._manifests:
            return self._manifests[seen.name]
        if seen.spooled is not None:
            return seen.spooled.manifest
        if MANIFEST not in seen.files:
            raise errors.IntegrityError("it has no manifest: it was not sent to its end, or the manifest was removed")
        manifest = self._manifests[seen.name] = self.manifest_on_store(seen)
        return manifest

    def manifest_on_store(self, seen: Seen) -> Manifest:
        """The manifest as it is on the store now, whatever is known of it.

        Raises:
            IntegrityError: it is damaged, or not there.
            StorageError: it cannot be read.
        """
        try:
            data = self._store.read(seen.files[MANIFEST].key)
        except (errors.NotFoundError, errors.ChangedError) as error:
            raise errors.IntegrityError("its manifest is being removed, or written") from error
        return Manifest.from_json(data, seen.name)

    def candidates(self) -> Iterator[Seen]:
        """Candidates for a restore, best first, without abandoned branches; some may have no manifest."""
        left = self._newest_first(self.seen.values())
        while left:
            attempt = left[0].name.attempt
            own = [seen for seen in left if seen.name.attempt == attempt]
            yield from own
            rest = [seen for seen in left if seen.name.attempt != attempt]
            left = self._before(self.parent_of(own), rest)

    def latest(self) -> Checkpoint | None:
        """The first candidate with a readable manifest; None if there is none."""
        return next((found for seen in self.candidates() if (found := self._described(seen)) is not None), None)

    def listed(self) -> list[Checkpoint]:
        """Every checkpoint with a readable manifest, newest first."""
        return [found for seen in self.committed() if (found := self._described(seen)) is not None]

    def readable(self, seen: Seen) -> Manifest | None:
        """The manifest of a checkpoint; None if it is damaged, or not there."""
        try:
            return self.manifest(seen)
        except errors.IntegrityError:
            return None

    def _described(self, seen: Seen) -> Checkpoint | None:
        if (manifest := self.readable(seen)) is None:
            return None
        return Checkpoint(
            seen.name,
            dict(manifest.metrics),
            manifest.size_bytes,
            manifest.parent,
            MANIFEST in seen.files,
            seen.spooled is not None,
        )

    def parent_of(self, own: Iterable[Seen]) -> CheckpointName | None:
        """The checkpoint that an attempt was resumed from, by any readable manifest of it."""
        return next((manifest.parent for seen in own if (manifest := self.readable(seen)) is not None), None)

    def _before(self, parent: CheckpointName | None, rest: list[Seen]) -> list[Seen]:
        """The candidates after those of an attempt."""
        if parent is None:
            return rest  # it began anew, or its parent is unknown: an older checkpoint is better than none
        return [seen for seen in rest if seen.name.attempt.number < parent.attempt.number or seen.name.leads_to(parent)]

    @staticmethod
    def _newest_first(seen: Iterable[Seen]) -> list[Seen]:
        return sorted(seen, key=lambda one: (one.name.order, one.name), reverse=True)


def ancestors(history: History, parent: CheckpointName | None) -> dict[AttemptName, CheckpointName]:
    """The attempts that lead up to a checkpoint, each with its last checkpoint on that line."""
    found: dict[AttemptName, CheckpointName] = {}
    while parent is not None and parent.attempt not in found:
        found[parent.attempt] = parent
        parent = history.parent_of(seen for seen in history.committed() if seen.name.attempt == parent.attempt)
    return found


def on_store(history: History) -> dict[CheckpointName, dict[str, float]]:
    """The checkpoints that are whole on the store by its listing, newest first; each with its metrics.

    A damaged one does not count, and is left there to be examined.
    """
    metrics: dict[CheckpointName, dict[str, float]] = {}
    for seen in history.committed():
        manifest = history.readable(seen) if MANIFEST in seen.files else None
        if manifest is not None and seen.has(manifest.files):
            metrics[seen.name] = manifest.metrics
    return metrics
