"""What this process knows of a run: the checkpoints of the store at the last look, and those that it has sent since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint.deleted import set_aside_deleted
from ai4os_data.checkpoint.history import History, on_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ai4os_data.checkpoint.manifest import Manifest
    from ai4os_data.checkpoint.names import CheckpointName
    from ai4os_data.checkpoint.retention import Retention
    from ai4os_data.checkpoint.spool import Spool, Spooled
    from ai4os_data.stores import Store

Metrics = dict["CheckpointName", dict[str, float]]


class Catalogue:
    """The checkpoints of a run, as far as this process has seen or sent them.

    Args:
        store: of the run.
        spool: of this machine.
        retention: the rules that say what stays.

    Attributes:
        metrics: those of the checkpoints on the store.
        highest_attempt: the highest number of an attempt that was seen.
    """

    def __init__(self, store: Store, spool: Spool, retention: Retention) -> None:
        self._store = store
        self._spool = spool
        self._retention = retention
        self.metrics: Metrics = {}
        self.highest_attempt = 0
        self._manifests: dict[CheckpointName, Manifest] = {}
        self._had_some = False  # at the last look, or since

    def look(self) -> History:
        """The checkpoints that are there now; those that somebody has removed on the store are set aside.

        Raises:
            DamagedError: nothing is there, and there was something.
            StorageError: the store cannot be listed.
        """
        history = self._listed()
        if set_aside_deleted(self._store, self._spool, history, may_begin=not self._had_some):
            history = self._listed()
        if self._had_some and not history.has_some:
            raise errors.DamagedError(
                f"{self._store.location} had checkpoints when this process looked before, and now has none. Bring them "
                "back, or make another StorageCheckpoint to begin anew"
            )
        self._had_some = history.has_some
        self.highest_attempt = max(self.highest_attempt, history.highest_attempt)
        return history

    def refreshed(self) -> History:
        """The checkpoints that are there now, and copies of removed ones; their metrics are known from here on.

        Raises:
            StorageError: the store cannot be listed.
        """
        history = self._listed()
        self.learn(history)
        return history

    def learn(self, history: History) -> None:
        """Record the metrics of the checkpoints on the store."""
        self.metrics = on_store(history)

    def add(self, spooled: Spooled) -> None:
        """Record that a checkpoint is on the store."""
        self._manifests[spooled.name] = spooled.manifest
        self.metrics = {**self.metrics, spooled.name: spooled.manifest.metrics}
        self._had_some = True

    def forget(self, names: Iterable[CheckpointName]) -> None:
        """Record that some were removed from the store."""
        self.metrics = {name: metrics for name, metrics in self.metrics.items() if name not in names}

    def known(self, spooled: Iterable[Spooled] | None = None) -> Metrics:
        """The metrics of the checkpoints on the store, and of some or all in the spool, without asking the store."""
        entries = self._spool.entries() if spooled is None else spooled
        return {**self.metrics, **{one.name: one.manifest.metrics for one in entries}}

    def kept_for_good(self, spooled: Iterable[Spooled]) -> set[CheckpointName]:
        """The best checkpoints and the milestones of the whole run, among those on the store and some in the spool."""
        metrics = self.known(spooled)
        newest_first = sorted(metrics, key=lambda name: (name.order, name), reverse=True)
        return self._retention.kept_for_good(newest_first, metrics)

    def displaced(self, spooled: Sequence[Spooled]) -> set[CheckpointName]:
        """Those that need not be sent, since the last one is newer and no rule would keep them beside it."""
        return {one.name for one in spooled[:-1]} - self.kept_for_good(spooled)

    def _listed(self) -> History:
        return History(self._store, self._spool, self._manifests)
