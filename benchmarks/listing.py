"""Listings: ours beside the request and the parse that cannot be avoided, a dataset that is opened again, its memory.

Run it as ``python -m benchmarks.listing --quick --json listing.json``.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
import time
import tracemalloc
from array import array
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import pycurl

from ai4os_data import DiskCache, Remote, StorageDataset
from ai4os_data.cache import session_of
from ai4os_data.datasets import Index, open_index
from ai4os_data.stores import open_store
from benchmarks.command import Options, run
from benchmarks.report import Report, at_most
from benchmarks.static_server import StaticServer

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDERS = 20

BARS = {
    "list_vs_propfind": at_most(2.0),
    "reopen_s": at_most(0.5),
    "worker_copy_mb": at_most(5),
    "index_bytes_per_key": at_most(100),
}
PARTS = ("list", "reopen", "memory")

PARSED = "bare curl, and ElementTree.fromstring"
LISTED = "ours: list, and keep the index on disk"
OPENED = "ours: StorageDataset(…), nothing kept"
REOPENED = "ours: StorageDataset(…), the index kept"
COPIED = "ours: what a forked worker copies that reads all of the index"
COPIED_OF_A_LIST = "a list of a named tuple for each file: the same"
HELD = "ours: the index, the samples, their labels and names in the cache, for each file"


def measure(options: Options) -> Report:
    """Measure both parts."""
    listed, reopened = options.choose(200, 20_000, 20_000), options.choose(1000, 100_000, 100_000)
    held = options.choose(1000, 300_000, 300_000)
    sizes = {"entries listed": listed, "entries reopened": reopened, "entries in memory": held}
    report = Report("listing", BARS, sizes)
    if options.wants("list"):
        measure_list(report, options, canned_reply(options.directory, listed))
    if options.wants("reopen"):
        measure_reopen(report, options, canned_reply(options.directory, reopened), reopened)
    if options.wants("memory"):
        measure_memory(report, options, canned_reply(options.directory, held), held)
    return report


def canned_reply(directory: Path, number: int) -> Path:
    """What a Nextcloud answers to a PROPFIND of Depth infinity, for files of class folders: some 300 bytes for each."""
    source = random.Random(20261122)
    pieces = ['<?xml version="1.0"?>\n<d:multistatus xmlns:d="DAV:">', folder("")]
    for index in range(number):
        name = f"class-{index * FOLDERS // number:02d}"
        if index * FOLDERS % number < FOLDERS:
            pieces.append(folder(f"{name}/"))
        pieces.append(
            f"<d:response><d:href>/dav/{name}/image%20{index:06d}.jpg</d:href><d:propstat><d:prop><d:getlastmodified>"
            f"Sun, 22 Nov 2026 10:{index // 60 % 60:02d}:{index % 60:02d} GMT</d:getlastmodified><d:getcontentlength>"
            f"{source.randrange(60_000, 160_000)}</d:getcontentlength><d:resourcetype/><d:getetag>&quot;"
            f"{source.getrandbits(80):020x}&quot;</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status>"
            f"</d:propstat></d:response>"
        )
    pieces.append("</d:multistatus>")
    path = directory / f"reply-{number}.xml"
    path.write_text("".join(pieces))
    return path


def folder(name: str) -> str:
    """A folder in the reply."""
    return (
        f"<d:response><d:href>/dav/{name}</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype>"
        f"<d:getetag>&quot;6740f1e2a9c3b&quot;</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
        f"</d:response>"
    )


def measure_list(report: Report, options: Options, reply: Path) -> None:
    """Our listing, the index on disk included, against the request and its parse."""
    (options.directory / "empty").mkdir()
    with StaticServer(options.directory / "empty", canned=reply) as server:
        turns: list[Callable[[], None]] = [
            lambda: report.add(PARSED, seconds(lambda: ET.fromstring(propfind(server.url))), "s"),  # noqa: S314
            lambda: list_anew(report, server, options.directory),
        ]
        for turn in turns:
            turn()
        report.cases.clear()  # that imported, and warmed up
        for number in options.rounds("list", 20):
            for turn in turns if number % 2 else turns[::-1]:
                turn()
    report.ratio("list_vs_propfind", LISTED, PARSED)


def list_anew(report: Report, server: StaticServer, directory: Path) -> None:
    """List into an empty cache, as the first opening of a dataset does."""
    store = open_store(server.url, Remote(server.url, "alice", "unasked"))
    cache = DiskCache(directory / "cache", size_limit="4GiB")
    found: list[Index] = []
    report.add(LISTED, seconds(lambda: found.append(open_index(store, session_of(cache), None, "warn"))), "s")
    assert len(found[0]) > 0
    assert list((directory / "cache" / "listings").iterdir()), "no index was kept"
    cache.close()
    shutil.rmtree(directory / "cache")


def measure_reopen(report: Report, options: Options, reply: Path, number: int) -> None:
    """A dataset of a Nextcloud, opened for the first time, and then again with its folder's ETag unchanged."""
    (options.directory / "none").mkdir()
    with StaticServer(options.directory / "none", canned=reply) as server:
        remote = Remote(server.url, "alice", "unasked", vendor="nextcloud")

        def open_(name: str) -> None:
            cache = DiskCache(options.directory / "cache", size_limit="4GiB")
            begun = time.perf_counter()
            dataset = StorageDataset(server.url, remote=remote, cache=cache)
            report.add(name, time.perf_counter() - begun, "s")
            assert len(dataset) == number
            assert dataset.stats()["requests_propfind"] == (1 if name == REOPENED else 2), "it was listed again"
            cache.close()

        for _ in options.rounds("reopen", 30):
            open_(OPENED)
            open_(REOPENED)
            shutil.rmtree(options.directory / "cache")
    report.figure("reopen_s", report.cases[REOPENED].values)


