"""Connections are closed with the store that made them, with or without the garbage collector."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.http.bodies import MemoryBody
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Fetched, open_store
from tests.support.runs import open_run, save_steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import FaultServer
    from tests.support.shares import Share


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
    """A store is dropped after a listing, a write, a read, and a missing file."""
    with nothing_stays_open():
        store = open_store(share.location, share.remote)
        store.write_confirmed("new/a", b"x", hashlib.sha256(b"x").hexdigest())
        assert [entry.key for entry in store.list()] == ["new/a"]
        assert store.read("new/a") == b"x"
        with pytest.raises(errors.NotFoundError):
            store.stat("b")
        del store


def test_closed_store_can_be_used_again(share: Share) -> None:
    """A request after `close` opens new connections."""
    share.put({"a": b"x"})
    with nothing_stays_open():
        store = open_store(share.location, share.remote)
        for _ in range(3):
            assert store.read("a") == b"x"
            store.close()


def test_dropped_dataset_leaves_no_connection(share: Share) -> None:
    """A dataset is dropped after its listing and its samples."""
    share.put({f"{number}.txt": b"x" for number in range(8)})
    with nothing_stays_open():
        data = StorageDataset(share.location, remote=share.remote, decode="bytes", cache=None)
        assert [data[number] for number in range(8)] == [b"x"] * 8
        del data


def test_closed_run_leaves_no_connection(share: Share, tmp_path: Path) -> None:
    """A checkpoint is saved and sent; after `close` no connection is open."""
    with nothing_stays_open(), open_run(f"{share.location}/run", tmp_path, remote=share.remote, keep_last=1) as run:
        save_steps(run, 1, 2)


@pytest.mark.parametrize("goes_on", [False, True])
def test_forked_child_leaves_its_parents_requests_alone(fault: FaultServer, goes_on: bool) -> None:  # noqa: FBT001
    """A child drops them, or asks for the next answer; the parent still gets all of its answers."""
    files = {f"{number:02}.bin": bytes([number]) * 100_000 for number in range(60)}
    for key, content in files.items():
        (fault.root / key).write_bytes(content)
    store = open_store("", Remote(fault.url, fault.user, fault.password))
    entries = store.list()
    fault.change(latency_s=0.1)
    read = {}
    begun_s = time.monotonic()
    outcomes = store.read_many(entries)
    for entry, outcome in outcomes:
        assert isinstance(outcome, Fetched)
        assert isinstance(outcome.body, MemoryBody)
        read[entry.key] = outcome.body.getvalue()
        if len(read) == 10:
            child = multiprocessing.get_context("fork").Process(target=_let_go_of, args=(outcomes, goes_on))
            child.start()
            child.join(20)
            assert child.exitcode == 0
    assert read == files
    assert time.monotonic() - begun_s < 5


def _let_go_of(outcomes: Iterator[Any], goes_on: bool) -> None:  # noqa: FBT001  a parameter
    if goes_on:
        with pytest.raises(RuntimeError, match="after a fork"):
            next(outcomes)
    else:
        outcomes.close()  # type: ignore[attr-defined]  # it is a generator
