"""Checkpoints that had arrived on a storage and are missing there: somebody has removed them, so they stay away.

Their copies in the spool are not restored or sent again; they are set aside for a while, in case it was a mistake.
See docs/decisions/2026-11-28-deleted-on-the-storage.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.checkpoint.leftovers import NEWEST_STAYS_S
from ai4os_data.checkpoint.names import MANIFEST
from ai4os_data.stores import file_at, is_on_the_server
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.checkpoint.history import History
    from ai4os_data.checkpoint.spool import Spool, Spooled
    from ai4os_data.stores import Store


def set_aside_deleted(store: Store, spool: Spool, history: History, *, may_begin: bool = True) -> bool:
    """Set aside the checkpoints of a run that were removed on the storage. Returns whether there were any.

    Args:
        store: of the run.
        spool: of this machine; copies of checkpoints that the rules of retention removed are deleted from it.
        history: what the store has listed.
        may_begin: whether a new run begins if nothing is left.

    Raises:
        StorageError: the store cannot tell whether something is there.
    """
    gone = [spooled for spooled in spool.entries() if _is_gone(store, history, spooled)]
    on_store = [seen.name for seen in history.committed() if MANIFEST in seen.files]
    removed = [spooled for spooled in gone if not any(spooled.name.is_older_than(name) for name in on_store)]
    for spooled in gone:
        if spooled in removed:
            spool.set_aside(spooled)
        else:  # the rules removed it, once a newer one was there
            spool.remove(spooled)
    if removed:
        _log_removed(
            store, removed, begins_anew=may_begin and not on_store and not spool.entries() and not history.marked
        )
    return bool(gone)


def _is_gone(store: Store, history: History, spooled: Spooled) -> bool:
    """Whether it had arrived, and now neither a listing nor a request for each of its files shows any of them."""
    if not is_on_the_server(spooled.level) or history.seen[spooled.name].files:
        return False
    files = (MANIFEST, *spooled.manifest.files)
    return not any(file_at(store, f"{spooled.name}/{file}") is not None for file in files)


def _log_removed(store: Store, removed: list[Spooled], *, begins_anew: bool) -> None:
    steps = ", ".join(str(spooled.name.step) for spooled in removed)
    copies = "; ".join(f"{spooled.folder} to {store.location}/{spooled.name}" for spooled in removed)
    plural, they, are, kept = (
        ("s", "they", "are", "these copies") if len(removed) > 1 else ("", "it", "is", "this copy")
    )
    log.warning(
        f"%s: step{plural} %s had arrived there and {are} not there any more, so {they} {are} not restored%s. If that "
        f"is a mistake, copy %s and start again: the spool keeps {kept} for %d days",
        store.location,
        steps,
        ", and a new run begins" if begins_anew else "",
        copies,
        NEWEST_STAYS_S // 86400,
    )
