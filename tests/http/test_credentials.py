"""Credentials that are refused are not tried again: not by this process, and not by any other that holds them."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.http import concurrency
from ai4os_data.locations.rclone import obscure
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, Fetched, open_store
from tests.support.faulty import read_in_threads
from tests.support.loaders import batches_of
from tests.support.servers import Fault
from tests.support.shares import Share

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Store
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import FaultServer, RcloneServer, Server

WRONG = "wrong-Passw\u00f6rd#2"
LOADERS = 4
BATCH = 8
LATENCY_S = 0.01


@pytest.fixture(params=["fault", "wsgidav", "apache", "nextcloud"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server that records the requests it refused."""
    found: Server = request.getfixturevalue(request.param)
    found.forget()
    return found


def refused(server: Server) -> int:
    """How many requests the server refused."""
    return sum(request.status == 401 for request in server.requests())


def in_processes(store: Store, context: ForkContext | SpawnContext) -> list[list[str]]:
    """Read in two processes at once, with several threads each."""
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=read_in_threads, args=(store, theirs)) for _, theirs in pipes]
    for process in processes:
        process.start()
    found = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    return found


def test_a_wrong_password_costs_one_request_when_a_dataset_is_opened(server: Server) -> None:
    """The error names the user and what to do, and never the password."""
    with pytest.raises(errors.AuthenticationError, match="app password") as raised:
        StorageDataset("data", remote=Remote(server.url, server.user, WRONG))
    assert isinstance(raised.value, PermissionError)
    assert repr(server.user) in str(raised.value)
    assert WRONG not in str(raised.value)
    assert refused(server) == len(server.requests()) == 1


def test_a_wrong_password_costs_one_request_over_all_processes_and_threads(server: Server) -> None:
    """All who share the store learn from its first request."""
    store = open_store("data", Remote(server.url, server.user, WRONG))
    with pytest.raises(errors.AuthenticationError):
        store.list()
    assert in_processes(store, multiprocessing.get_context("fork")) == [["AuthenticationError"] * 8] * 2
    if server.name == "fault":  # once is enough: a spawned process takes a second to begin
        assert in_processes(store, multiprocessing.get_context("spawn")) == [["AuthenticationError"] * 8] * 2
    assert read_in_threads(store) == ["AuthenticationError"] * 8
    assert refused(server) == len(server.requests()) == 1


def test_a_wrong_password_is_told_by_rclone_too(rclone: RcloneServer) -> None:
    """The log of rclone does not show what it refused, so the client's own record counts."""
    with pytest.raises(errors.AuthenticationError):
        StorageDataset("data", remote=Remote(rclone.url, rclone.user, WRONG))


def test_missing_credentials_are_told_as_such(server: Server) -> None:
    """Without credentials the error says other words than with wrong ones."""
    with pytest.raises(errors.AuthenticationError) as raised:
        StorageDataset("data", remote=Remote(server.url))
    assert "expired" not in str(raised.value)
    assert refused(server) == 1


def test_the_right_password_works_after_the_wrong_one(server: Server) -> None:
    """Only the refused credentials are blocked; a new store may try them again."""
    (server.root / "mended").mkdir(exist_ok=True)
    (server.root / "mended" / "a.bin").write_bytes(b"1")
    for _ in range(2):
        with pytest.raises(errors.AuthenticationError):
            open_store("mended", Remote(server.url, server.user, WRONG)).list()
    assert refused(server) == 2
    assert open_store("mended", Remote(server.url, server.user, server.password)).read("a.bin") == b"1"


def test_a_password_that_was_changed_works_when_the_dataset_is_opened_anew(fault: FaultServer) -> None:
    """An outage of the login must not block the right password for ever."""
    (fault.root / "a.bin").write_bytes(b"1")
    remote = Remote(fault.url, fault.user, fault.password)
    store = open_store("", remote)
    fault.credentials_expire()
    with pytest.raises(errors.AuthenticationError):
        store.read("a.bin")
    fault.heal()
    with pytest.raises(errors.AuthenticationError):
        store.read("a.bin")
    assert open_store("", remote).read("a.bin") == b"1"


# Credentials that expire while a training runs.


@pytest.fixture
def running(fault: FaultServer) -> tuple[FaultServer, StorageDataset]:
    """A dataset without a cache, on a server that takes its time."""
    for number in range(400):
        (fault.root / f"{number:03}.bin").write_bytes(bytes([number % 256]) * 1000)
    dataset = StorageDataset("", remote=Remote(fault.url, fault.user, fault.password), cache=None)
    fault.change(latency_s=LATENCY_S)
    fault.forget()
    return fault, dataset


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # of more workers than cores
def test_credentials_that_expire_end_the_asking_of_all_workers(running: tuple[FaultServer, StorageDataset]) -> None:
    """At most the requests in flight of four workers are refused; then no more are sent."""
    server, dataset = running
    with batches_of(dataset, workers=LOADERS, batch_size=BATCH) as batches:
        for _ in range(5):
            assert len(next(batches)) == BATCH
        server.credentials_expire()
        with pytest.raises(errors.SampleError, match="401"):
            for _ in batches:
                pass
    time.sleep(10 * LATENCY_S)  # the last ones on their way are noted when they are answered
    assert 1 <= refused(server) <= LOADERS * BATCH
    server.forget()
    for workers in (0, LOADERS):
        with batches_of(dataset, workers=workers) as batches, pytest.raises(errors.SampleError, match="401"):
            next(batches)
    with pytest.raises(errors.SampleError, match="401"):
        dataset[0]
    assert server.requests() == []


