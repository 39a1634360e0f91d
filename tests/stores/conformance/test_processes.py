"""A store goes with its dataset into threads, forked and spawned workers, and never mixes up whose bytes are whose."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import LocationError
from tests.support.outcomes import content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from ai4os_data.stores import Entry, Store
    from tests.support.places import Place

FILES = 40
CHILDREN = 4


@pytest.fixture
def contents(place: Place) -> dict[str, bytes]:
    """Files that differ in every byte and in size."""
    files = FILES // 4 if place.name == "mount" else FILES  # it opens some 25 a second
    found = {
        f"{number % 4}/{number:03}.bin": random.Random(number).randbytes(1000 + 331 * number) for number in range(files)
    }
    for key, data in found.items():
        place.put(key, data)
    return found


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    """A spawned process, which shares nothing with this one but what is pickled to it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        yield executor


def read_all(store: Store, entries: list[Entry]) -> dict[str, bytes]:
    """Read entries; the contents by key."""
    return {entry.key: content(outcome) for entry, outcome in store.read_many(entries)}


def list_and_read(store: Store) -> dict[str, bytes]:
    """List and read; the contents by key."""
    return read_all(store, store.list())


def test_a_store_works_in_a_spawned_process(
    place: Place, store: Store, contents: dict[str, bytes], spawned: ProcessPoolExecutor
) -> None:
    """Pickled after use, with nothing of this process in it."""
    assert list_and_read(store) == contents
    there = spawned.submit(list_and_read, store)
    if place.name == "fsspec-memory":  # a memory:// is that of one process
        with pytest.raises(LocationError):
            there.result()
    else:
        assert there.result() == contents


def test_a_copy_is_of_the_same_place(store: Store, contents: dict[str, bytes]) -> None:
    """A pickled store has the same location and reads the same."""
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301  it was made here
    assert (type(copy), copy.location) == (type(store), store.location)
    assert list_and_read(copy) == contents


def test_children_of_a_fork_and_their_parent_read_right_bytes(store: Store, contents: dict[str, bytes]) -> None:
    """Four children that inherit warm connections read beside the parent, which uses its own."""
    entries = store.list()
    assert read_all(store, entries) == contents  # now the connections are warm
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(CHILDREN)]
    children = [
        context.Process(target=_count_wrong, args=(store, entries, contents, seed, theirs))
        for seed, (_, theirs) in enumerate(pipes)
    ]
    for child in children:
        child.start()
    for _, theirs in pipes:
        theirs.close()
    wrong_here = 0
    while any(child.is_alive() for child in children):
        wrong_here += read_all(store, entries) != contents
    assert wrong_here == 0
    assert [ours.recv() for ours, _ in pipes] == [0] * CHILDREN
    for child in children:
        child.join()
    assert read_all(store, entries) == contents


def _count_wrong(store: Store, entries: list[Entry], contents: dict[str, bytes], seed: int, result: Connection) -> None:
    """Read all of it three times, in an order of this child's own, in batches and one by one."""
    order = random.Random(seed)
    wrong = 0
    for _ in range(2):
        shuffled = order.sample(entries, len(entries))
        wrong += sum(contents[key] != data for key, data in read_all(store, shuffled).items())
    wrong += sum(contents[entry.key] != store.read(entry.key) for entry in order.sample(entries, 10))
    result.send(wrong)


def test_threads_share_a_store(store: Store, contents: dict[str, bytes]) -> None:
    """Eight threads share a store, each with its own files and its own answers."""
    entries = store.list()

    def read_some(seed: int) -> dict[str, bytes]:
        chosen = random.Random(seed).sample(entries, len(entries) // 2)
        single = chosen[0].key
        return {**read_all(store, chosen), single: store.read(single)}

    with ThreadPoolExecutor(8) as pool:
        for read in pool.map(read_some, range(24)):
            assert read.items() <= contents.items()
            assert len(read) == len(entries) // 2


def test_threads_write_beside_each_other(place: Place, store: Store) -> None:
    """Several writers write into folders that none of them has made yet."""
    contents = {f"run {number % 2}/step-{number}/data.bin": b"%d" % number * 1000 for number in range(12)}
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda key: store.write(key, contents[key]), contents))
    assert place.files() == contents
