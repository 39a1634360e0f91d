"""Connections go with what made them, whether or not the garbage collector comes by."""

from __future__ import annotations

import gc
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.stores import open_store
from checkpoint.runs import open_run, save_steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shares import Share


@contextmanager
def nothing_stays_open() -> Iterator[None]:
    """Hold that there are as many descriptors afterwards as before, without a collection."""
    gc.collect()
    gc.disable()
    before = set(os.listdir("/proc/self/fd"))
    try:
        yield
        left = set(os.listdir("/proc/self/fd")) - before
    finally:
        gc.enable()
    assert len(left) <= 1, left  # the listing itself


def test_dropped_store_leaves_no_connection(share: Share) -> None:
    """After a listing, a write, a read, and a file that is not there."""
    with nothing_stays_open():
        store = open_store(share.location, share.remote)
        store.write_confirmed("new/a", b"x", hashlib.sha256(b"x").hexdigest())
        assert [entry.key for entry in store.list()] == ["new/a"]
        assert store.read("new/a") == b"x"
        with pytest.raises(errors.NotFoundError):
            store.stat("b")
        del store


def test_closed_store_can_be_used_again(share: Share) -> None:
    """A close is no end."""
    share.put({"a": b"x"})
    with nothing_stays_open():
        store = open_store(share.location, share.remote)
        for _ in range(3):
            assert store.read("a") == b"x"
            store.close()


def test_dropped_dataset_leaves_no_connection(share: Share) -> None:
    """Its listing and its samples have come."""
    share.put({f"{number}.txt": b"x" for number in range(8)})
    with nothing_stays_open():
        data = StorageDataset(share.location, remote=share.remote, decode="bytes", cache=None)
        assert [data[number] for number in range(8)] == [b"x"] * 8
        del data


def test_closed_run_leaves_no_connection(share: Share, tmp_path: Path) -> None:
    """Saved, sent, and over."""
    with nothing_stays_open(), open_run(f"{share.location}/run", tmp_path, remote=share.remote, keep_last=1) as run:
        save_steps(run, 1, 2)