def test_credentials_that_expire_end_the_asking_of_all_threads(
    running: tuple[FaultServer, StorageDataset], patience: Patience
) -> None:
    """Eight threads have a batch each in flight; then no more requests are sent."""
    server, _ = running
    store = open_store("", Remote(server.url, server.user, server.password), patience=patience)
    entries = [Entry(f"{number:03}.bin", 1000) for number in range(400)]
    outcomes: list[object] = []

    def read() -> None:
        outcomes.extend(outcome for _, outcome in store.read_many(entries))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    server.credentials_expire()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8 * 400
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Fetched)]
    assert failed
    assert all(isinstance(outcome, errors.AuthenticationError) for outcome in failed)
    assert 1 <= refused(server) <= 8 * concurrency.MOST
    server.forget()
    with pytest.raises(errors.AuthenticationError):
        store.list()
    assert server.requests() == []


def test_credentials_that_expire_are_no_bad_samples(running: tuple[FaultServer, StorageDataset]) -> None:
    """``on_error="skip"`` leaves out broken files; without credentials the run ends."""
    server, _ = running
    remote = Remote(server.url, server.user, server.password)
    dataset = StorageDataset("", remote=remote, cache=None, on_error="skip")
    server.credentials_expire()
    with pytest.raises(errors.SampleError, match="401"):
        dataset[0]


def test_what_is_in_the_cache_is_read_without_credentials(fault: FaultServer, tmp_path: Path) -> None:
    """An epoch that needs nothing from the server completes."""
    for number in range(10):
        (fault.root / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    remote = Remote(fault.url, fault.user, fault.password)
    dataset = StorageDataset("", remote=remote, cache=tmp_path / "cache")
    dataset.warm(progress=False)
    fault.credentials_expire()
    assert [dataset[number] for number in range(10)] == [bytes([number]) * 1000 for number in range(10)]


def test_nextcloud_does_not_shut_us_out(nextcloud: NextcloudServer) -> None:
    """It does so after eleven wrong tries; twenty datasets that share a store make one."""
    share = Share(nextcloud)
    share.put({"a.bin": b"1"})
    nextcloud.forget()
    store = open_store("data", Remote(nextcloud.url, nextcloud.user, WRONG))
    for _ in range(20):
        with pytest.raises(errors.AuthenticationError):
            store.list()
    assert refused(nextcloud) == 1
    nextcloud.open_again()


# Where credentials go.


def test_a_redirect_does_not_take_credentials_elsewhere(
    fault: FaultServer, nextcloud: NextcloudServer, patience: Patience
) -> None:
    """A redirected listing is refused; a file is followed without credentials, and that host's 401 does not count."""
    (fault.root / "a.bin").write_bytes(b"1")
    store = open_store("", Remote(fault.url, fault.user, fault.password), patience=patience)
    entry = store.stat("a.bin")
    fault.always("*", Fault(status=302, headers={"Location": nextcloud.url}), method="*")
    nextcloud.forget()
    for _ in range(2):
        for ask in (store.list, lambda: store.stat("a.bin")):
            with pytest.raises(errors.ProtocolError, match="now at"):
                ask()
    assert nextcloud.requests() == []
    with pytest.raises(errors.PermissionDeniedError, match="No credentials are sent to another host"):
        store.read_range(entry, 0, 1)
    ((_, outcome),) = store.read_many([entry])
    assert isinstance(outcome, errors.PermissionDeniedError)
    assert [request.status for request in nextcloud.requests()] == [401, 401]  # which would have known the password


def test_credentials_are_found_where_rclone_has_them(fault: FaultServer, tmp_path: Path) -> None:
    """A deployment's variables, rclone.conf, and variables over it are used."""
    (fault.root / "a.bin").write_bytes(b"1")
    conf = tmp_path / "rclone.conf"
    conf.write_text(f"[rshare]\ntype = webdav\nurl = {fault.url}\nuser = nobody\npass = {obscure(WRONG)}\n")
    environ = {
        "RCLONE_CONFIG": str(conf),
        "RCLONE_CONFIG_RSHARE_USER": fault.user,
        "RCLONE_CONFIG_RSHARE_PASS": obscure(fault.password),
        "RCLONE_CONFIG_RSHARE_URL": "",
    }
    assert open_store("rshare:", environ=environ).read("a.bin") == b"1"
    assert open_store("rshare:", environ=environ | {"RCLONE_CONFIG_RSHARE_PASS": fault.password}).read("a.bin") == b"1"
    assert {request.headers["authorization"] for request in fault.requests()} == {fault.authorization}
