"""Uploads in the background: each checkpoint arrives, is tried again, or ends with an error that is raised or logged.

While the server is down, or full, an upload is tried again for as long as the process lives. An upload that the server
refuses is tried a few times, and then fails. The next start finds unsent checkpoints in the spool.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint.tries import Tries
from ai4os_data.http import Patience
from ai4os_data.stores import is_on_the_server
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.checkpoint.catalogue import Catalogue
    from ai4os_data.checkpoint.delivery import Delivery
    from ai4os_data.checkpoint.failures import SaveFailures
    from ai4os_data.checkpoint.names import CheckpointName
    from ai4os_data.checkpoint.pruning import Pruning
    from ai4os_data.checkpoint.spool import Spool, Spooled
    from ai4os_data.checkpoint.uploads import Upload, Uploads
    from ai4os_data.stores import Level


@dataclass
class Sender:
    """Sends the checkpoints that wait, and removes those that are superseded.

    Attributes:
        uploads: those that wait.
        delivery: sends one checkpoint to the store.
        spool: has the checkpoints until newer ones have arrived.
        catalogue: knows the checkpoints of the store.
        pruning: removes checkpoints that no rule keeps, once a newer one is there.
        failures: keeps the errors that last.
        counts: how many were sent, dropped and removed.
        tries: how often something is tried, and the pauses.
    """

    uploads: Uploads
    delivery: Delivery
    spool: Spool
    catalogue: Catalogue
    pruning: Pruning
    failures: SaveFailures
    counts: dict[str, float]
    tries: Tries = field(default_factory=lambda: Tries(Patience(first_pause_s=1.0, longest_pause_s=30.0)))

    def send_all(self) -> None:
        """Send one upload after the other, until there is none."""
        try:
            while (upload := self.uploads.next()) is not None:
                try:
                    self._send(upload)
                except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for it
                    self._end(upload, error)
                finally:
                    self.uploads.end()
        except BaseException as error:  # noqa: BLE001  the next save or `close` raises it
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Send nothing more until the next save, after a bug of ours; every wait for an upload ends with the error."""
        log.error("uploads have stopped, and what is not on the storage is kept in the spool: %r", error)
        self.failures.note(error)
        for upload in self.uploads.stop(error):
            if upload.progress is not None:
                upload.progress.end(error)

    def drop(self, upload: Upload, newer: Upload) -> None:
        """Give up an upload that is no longer needed, since there is a newer checkpoint."""
        self.counts["dropped"] += 1
        self.spool.remove(upload.spooled)
        step, newer_step = upload.spooled.name.step, newer.spooled.name.step
        log.info("step %d was not sent: step %d took its place", step, newer_step)
        dropped = errors.DroppedError(
            f"step {step} was dropped: step {newer_step} came before it could be sent; give it more time between "
            "saves, or wait() for those that have to stay"
        )
        if upload.progress is not None:
            upload.progress.end(dropped, is_lost=True)

    def _send(self, upload: Upload) -> None:
        tries = self.tries
        tries.begin()
        if (full_for_s := tries.full_for_s) and not self._waited(upload, full_for_s, is_tried=False):
            return
        while True:
            try:
                level = self.delivery.send(upload.spooled)
            except errors.StorageError as error:
                if not upload.spooled.is_whole or _is_damaged(upload, error):
                    raise
                pause_s = tries.failed(error)
                if pause_s is None:
                    self.delivery.abandon(upload.spooled)
                    raise
                self.uploads.error = error
                step = upload.spooled.name.step
                if not self.uploads.is_left:
                    log.warning("step %d is not on the server yet (try %d): %s", step, tries.failures, error)
                if not self._waited(upload, pause_s):
                    return
            else:
                tries.arrived()
                self._arrive(upload, level)
                return

    def _waited(self, upload: Upload, pause_s: float, *, is_tried: bool = True) -> bool:
        """Wait before a try; False if there is none, since a newer checkpoint displaces it or the run is closed."""
        longest_s = self.tries.patience.longest_pause_s
        newer, is_over = self.uploads.pause(upload, pause_s, longest_s, is_tried=is_tried)
        if newer is not None:
            self.delivery.abandon(upload.spooled)
            self.drop(upload, newer)
        elif is_over:
            assert self.uploads.error is not None
            self._fail(upload, self.uploads.error)
        return newer is None and not is_over

    def _arrive(self, upload: Upload, level: Level) -> None:
        """Record that it has arrived. Whatever fails after this does not change that."""
        self.uploads.arrived()
        try:
            self._settle(upload, level)
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for it
            log.error("step %d is on the storage; what was to follow has failed: %r", upload.spooled.name.step, error)
            self.failures.note(error, is_of_left=upload.progress is None)
            if upload.progress is not None:
                upload.progress.reach(level)  # otherwise a wait for it would never end

    def _settle(self, upload: Upload, level: Level) -> None:
        """Notify those who wait, and remove superseded checkpoints."""
        spooled = upload.spooled
        self.catalogue.add(spooled)
        self.spool.note(spooled, level)
        self.counts["sent"] += 1
        if upload.progress is not None:
            upload.progress.reach(level)
        with self.spool.reading:  # nothing is removed while a checkpoint is read
            for older in [*self._superseded(spooled.name)]:
                self.spool.remove(older)
            if is_on_the_server(level):  # nothing on the store is removed before that
                self._prune(spooled.name)

    def _superseded(self, sent: CheckpointName) -> Iterator[Spooled]:
        """The checkpoints that the spool no longer needs. Unsent ones that must stay wait for the next start."""
        entries, busy = self.spool.entries(), self._busy()
        kept = self.catalogue.kept_for_good(entries)
        for spooled in entries:
            is_unsent = spooled.name not in self.catalogue.metrics and not is_on_the_server(spooled.level)
            is_idle = spooled.name not in busy and not (is_unsent and spooled.name in kept)
            if spooled.name.is_older_than(sent) and is_idle:
                yield spooled

    def _prune(self, confirmed: CheckpointName) -> None:
        try:
            removed = self.pruning.prune(self.catalogue.refreshed(), confirmed, self._busy())
            self.catalogue.forget(removed)
            self.counts["removed"] += len(removed)
        except errors.StorageError as error:
            log.warning("older checkpoints stay for now: %s", error)

    def _busy(self) -> set[CheckpointName]:
        return {upload.spooled.name for upload in self.uploads.unsent()}

    def _end(self, upload: Upload, error: BaseException) -> None:
        """Give up an upload after an error: the next start finds the checkpoint in the spool, unless it is lost."""
        if _is_damaged(upload, error):
            how = "its files are damaged in the spool"
        elif not upload.spooled.is_whole and isinstance(error, (OSError, errors.StorageError)):
            how = "somebody has removed its files from the spool"
        else:
            self._fail(upload, error)
            return
        lost = errors.LostError(
            f"step {upload.spooled.name.step} is lost: {how}, {upload.spooled.folder}, before it was on the storage. "
            "Save again; if something cleans or writes to that place, give StorageCheckpoint another, as spool= or "
            "AI4OS_DATA_SPOOL"
        )
        self.uploads.error = lost
        log.error("%s", lost)
        self.failures.note(lost, is_of_left=upload.progress is None)
        if upload.progress is not None:
            upload.progress.end(lost, is_lost=True)

    def _fail(self, upload: Upload, error: BaseException) -> None:
        if self.uploads.gave_up(upload, error):
            log.error(
                "step %d is kept in the spool and not on the server, where the next start of the run will send it: %s",
                upload.spooled.name.step,
                error,
            )
        self.failures.note(error, is_of_left=upload.progress is None)
        if upload.progress is not None:
            upload.progress.end(error)


def _is_damaged(upload: Upload, error: BaseException) -> bool:
    """Whether the storage got wrong bytes because the spool's copy is damaged."""
    return isinstance(error, errors.IntegrityError) and upload.spooled.is_whole and not upload.spooled.is_intact()
