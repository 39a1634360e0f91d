"""The handle that `save` returns: how far a checkpoint has come, and a way to wait for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.stores import LEVELS, reaches

if TYPE_CHECKING:
    from ai4os_data.checkpoint.names import CheckpointName
    from ai4os_data.stores import Durability, Level


class SaveProgress:
    """The progress of a save.

    Attributes:
        level: the level reached so far; None before the first one, and after a loss.
        error: the error that has ended it, if any.
        changed: notified of each change.
    """

    def __init__(self) -> None:
        self.level: Level | None = None
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def reach(self, level: Level) -> None:
        """Record that it has reached a level."""
        with self.changed:
            if not reaches(self.level, level):
                self.level = level
            self.error = None
            self.changed.notify_all()

    def end(self, error: BaseException, *, is_lost: bool = False) -> None:
        """Record that it has ended with an error, or that the checkpoint is lost."""
        with self.changed:
            self.level = None if is_lost else self.level
            self.error = error
            self.changed.notify_all()


class SaveHandle:
    """One save on its way.

    Args:
        step: of the training.
        name: of the checkpoint; None if another rank writes it.
        progress: how far it has come.
        wanted: the level that `wait` waits for by default.
        best: the highest level that the store can reach; None as long as that is not known.

    Attributes:
        step: of the training.
        name: the checkpoint's folder within the run's; None on ranks that do not write.
        stall_s: how long the training thread was held up in all.
        waited_s: the part of it that was a wait for the save before, because the local disk was slower than the saves.
    """

    def __init__(
        self, step: int, name: CheckpointName | None, progress: SaveProgress, wanted: Level, best: Level | None = None
    ) -> None:
        self.step = step
        self.name = name
        self.stall_s = 0.0
        self.waited_s = 0.0
        self._wanted: Level = wanted
        self._best = best
        self._progress = progress

    @property
    def level(self) -> Level | None:
        """The level reached so far: ``"local"``, ``"mount"``, ``"confirmed"``; None before, and once it was dropped."""
        return self._progress.level

    @property
    def error(self) -> BaseException | None:
        """The error that has ended it, if any."""
        return self._progress.error

    def wait(self, level: Durability | None = None, timeout_s: float | None = None) -> Level | None:
        """Wait until a level is reached, and return the present level. On ranks that do not write it returns at once.

        Args:
            level: ``"local"``, ``"mount"``, ``"confirmed"``, or ``"best"`` for the highest that the store can reach; by
                default the run's ``durability``.
            timeout_s: for ever by default.

        Raises:
            DurabilityError: the store can never reach the level.
            DroppedError: a newer checkpoint took its place.
            DeadlineError: the time is over; the save continues.
            StorageError: what it failed with.
        """
        wanted = self._checked(level)
        if self.name is None:
            return None
        until = None if timeout_s is None else time.monotonic() + timeout_s
        progress = self._progress
        with progress.changed:
            while not reaches(progress.level, wanted) and progress.error is None:
                left_s = None if until is None else until - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise errors.DeadlineError(
                        f"step {self.step} is {progress.level or 'not yet local'} after {timeout_s:g} s, and not yet "
                        f"{wanted}; it goes on"
                    )
                progress.changed.wait(left_s)
            if not reaches(progress.level, wanted) and progress.error is not None:
                raise progress.error
            return progress.level

    def _checked(self, level: Durability | None) -> Level:
        """The level to wait for."""
        if level is None:
            return self._wanted
        if level == "best":
            return self._best or self._wanted
        if level not in LEVELS:
            raise ValueError(f"a level is 'local', 'mount', 'confirmed' or 'best', not {level!r}")
        if self._best is not None and not reaches(self._best, level):
            raise errors.DurabilityError(
                f"step {self.step} will be {self._best} at most, and never {level}: that is as far as its store can be "
                "trusted. Wait for 'best', or save over WebDAV ('rshare:path') where credentials are there"
            )
        return level

    def __repr__(self) -> str:
        """A short description for people."""
        return f"SaveHandle(step={self.step}, level={self.level!r}, error={self.error!r})"
