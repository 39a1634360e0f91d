"""The run that a training saves to, and checkpoints of it and of earlier runs as local files that Lightning loads."""

from __future__ import annotations

import atexit
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ai4os_data.checkpoint import Checkpoint, CheckpointName, StorageCheckpoint, read_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ai4os_data.checkpoint import Restored
    from ai4os_data.locations import Remote

OURS = "ai4os_data"  # our part of a checkpoint of Lightning's


class Runs:
    """The run of a training, and other runs that are read. A pickle opens them anew.

    Attributes:
        location: of the training's run.
        current: the training's run; None until it is opened.
    """

    def __init__(self, location: str, remote: str | Remote | None, options: Mapping[str, Any]) -> None:
        self.location = location
        self.current: StorageCheckpoint | None = None
        self._remote, self._options = remote, options
        self._files: dict[CheckpointName, Path] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        return {**self.__dict__, "current": None, "_files": {}}

    def begin(self, *, anew: bool) -> StorageCheckpoint:
        """Open the training's run, unless `newest` has; ``anew`` if that was before there was a process group."""
        if anew:
            self.end()
        if self.current is None:
            self.current = self._opened(self.location)
        return self.current

    def end(self, timeout_s: float | None = None) -> None:
        """Close the training's run.

        Raises:
            StorageError: what failed.
        """
        run, self.current = self.current, None
        if run is not None:
            run.close(timeout_s)

    def list(self, location: str) -> list[Checkpoint]:
        """Every checkpoint at a location."""
        with self._read(location) as run:
            return run.list()

    def newest(self) -> str | None:
        """The file that a training resumes from; its run stays open for the training."""
        if self.current is None:
            self.current = self._opened(self.location, alone=True)
        return self._file(self.current, self.current.restore())

    def last(self) -> str | None:
        """The file of the newest checkpoint; nothing is resumed from it."""
        with self._opened(self.location, alone=True) as run:
            return self._file(run, run.restore())

    def file_of(self, location: str, name: CheckpointName) -> str | None:
        """The file of one checkpoint."""
        with self._read(location) as run:
            return self._known(name) or self._file(run, read_named(run.saver, name))

    def _opened(self, location: str, *, alone: bool = False) -> StorageCheckpoint:
        return StorageCheckpoint(location, remote=self._remote, alone=alone, **self._options)

    @contextmanager
    def _read(self, location: str) -> Iterator[StorageCheckpoint]:
        """A run to read from; during a training its own, which knows the uploads on their way."""
        if location == self.location and self.current is not None:
            yield self.current
        else:
            with self._opened(location, alone=True) as run:
                yield run

    def _known(self, name: CheckpointName) -> str | None:
        path = self._files.get(name)
        return str(path) if path is not None and path.exists() else None  # the spool may have been cleaned

    def _file(self, run: StorageCheckpoint, restored: Restored | None) -> str | None:
        """A checkpoint as a local file, which is removed when this process ends."""
        if restored is None:
            return None
        if (known := self._known(restored.name)) is not None:
            return known
        folder = run.saver.room.for_download(restored.size_bytes)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        ours = {**restored.get(OURS, {"random": []}), "name": str(restored.name)}
        path = folder / f"{restored.name.attempt}-{restored.name.folder}.ckpt"
        torch.save({**restored, OURS: ours}, path)
        self._files[restored.name] = path
        return str(path)
