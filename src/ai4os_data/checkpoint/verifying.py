"""Verification of a whole run: each byte of each checkpoint, on the store and in the spool, against its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint.names import MANIFEST

if TYPE_CHECKING:
    from ai4os_data.checkpoint.history import History, Seen
    from ai4os_data.checkpoint.saving import Saver
    from ai4os_data.stores import Store


def damaged(saver: Saver) -> dict[str, str]:
    """The checkpoints that are damaged, each with what is wrong with it.

    Raises:
        StorageError: the store cannot be listed or read.
    """
    history = saver.look()
    wrong: dict[str, str] = {}
    for seen in history.committed():
        try:
            _verify(saver, history, seen)
        except (errors.IntegrityError, errors.NotFoundError) as error:
            wrong[str(seen.name)] = str(error)
    # A checkpoint that was removed for a newer one while it was read is not damaged.
    there = {str(seen.name) for seen in saver.look().committed()} if wrong else set()
    return {name: reason for name, reason in wrong.items() if name in there}


def _verify(saver: Saver, history: History, seen: Seen) -> None:
    # Without a manifest on the store it is on its way there, and only the copy in the spool counts.
    if MANIFEST in seen.files:
        verify_on_store(saver.store, history, seen)
    # One that gives way to a newer one meanwhile is no entry any more before its first byte goes.
    if seen.spooled is not None and not seen.spooled.is_intact() and saver.spool.has(seen.name):
        raise errors.IntegrityError("the copy in the spool is damaged")


def verify_on_store(store: Store, history: History, seen: Seen) -> None:
    """Compare each byte of a checkpoint on the store with its manifest there.

    Raises:
        IntegrityError: one is another, or something is missing.
        StorageError: it cannot be read.
    """
    for file, facts in history.manifest_on_store(seen).files.items():
        if file not in seen.files:
            raise errors.IntegrityError(f"{file} is not there")
        found = store.sha256_of(seen.files[file])
        if found != facts.sha256:
            raise errors.IntegrityError(f"{file} has the sha256 {found}, where {facts.sha256} was written")
