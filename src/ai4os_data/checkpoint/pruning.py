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

GRACE_S = 3600.0  # an upload of another machine that nobody has touched for so long is taken for dead


class Pruning:
    """Decides which checkpoints of the store this process may remove, and removes them.

    It removes its own checkpoints, and what lay there when it began to work. What another writer adds later stays, and
    so does the newest checkpoint of an attempt that this one does not descend from. The newest are kept by
    the line of descent; the best and the milestones over the whole run, wherever a restart came from.

    Args:
        store: of the run.
        retention: the rules.

    Attributes:
        source: what the run was resumed from; it stays.
    """

    def __init__(self, store: Store, retention: Retention) -> None:
        self._store = store
        self._retention = retention
        self._grace_s = GRACE_S
        self._found: dict[CheckpointName, tuple[float, object]] = {}  # when it was first seen, and how it looked
        self._known: set[CheckpointName] = set()
        self._own: set[AttemptName] = set()
        self._confirmed: set[CheckpointName] = set()
        self.source: CheckpointName | None = None

    def know(self, history: History) -> None:
        """Record what lies there before this process adds to it."""
        self._known.update(history.seen)

    def own(self, attempt: AttemptName) -> None:
        """Record that an attempt is this process's."""
        self._own.add(attempt)

    def prune(self, history: History, confirmed: CheckpointName, busy: set[CheckpointName]) -> list[CheckpointName]:
        """Remove what may go, now that a checkpoint has been confirmed.

        Args:
            history: as the store is now.
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
        last = ancestors(history, confirmed)  # of each attempt that leads up to it
        line = [
            name
            for name in metrics
            # Of its own attempt all: it may be sent after newer ones.
            if name.attempt == confirmed.attempt or (name.attempt in last and name.leads_to(last[name.attempt]))
        ]
        newest = {name.attempt: name for name in reversed(metrics)}
        others = {name for attempt, name in newest.items() if attempt not in {confirmed.attempt, *last}}
        kept = {confirmed, self.source, *others, *self._retention.kept(line, [*metrics], metrics)}
        mine = [name for name in metrics if name.attempt in self._own or name in self._known]
        # Newer than what was confirmed: another writer's, or one that is confirmed just now.
        return [name for name in mine if name not in kept and name.is_older_than(confirmed)]

    def _remains(self, history: History, confirmed: CheckpointName, busy: set[CheckpointName]) -> Iterable[Seen]:
        """Folders without a manifest: our own once we have given them up, others' after the grace period.

        That is over when this process has watched it pass, or the store's own clock says so: a run whose processes all
        live shorter than the grace period would never clean up.
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
                continue  # it has a manifest, whatever this listing says
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