def measure_memory(report: Report, options: Options, reply: Path, number: int) -> None:
    """What a dataset takes in memory, and what of it a forked worker copies that looks at every file, in any order."""
    (options.directory / "nothing").mkdir()
    with StaticServer(options.directory / "nothing", canned=reply) as server:
        remote = Remote(server.url, "alice", "unasked", vendor="nextcloud")
        cache = DiskCache(options.directory / "cache", size_limit="4GiB")

        def open_() -> StorageDataset:
            dataset = StorageDataset(server.url, remote=remote, cache=cache, target="folder")
            assert len(dataset) == number == len(dataset.reader.names())
            return dataset

        open_()  # from now on the listing is kept
        for _ in options.rounds("memory", 40):
            report.add(HELD, held_bytes(open_) / number, "bytes")
            dataset = open_()
            entries = list(dataset.index.entries)
            report.add(COPIED, copied_mb(lambda index, dataset=dataset: look_at(dataset, index), number), "MB")
            report.add(
                COPIED_OF_A_LIST, copied_mb(lambda index, entries=entries: len(entries[index].key), number), "MB"
            )
            del entries
        cache.close()
        shutil.rmtree(options.directory / "cache")
    report.figure("worker_copy_mb", report.cases[COPIED].values)
    report.figure("index_bytes_per_key", report.cases[HELD].values)


def look_at(dataset: StorageDataset, index: int) -> object:
    """Read everything that a dataset knows of one sample."""
    return dataset.keys[index], dataset.reader.entries[index], dataset.reader.names()[index], dataset.targets[index]


def held_bytes(make: Callable[[], object]) -> int:
    """What an object takes in memory, with all that it holds."""
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        made = make()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
        del made
    finally:
        tracemalloc.stop()
    return held


def copied_mb(look: Callable[[int], object], number: int) -> float:
    """What a forked process has of its own, and had not before it looked at so many things in random order."""
    order = list(range(number))
    random.Random(20261122).shuffle(order)
    gc.collect()
    receiving, sending = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            numbers = array("I", order)
            before = private_kb()
            for index in numbers:
                look(index)
            os.write(sending, f"{(private_kb() - before) / 1000:.3f}".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return float(answer)


def private_kb() -> int:
    """What this process shares with no other, in kB."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Dirty:", "Private_Clean:")))


def propfind(url: str) -> bytes:
    """The body of the answer to a PROPFIND of Depth infinity."""
    pieces: list[bytes] = []
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, url)
    handle.setopt(pycurl.CUSTOMREQUEST, "PROPFIND")
    handle.setopt(pycurl.HTTPHEADER, ["Depth: infinity"])
    handle.setopt(pycurl.BUFFERSIZE, 256 * 1024)
    handle.setopt(pycurl.WRITEFUNCTION, pieces.append)
    handle.perform()
    handle.close()
    return b"".join(pieces)


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(run(measure, "List many files, and reopen a dataset of many.", PARTS))
