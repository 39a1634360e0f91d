"""The plugin's saves on their way: older checkpoints are removed only when a newer one is on the server."""

from __future__ import annotations

import os
import posixpath
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data import errors
from ai4os_data.checkpoint import MANIFEST, CheckpointName, StorageCheckpoint, finish_runs
from ai4os_data.http import PASSING, Patience, passes
from ai4os_data.lightning.paths import is_shown_as_taken, shown_paths
from ai4os_data.stores import Underway, expunge, is_on_the_server, open_store, reaches
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.checkpoint import SaveHandle
    from ai4os_data.locations import Remote

_MOST_IN_FLIGHT = 2
_USUALLY_ARRIVED_S = 20.0  # after this time, `close` decides how long to wait


class _Sending(NamedTuple):
    """A save on its way."""

    run: StorageCheckpoint
    handle: SaveHandle
    number: int
    older: set[CheckpointName]  # the checkpoints before it, removed when this one has arrived

    @property
    def is_through(self) -> bool:
        """Whether it has arrived or failed."""
        return self.handle.error is not None or reaches(self.handle.level, self.run.saver.best_level)


class Outgoing:
    """The saves of one plugin by location. A pickle begins in another process with nothing on its way.

    Attributes:
        loaded: the loaded checkpoint of each location; it stays, so that there is always one to resume from.
    """

    def __init__(self, remote: str | Remote | None, options: Mapping[str, Any]) -> None:
        self.loaded: dict[str, CheckpointName] = {}
        self._remote = remote
        self._options = {**options, "keep_last": 1, "save_random_states": False}
        self._doomed: dict[str, int] = {}  # locations to remove, each once the save of this number has arrived
        self._saves = 0
        self._numbers: dict[str, int] = {}  # the number of the save at each location
        self._safe = 0  # the newest save that has arrived
        self._has_warned = False
        self._begin()

    def _begin(self) -> None:
        self._sending: dict[str, _Sending] = {}
        self._failed: dict[str, errors.StorageError] = {}
        self._unseen: list[errors.StorageError] = []  # of names that Lightning may use again
        self._underway = Underway()
        self._guard = threading.RLock()  # an AsyncCheckpointIO saves in one thread and removes in another
        _close_at_exit(self)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        ours = {"_sending", "_failed", "_unseen", "_underway", "_guard"}
        return {name: value for name, value in self.__dict__.items() if name not in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin in another process with nothing on its way."""
        self.__dict__.update(state)
        self._begin()

    # --- for the plugin

    def opened(self, location: str, *, alone: bool) -> StorageCheckpoint:
        """The run at a location; ``alone`` if no other rank opens it."""
        return StorageCheckpoint(location, remote=self._remote, alone=alone, **self._options)

    def save(self, checkpoint: dict[str, Any], location: str, *, waits: bool) -> None:
        """Save. Wait for the arrival if ``waits``, or if other saves could not see that the name is taken.

        Raises:
            StorageError: the error of an earlier save, or of this one if ``waits``.
        """
        with self._guard:
            self._settle()
            self._raise_what_failed(lasting=True)
            while len(self._sending) >= _MOST_IN_FLIGHT and location not in self._sending:
                self.wait_for(next(iter(self._sending)))
            self._warn_of_same_name(location)
            self._doomed.pop(location, None)
            self._show()
            self._saves += 1  # also if it fails: then older ones stay until another save has arrived
            self._send(checkpoint, location)
            self._show()
            if not is_shown_as_taken(location, self._remote):
                self.wait_for(location)
                self._unseen += [self._failed[location]] if location in self._failed else []
        if waits:
            self.wait_for(location)
            with self._guard:
                self._settle()
                self._raise_what_failed(lasting=False)

    def remove(self, location: str) -> None:
        """Remove a location, as soon as a later save is on the server."""
        with self._guard:
            self._doomed[location] = max(self._saves, self._numbers.get(location, 0) + 1)
            if location in self._failed and passes(self._failed[location]):
                del self._failed[location]  # the failed save is no longer needed
            self._show()
            self._settle()

    def close(self) -> None:
        """Wait for all saves, and make the removals that had to wait.

        Raises:
            StorageError: what failed, if no later save has replaced it.
        """
        with self._guard:
            for location in [*self._sending]:
                self.wait_for(location)
            self._settle()
            self._underway = Underway()  # checkpoints that were not removed stay, and are shown again
            for location in self._failed:
                with suppress(OSError):  # an empty directory of a save that failed
                    os.rmdir(location)
            self._raise_what_failed(lasting=False)

    @property
    def is_through(self) -> bool:
        """Whether all saves have arrived or failed."""
        return all(sending.is_through for sending in self._sending.values())

    def wait_for(self, location: str) -> None:
        """Wait until a save has arrived, or has failed."""
        if (sending := self._sending.get(location)) is None:
            return
        run, handle = sending.run, sending.handle
        with suppress(errors.StorageError):  # `close` raises it
            handle.wait(timeout_s=_USUALLY_ARRIVED_S)
        is_early = is_on_the_server(handle.level)
        run.saver.spool.drop_sent()
        try:
            run.close()
        except errors.StorageError as error:
            if location not in self._doomed or not passes(error):
                self._failed[location] = error
        if is_on_the_server(handle.level):  # nothing is removed before that
            self._safe = max(self._safe, sending.number)
            if not is_early:  # the spool still has checkpoints that arrived while the run was being closed
                with suppress(errors.StorageError), self.opened(location, alone=True) as again:
                    again.saver.spool.drop_sent()
            for name in sending.older - {self.loaded.get(location)}:
                self._remove_if_possible(f"{location}/{name.attempt}")
        if self._sending.get(location) is sending:
            del self._sending[location]
        self._show()

    # --- inside

    def _send(self, checkpoint: dict[str, Any], location: str) -> None:
        """Begin a save, after the one before at this location."""
        before = self._sending.get(location)
        run = before.run if before else self.opened(location, alone=True)
        try:
            older = before.older if before else {found.name for found in run.list()}
            if before is None and (resumed := self.loaded.get(location)) is not None:
                run.saver.go_on_from(resumed)  # so that its rules do not remove it
            handle = run.save(checkpoint, int(checkpoint.get("global_step", 0)))
        except BaseException:
            if before is None:
                run.close()
            raise
        self._failed.pop(location, None)
        self._sending.pop(location, None)  # it is the newest now
        self._sending[location] = _Sending(run, handle, self._saves, older)
        self._numbers[location] = self._saves

    def _warn_of_same_name(self, location: str) -> None:
        """Warn once that names are used again under an ``AsyncCheckpointIO``, which delays its saves."""
        is_meant = location in self._doomed or posixpath.basename(location).startswith("last")
        is_other_thread = threading.current_thread() is not threading.main_thread()
        if is_other_thread and location in self._numbers and not is_meant and not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s takes the place of an earlier save of the same name: without AsyncCheckpointIO around it, "
                "StorageCheckpointIO saves behind the training too, and ModelCheckpoint gives such a name a version",
                location,
            )

    def _show(self) -> None:
        """Let the file systems of this process show saves on their way, and hide those to be removed."""
        self._underway.going = frozenset(shown_paths(self._doomed))
        self._underway.coming = frozenset(shown_paths([*self._sending, *self._failed])) - self._underway.going

    def _settle(self) -> None:
        """Close the runs of saves that have arrived, and remove the locations that may be removed."""
        for location, sending in [*self._sending.items()]:
            if sending.is_through:
                self.wait_for(location)
        for location, saves in [*self._doomed.items()]:
            if saves <= self._safe and location not in self._sending and self._remove_if_possible(location):
                self._failed.pop(location, None)
                self._numbers.pop(location, None)
                del self._doomed[location]
        self._show()

    def _raise_what_failed(self, *, lasting: bool) -> None:
        """Raise an error once; those that may pass are raised at the end.

        Args:
            lasting: whether to raise only errors that will not pass.
        """
        due = [location for location, error in self._failed.items() if not (lasting and passes(error))]
        raised = [self._failed.pop(location) for location in due]
        if not lasting:
            raised, self._unseen = raised + self._unseen, []
        if raised:
            raise raised[0]  # all of them are in the log

    def _remove_if_possible(self, location: str) -> bool:
        """Remove a folder; leave it, which does no harm, if the storage cannot be reached now."""
        try:
            self._remove(location)
        except PASSING as error:
            log.warning("%s stays for now: %s", location, error)
            return False
        return True

    def _remove(self, location: str) -> None:
        """Remove a folder, manifest first, so that nothing half removed looks whole. A link is removed itself."""
        if os.path.islink(location):
            os.unlink(location)
            return
        above, name = posixpath.split(location.rstrip("/"))
        store = open_store(above, self._remote, create=True, patience=Patience())
        entries = store.list_below(name)
        loaded = {str(one) for one in self.loaded.values()}
        if any(f"{one}/" in entry.key for entry in entries for one in loaded):
            log.info("%s stays: the training resumes from it", location)
            return
        expunge(store, name, first=[one.key for one in entries if posixpath.basename(one.key) == MANIFEST])
        log.info("removed the checkpoint %s", location)


def _close_at_exit(outgoing: Outgoing) -> None:
    """Let a process finish its saves even if nobody tears the plugin down, as under a plugin that wraps this one."""
    reference, pid = weakref.ref(outgoing), os.getpid()

    def finish() -> None:
        if (outgoing := reference()) is None or os.getpid() != pid:
            return
        finish_runs()
        if outgoing.is_through:
            with suppress(errors.StorageError):  # errors are in the log
                outgoing.close()

    # Not atexit: by then the pools of threads that listings use have ended.
    threading._register_atexit(finish)  # type: ignore[attr-defined]  # noqa: SLF001  as concurrent.futures does
