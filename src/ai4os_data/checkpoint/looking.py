"""A run seen from outside, beside its training or after it: nothing is written, locked, sent or removed.

A `StorageCheckpoint` would take over what a dead process has left in the spool, and send it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.checkpoint.attempts import DELETED, MOST_BYTES, levels_in, read_file
from ai4os_data.checkpoint.history import History
from ai4os_data.checkpoint.manifest import Manifest
from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName
from ai4os_data.checkpoint.run_folder import folder_of_run
from ai4os_data.checkpoint.spool import Spooled
from ai4os_data.checkpoint.spool_directory import foreseen_directory
from ai4os_data.checkpoint.verifying import verify_on_store
from ai4os_data.http import MemoryBody
from ai4os_data.machine import ownership
from ai4os_data.stores import Fetched, is_on_the_server, modified_ns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ai4os_data.checkpoint.history import Seen
    from ai4os_data.checkpoint.restored import Checkpoint
    from ai4os_data.stores import Entry, Store


class Found(NamedTuple):
    """A checkpoint, as a listing shows it.

    Attributes:
        checkpoint: its description.
        modified_s: when it was complete, in seconds since the epoch; None if nothing says so.
        is_whole: whether each of its files is there with its size.
    """

    checkpoint: Checkpoint
    modified_s: float | None
    is_whole: bool


class SpooledRun:
    """What waits in the spool of this machine for its upload, or has been uploaded.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def attempts(self) -> list[AttemptName]:
        """Every attempt that has a folder here."""
        if not ownership.is_own_folder(self._folder):
            return []
        return sorted(name for path in self._folder.glob("*") if (name := AttemptName.parse(path.name)))

    def entries(self) -> list[Spooled]:
        """Complete checkpoints, newest last. A training may add and remove some meanwhile."""
        found = []
        for attempt in self.attempts():
            folder = self._folder / str(attempt)
            levels = levels_in(folder)
            for path in sorted(folder.glob("step-*")):
                name = CheckpointName.parse(f"{attempt}/{path.name}")
                level = "local" if name is None else levels.get(name, "local")
                if name is None or level == DELETED or not ownership.is_own_folder(path):
                    continue
                with suppress(errors.IntegrityError, OSError):
                    manifest = Manifest.from_json(read_file(path / MANIFEST, MOST_BYTES), name)
                    found.append(Spooled(manifest, path, level))
        return found


class RunView:
    """The checkpoints of a run, as they were when this was made.

    Args:
        store: of the run.
        environ: says where the spool is.

    Raises:
        StorageError: the store cannot be listed.
    """

    def __init__(self, store: Store, environ: Mapping[str, str]) -> None:
        self._store = store
        self._spool = SpooledRun(folder_of_run(foreseen_directory(environ)[0], store.identity))
        self._manifests: dict[CheckpointName, Manifest] = {}
        self._history = History(store, self._spool, self._manifests)
        for name, seen in list(self._history.seen.items()):
            if seen.spooled is not None and is_on_the_server(seen.spooled.level) and not seen.files:
                del self._history.seen[name]  # it had arrived, and was removed there
        self._read_manifests()

    def _read_manifests(self) -> None:
        """Read them all at once: a run with milestones may have hundreds."""
        names = {seen.files[MANIFEST]: seen.name for seen in self._on_store()}
        for entry, outcome in self._store.read_many(list(names)):
            # What does not come, or is damaged, is found wanting where it is asked for.
            if isinstance(outcome, Fetched) and isinstance(outcome.body, MemoryBody):
                with suppress(errors.IntegrityError):
                    self._manifests[names[entry]] = Manifest.from_json(outcome.body.getvalue(), names[entry])

    def _on_store(self) -> list[Seen]:
        return [seen for seen in self._history.committed() if MANIFEST in seen.files]

    def found(self) -> list[Found]:
        """Every checkpoint with a readable manifest, newest first."""
        return [self._found(one) for one in self._history.listed()]

    def _found(self, checkpoint: Checkpoint) -> Found:
        seen, changed = self._history.seen[checkpoint.name], None
        if checkpoint.on_store:
            changed = modified_ns(self._store, seen.files[MANIFEST])
        elif seen.spooled is not None:
            with suppress(FileNotFoundError):
                changed = (seen.spooled.folder / MANIFEST).stat().st_mtime_ns
        is_whole = not checkpoint.on_store or seen.has(self._history.manifest(seen).files)
        return Found(checkpoint, None if changed is None else changed / 1e9, is_whole)

    def latest(self) -> CheckpointName | None:
        """The one that a restore would try first; None if there is none."""
        latest = self._history.latest()
        return None if latest is None else latest.name

    def candidates(self) -> list[CheckpointName]:
        """Those that a restore would try, best first, as far as they are on the storage."""
        return [seen.name for seen in self._history.candidates() if MANIFEST in seen.files]

    def on_store(self) -> list[CheckpointName]:
        """Those on the storage that have a manifest, be it a good one, newest first."""
        return [seen.name for seen in self._on_store()]

    def unfinished(self) -> list[CheckpointName]:
        """Those on the storage that have no manifest: uploads under way, or cut off."""
        return [seen.name for seen in self._history.uncommitted()]

    def manifest(self, name: CheckpointName) -> Manifest:
        """The manifest of one on the storage.

        Raises:
            IntegrityError: it is damaged.
            StorageError: it cannot be read.
        """
        seen = self._history.seen[name]
        return self._manifests.get(name) or self._history.manifest_on_store(seen)

    def files(self, name: CheckpointName) -> dict[str, Entry]:
        """What the storage has in the folder of one."""
        return self._history.seen[name].files

    def wrong_with(self, name: CheckpointName) -> str | None:
        """Compare each byte of one on the storage with its manifest; what is wrong, or None.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            verify_on_store(self._store, self._history, self._history.seen[name])
        except (errors.IntegrityError, errors.NotFoundError) as error:
            return str(error)
        return None
