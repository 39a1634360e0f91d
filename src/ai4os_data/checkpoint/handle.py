"""What `save` hands out: how far a checkpoint has come, and a way to wait for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.stores import LEVELS, reaches

if TYPE_CHECKING:
    from ai4os_data.checkpoint.names import CheckpointName
    from ai4os_data.stores import Durability, Level


class SaveHandle:
    """One save on its way.

    Args:
        step: of the training.
        name: of the checkpoint; None where another rank writes it.
        wanted: the level that `wait` waits for by default.
        best: the highest level that the store can reach; any, as long as nothing is known.

    Attributes:
        step: of the training.
        name: the checkpoint's folder within the run's; None on ranks that do not write.
        stall_s: how long the training thread was held up in all.
        waited_s: how much of that it waited for the save before, because the local disk was slower than the saves.
    """

    def __init__(self, step: int, name: CheckpointName | None, wanted: Level, best: Level | None = None) -> None:
        self.step = step
        self.name = name
        self.stall_s = 0.0
        self.waited_s = 0.0
        self._wanted: Level = wanted
        self._best = best
        self._level: Level | None = None
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def level(self) -> Level | None:
        """The level reached so far: ``"local"``, ``"mount"``, ``"confirmed"``; None before, and once it was dropped."""
        return self._level

    @property
    def error(self) -> BaseException | None:
        """What has put an end to it, if anything has."""
        return self._error

    def wait(self, level: Durability | None = None, timeout_s: float | None = None) -> Level | None:
        """Wait until a level is reached; the level it has then. On ranks that do not write it returns at once.

        Args:
            level: ``"local"``, ``"mount"``, ``"confirmed"``, or ``"best"`` for the highest that the store can reach; by
                default the run's ``durability``.
            timeout_s: for ever by default.

        Raises:
            DurabilityError: the store can never reach the level.
            DroppedError: a newer checkpoint took its place.
            DeadlineError: the time is over, and it goes on.
            StorageError: what it failed with.
        """
        wanted = self._checked(level)
        if self.name is None:
            return None
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not reaches(self._level, wanted) and self._error is None:
                left_s = None if until is None else until - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise errors.DeadlineError(
                        f"step {self.step} is {self._level or 'not yet local'} after {timeout_s:g} s, and not yet "
                        f"{wanted}; it goes on"
                    )
                self._changed.wait(left_s)
            if not reaches(self._level, wanted) and self._error is not None:
                raise self._error
            return self._level

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

    def reach(self, level: Level) -> None:
        """Record that it has come so far."""
        with self._changed:
            if not reaches(self._level, level):
                self._level = level
            self._error = None
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Record that it goes no further."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def lose(self, error: errors.LostError) -> None:
        """Record that it is nowhere any more."""
        with self._changed:
            self._level, self._error = None, error
            self._changed.notify_all()

    def drop(self, newer: int) -> None:
        """Record that a newer one takes its place, so that it is nowhere."""
        with self._changed:
            self._level = None
            self._error = errors.DroppedError(
                f"step {self.step} was dropped: step {newer} came before it could be sent; give it more time between "
                "saves, or wait() for those that have to stay"
            )
            self._changed.notify_all()

    def __repr__(self) -> str:
        """Tell how far it is."""
        return f"SaveHandle(step={self.step}, level={self._level!r}, error={self._error!r})"
