"""Removal of the checkpoints that no rule keeps: the manifest first, so that nothing half removed looks whole."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ai4os_data.checkpoint.history import History, Seen, ancestors, on_store
from ai4os_data.checkpoint.names import MANIFEST
from ai4os_data.stores import expunge
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai4os_data.checkpoint.names import AttemptName, CheckpointName
    from ai4os_data.checkpoint.retention import Retention
    from ai4os_data.stores import Store

GRACE_S = 3600.0  # an upload of another machine that has not changed for so long counts as dead


class Pruning:
    """Decides which checkpoints of the store this process may remove, and removes them.

    It removes its own checkpoints, and those that were there when it began. Checkpoints that another writer adds later
    stay, and so does the newest one of an attempt that this one does not descend from. ``keep_last`` counts along the
    line of descent; the best and the milestones are those of the whole run, wherever a restart came from.

    Args:
        store: of the run.
        retention: the rules.

    Attributes:
        source: the checkpoint that the run was resumed from; it stays.
    """

    def __init__(self, store: Store, retention: Retention) -> None:
        self._store = store
        self._retention = retention
        self._grace_s = GRACE_S
        self._found: dict[CheckpointName, tuple[float, object]] = {}  # when a folder was first seen, and its signature
        self._known: set[CheckpointName] = set()
        self._own: set[AttemptName] = set()
        self._confirmed: set[CheckpointName] = set()
        self.source: CheckpointName | None = None

    def know(self, history: History) -> None:
        """Record the checkpoints that are there before this process adds its own."""
        self._known.update(history.seen)

    def own(self, attempt: AttemptName) -> None:
        """Record that an attempt is this process's."""
        self._own.add(attempt)

    def prune(self, history: History, confirmed: CheckpointName, busy: set[CheckpointName]) -> list[CheckpointName]:
        """Remove the checkpoints that may be removed, now that another one has been confirmed.

        Args:
            history: the present state of the store.
            confirmed: the checkpoint; it stays.
            busy: the checkpoints that are still to be sent.

        Returns:
            Those that were removed.
        """
        self._confirmed.add(confirmed)
        doomed = self._doomed(history, confirmed)
        for name in doomed:
            self._remove(name)
        for seen in self._remains(history, confirmed, busy):
            self._remove(seen.name)
        return doomed

    def _doomed(self, history: History, confirmed: CheckpointName) -> list[CheckpointName]:
        metrics = on_store(history)
        last = ancestors(history, confirmed)  # the last checkpoint of each attempt on the line of descent
        line = [
            name
            for name in metrics
            # All of its own attempt: it may be sent after newer ones.
            if name.attempt == confirmed.attempt or (name.attempt in last and name.leads_to(last[name.attempt]))
        ]
        newest = {name.attempt: name for name in reversed(metrics)}
        others = {name for attempt, name in newest.items() if attempt not in {confirmed.attempt, *last}}
        kept = {confirmed, self.source, *others, *self._retention.kept(line, [*metrics], metrics)}
        mine = [name for name in metrics if name.attempt in self._own or name in self._known]
        # Newer ones are another writer's, or are being confirmed.
        return [name for name in mine if name not in kept and name.is_older_than(confirmed)]

    def _remains(self, history: History, confirmed: CheckpointName, busy: set[CheckpointName]) -> Iterable[Seen]:
        """Folders without a manifest: our own once we have given them up, others' after the grace period.

        The grace period is over when this process has seen the folder unchanged for so long, or when the store's own
        clock says so: otherwise a run whose processes all live for less would never clean up.
        """
        now = time.monotonic()
        newest_at = _stored_at(history.seen.get(confirmed))
        for seen in history.uncommitted():
            first_s, look = self._found.get(seen.name, (now, None))
            if look != seen.signature:
                self._found[seen.name] = first_s, _ = now, seen.signature
            stored_at = _stored_at(seen)
            is_told_old = newest_at is not None and stored_at is not None and newest_at - stored_at >= self._grace_s
            is_old = (is_told_old or now - first_s >= self._grace_s) and seen.name in self._known
            if seen.name in self._confirmed:
                continue  # it has a manifest, although this listing does not show it
            if seen.name not in busy and (seen.name.attempt in self._own or is_old):
                yield seen

    def _remove(self, name: CheckpointName) -> None:
        self._confirmed.discard(name)
        expunge(self._store, str(name), first=[f"{name}/{MANIFEST}"])
        log.info("removed the checkpoint %s", name)


def _stored_at(seen: Seen | None) -> float | None:
    """When the last file of a folder was stored, by the clock of an HTTP server; None if it does not say."""
    times = [entry.modified for entry in seen.files.values()] if seen is not None else []
    try:
        return max(parsedate_to_datetime(text or "").timestamp() for text in times)
    except (ValueError, OverflowError):  # no date, or none of HTTP's
        return None
