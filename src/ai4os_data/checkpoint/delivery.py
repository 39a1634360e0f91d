"""The way of one checkpoint to the store: its data, then its manifest, then the mark of its attempt."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from ai4os_data.checkpoint.manifest import attempt_mark
from ai4os_data.checkpoint.names import MANIFEST
from ai4os_data.machine import sha256_of
from ai4os_data.stores import abandon, lower

if TYPE_CHECKING:
    from ai4os_data.checkpoint.names import AttemptName
    from ai4os_data.checkpoint.spool import Spooled
    from ai4os_data.stores import Level, Store

_VERIFIED_BYTES_PER_S = 16 * 1024 * 1024  # the slowest rate at which a store joins, hashes or reads back what was sent


class Delivery:
    """Sends one checkpoint at a time, and measures its progress.

    Args:
        store: where to.

    Attributes:
        sent_bytes: how much of the checkpoint was sent in this try.
        bytes_per_s: the rate of the last try that sent something; None before.
        last_progress_at: when a byte was sent that no earlier try had sent, on the monotonic clock.
        verifying_s: how long the store may take with the checkpoint, once all of it is sent.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._marked: dict[AttemptName, Level] = {}
        self._whole_bytes = 0
        self._most_sent_bytes = 0  # in any try
        self.bytes_per_s: float | None = None
        self.last_progress_at = 0.0
        self.begin()

    def begin(self) -> None:
        """Measure another checkpoint, from its beginning."""
        self.sent_bytes = self._most_sent_bytes = 0
        self.verifying_s = 0.0

    def send(self, spooled: Spooled) -> Level:
        """Send a checkpoint. Returns the level that all of its files have reached.

        Raises:
            StorageError: the store has not taken it.
        """
        self.sent_bytes, self._whole_bytes = 0, spooled.manifest.size_bytes
        try:
            level = self._send(spooled)
        finally:
            self.verifying_s = 0.0
        self.last_progress_at = time.monotonic()
        return level

    def abandon(self, spooled: Spooled) -> None:
        """Remove from the server the parts of a checkpoint that will not be sent."""
        for file, facts in spooled.manifest.files.items():
            abandon(self._store, f"{spooled.name}/{file}", facts.size_bytes, facts.sha256)

    def _send(self, spooled: Spooled) -> Level:
        level: Level = "confirmed"
        begun = time.monotonic()
        for file, facts in spooled.manifest.files.items():
            reached = self._store.write_confirmed(
                f"{spooled.name}/{file}", spooled.folder / file, facts.sha256, on_bytes=self._progress
            )
            level = lower(level, reached)
        if self.sent_bytes:
            self.bytes_per_s = self.sent_bytes / max(1e-6, time.monotonic() - begun)
        manifest = spooled.folder / MANIFEST
        reached = self._store.write_confirmed(f"{spooled.name}/{MANIFEST}", manifest, sha256_of(manifest))
        return lower(lower(level, reached), self._mark(spooled.name.attempt))

    def _mark(self, attempt: AttemptName) -> Level:
        """Mark an attempt before its checkpoint counts as sent: even if the manifest is lost, the run is not new."""
        if attempt not in self._marked:
            mark = attempt_mark(attempt)
            self._marked[attempt] = self._store.write_confirmed(attempt.mark, mark, hashlib.sha256(mark).hexdigest())
        return self._marked[attempt]

    def _progress(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes
        is_all_sent = self.sent_bytes >= self._whole_bytes
        self.verifying_s = self._whole_bytes / _VERIFIED_BYTES_PER_S if is_all_sent else 0.0
        if self.sent_bytes > self._most_sent_bytes:  # sending the same bytes again is no progress
            self._most_sent_bytes = self.sent_bytes
            self.last_progress_at = time.monotonic()
