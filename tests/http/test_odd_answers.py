"""One odd answer among good ones: a lock concerns its file, and a 401 is tried once more before all stop."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from torch.utils.data import DataLoader

from ai4os_data import DiskCache, StorageDataLoader, StorageDataset, errors
from ai4os_data.http import MemoryBody, Request, Transport, refusals
from ai4os_data.http.answers import parse_head
from ai4os_data.http.retries import LOCKED_TRIES
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, Fetched, open_store
from tests.support.faulty import Faulty
from tests.support.servers import Fault
from tests.support.servers.rclone import obscure
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Store
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import FaultServer

NUMBER = 40
FILES = {f"{number:02}.bin": bytes([number]) * (1_000 + number) for number in range(NUMBER)}
ODD = "17.bin"
TOKEN = "bearer-token_1.2~3"


class OddShare(Share):
    """A folder on the fault server."""

    server: FaultServer


@pytest.fixture
def odd(fault: FaultServer) -> OddShare:
    """A folder on the fault server, with nothing asked yet."""
    share = OddShare(fault)
    share.put(FILES)
    fault.forget()
    return share


def path_of(share: Share, key: str) -> str:
    """The path of a file on the server."""
    return f"{share.name}/{key}"


def statuses(share: Share, key: str = ODD) -> list[int]:
    """The statuses of the answers to requests for a file."""
    return [request.status for request in share.server.requests() if request.path.endswith(f"/{key}")]


def opened(share: Share, **options: Any) -> StorageDataset:
    """The folder as a user opens it."""
    return StorageDataset(share.location, remote=share.remote, **{"cache": None, **options})


# --- locked


@pytest.mark.parametrize("workers", [0, 2])
def test_locked_file_is_skipped_in_short_time(odd: OddShare, workers: int) -> None:
    """A lock concerns one file: the others come, and nothing waits for ten minutes."""
    dataset = opened(odd, on_error="skip")
    odd.server.always(path_of(odd, ODD), Fault(status=423))
    begin = time.monotonic()
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=list)
    assert sum(map(len, loader)) == NUMBER - 1
    assert time.monotonic() - begin < 8
    assert statuses(odd) == [423] * LOCKED_TRIES
    assert dataset.stats()["skipped"] == 1


def test_locked_file_is_left_out_of_warming_and_looking_ahead(odd: OddShare, tmp_path: Path) -> None:
    """Warming and look-ahead fetch all the other files."""
    dataset = opened(odd, on_error="skip", cache=DiskCache(tmp_path, "64MiB"))
    odd.server.always(path_of(odd, ODD), Fault(status=423))
    assert dataset.warm(progress=False)["files"] == NUMBER - 1
    assert sum(map(len, StorageDataLoader(dataset, batch_size=8, collate_fn=list))) == NUMBER - 1


def test_error_of_a_locked_file_says_how_the_lock_goes_away(odd: OddShare) -> None:
    """The error says who may hold it, how long it lasts, and who can remove it."""
    dataset = opened(odd)
    odd.server.always(path_of(odd, ODD), Fault(status=423))
    with pytest.raises(
        errors.SampleError, match=r"locked.*after an hour.*oc_file_locks.*on_error='skip'.*423"
    ) as raised:
        dataset[dataset.keys.index(ODD)]
    assert isinstance(raised.value.__cause__, errors.LockedError)


def test_lock_that_goes_is_waited_for(odd: OddShare) -> None:
    """A short lock, such as that of a write, costs a pause and no error."""
    dataset = opened(odd)
    odd.server.script(path_of(odd, ODD), Fault(status=423))
    assert dataset[dataset.keys.index(ODD)] == FILES[ODD]


def test_lock_is_no_outage(odd: OddShare, caplog: pytest.LogCaptureFixture) -> None:
    """Many locked files hold up no others, and are not taken for an outage."""
    dataset = opened(odd, on_error="skip")
    for number in range(10, 20):
        odd.server.always(path_of(odd, f"{number}.bin"), Fault(status=423))
    begin = time.monotonic()
    assert len(dataset.__getitems__(list(range(NUMBER)))) == NUMBER - 10
    assert time.monotonic() - begin < 6
    assert "does not answer" not in caplog.text


def test_archive_that_is_locked_comes_as_single_files(nextcloud: NextcloudServer, patience: Patience) -> None:
    """The lock of one member does not hold up the others."""
    share = Share(nextcloud)
    share.put({f"{number}.bin": b"1" for number in range(8)})
    store = share.store(patience)
    entries = store.list()
    nextcloud.forget()
    assert all(isinstance(outcome, Fetched) for _, outcome in store.read_many(entries))


# --- 401 among good answers


def read_all(store: Store) -> dict[str, object]:
    """Read every file by a GET; the outcomes."""
    return {
        entry.key: outcome
        for entry, outcome in store.read_many(
            [Faulty.listed()._replace(key=key, size_bytes=len(data), etag=None) for key, data in FILES.items()]
        )
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_one_odd_401_is_tried_once_more(odd: OddShare, workers: int) -> None:
    """A server behind a balancer may fail a login once, and the epoch is complete."""
    dataset = opened(odd, decode=lambda sample: (sample.key, sample.bytes()))
    odd.server.script(path_of(odd, ODD), Fault(status=401))
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=list)
    assert dict(item for batch in loader for item in batch) == FILES
    assert statuses(odd) == [401, 200]


def test_odd_401_in_a_listing_is_tried_once_more(odd: OddShare) -> None:
    """The same holds for DAV verbs."""
    store = open_store(odd.location, odd.remote)
    for key in FILES:
        store.stat(key)
    odd.server.script("*", Fault(status=401), method="PROPFIND")
    assert len(store.list()) == NUMBER


@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_second_401_ends_the_asking(odd: OddShare, verb: str) -> None:
    """Two requests are sent, and then none, of no thread and no process."""
    store = open_store(odd.location, odd.remote)
    read_all(store)
    odd.server.forget()
    odd.server.credentials_expire()
    with pytest.raises(errors.AuthenticationError):
        store.stat(ODD) if verb == "PROPFIND" else store.read_range(Faulty.listed()._replace(key=ODD), 0, 5)
    assert [request.status for request in odd.server.requests()] == [401, 401]
    odd.server.forget()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_asks(store), range(4)) == ["AuthenticationError"] * 4
    assert odd.server.requests() == []


class _asks:  # noqa: N801  a function that pickles with its store
    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, _: int) -> str:
        """The outcome of a listing."""
        try:
            self._store.list()
        except errors.StorageError as error:
            return type(error).__name__
        return "listed"


def test_many_threads_make_one_second_try(odd: OddShare) -> None:
    """Threads that were refused too, and threads that begin later, wait for its answer."""
    store = open_store(odd.location, odd.remote)
    read_all(store)
    odd.server.forget()
    odd.server.script("*", Fault(status=401))
    outcomes: list[object] = []
    threads = [threading.Thread(target=lambda: outcomes.extend(read_all(store).values())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(outcome, Fetched) for outcome in outcomes)
    assert len(outcomes) == 4 * NUMBER
    assert sum(request.status == 401 for request in odd.server.requests()) == 1


@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_changed_credentials_are_found_in_the_configuration(
    odd: OddShare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The app password was renewed while a training ran: ``rclone.conf`` has the new one."""
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
    configure(odd, tmp_path, user=odd.server.user, **{"pass": obscure(odd.server.password)})
    store = open_store(f"mine:{odd.name}")
    read_all(store)
    configure(odd, tmp_path, bearer_token=TOKEN)
    odd.server.forget()
    basic = odd.server.authorization
    odd.server.always("*", Fault(status=401), method=verb)
    timer = threading.Timer(0.3, odd.server.heal)  # what is refused is the first request, and not the one after it
    timer.start()
    assert (
        store.stat(ODD)
        if verb == "PROPFIND"
        else store.read_range(Faulty.listed()._replace(key=ODD, etag=None, size_bytes=len(FILES[ODD])), 0, 5)
    )
    timer.join()
    sent = [request.headers["authorization"] for request in odd.server.requests() if request.method == verb]
    assert sent == [basic, f"Bearer {TOKEN}"]


def configure(share: Share, folder: Path, **options: str) -> None:
    """Write the remote ``mine`` into the configuration of rclone."""
    lines = {"type": "webdav", "url": share.server.url, "vendor": "other", **options}
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    (folder / "rclone.conf").write_text(f"[mine]\n{text}")


def test_401_is_about_the_credentials_that_were_sent(
    odd: OddShare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread reads new ones while a request begins: it went with the old ones, and the new ones are good."""
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
    configure(odd, tmp_path, user=odd.server.user, **{"pass": obscure(odd.server.password)})
    transport = Transport(Remote.discover("mine"))
    old = transport.remote

    class Body(MemoryBody):
        def restart(self) -> None:
            """While the request begins, the old credentials are refused elsewhere, and a thread reads new ones."""
            super().restart()
            configure(odd, tmp_path, bearer_token=TOKEN)
            until_s = time.monotonic() + 5.0
            while transport.remote is old and time.monotonic() < until_s:
                refusals.Refusals(old).record()
                transport.credentials.turn()

    odd.server.script("*", Fault(status=401), method="GET")
    body = Body()
    transport.send(Request(f"{transport.remote.url}/{quote(path_of(odd, ODD))}", body))
    assert body.getvalue() == FILES[ODD]
    sent = [request.headers["authorization"] for request in odd.server.requests()]
    assert sent == [odd.server.authorization, f"Bearer {TOKEN}"]


def test_later_epoch_may_try_again(odd: OddShare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some time after a refusal one request asks for all; while it is refused, the others do not ask."""
    dataset = opened(odd)
    assert len(list(DataLoader(dataset, batch_size=8, collate_fn=list))) == NUMBER / 8
    odd.server.credentials_expire()
    with pytest.raises(errors.SampleError, match="401"):
        dataset[0]
    monkeypatch.setattr(refusals, "_STANDS_S", 0.5)
    time.sleep(0.6)
    odd.server.forget()
    with pytest.raises(errors.SampleError, match="401"):
        dataset.__getitems__(list(range(NUMBER)))
    assert [request.status for request in odd.server.requests()] == [401]
    odd.server.heal()
    time.sleep(2.5)  # the second refusal stands longer
    assert len(list(DataLoader(dataset, batch_size=8, collate_fn=list))) == NUMBER / 8


def test_refusal_stands_twice_as_long_after_each(fault: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over epochs thus never makes enough wrong tries for the server to shut the address out."""
    monkeypatch.setattr(refusals, "_STANDS_S", 0.2)
    held = refusals.Refusals(Remote(fault.url, "somebody", "else"))
    held.held_since -= 1.0
    try:
        for number in range(3):
            held.record()
            begin = time.monotonic()
            while held.turn() == "refused":
                time.sleep(0.01)
            assert time.monotonic() - begin == pytest.approx(0.2 * 2**number, abs=0.15)
    finally:
        held.accepted()


QUESTIONS: dict[str, Callable[[Store], object]] = {
    "list": lambda store: store.list(),
    "stat": lambda store: store.stat(ODD),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_credentials_that_never_worked_are_tried_once(odd: OddShare, question: str) -> None:
    """Without a good answer before, a 401 means a wrong password."""
    store = open_store(odd.location, Remote(odd.server.url, odd.server.user, "wrong"))
    with pytest.raises(errors.AuthenticationError):
        QUESTIONS[question](store)
    assert [request.status for request in odd.server.requests()] == [401]


def test_odd_status_is_read_as_curl_reads_it() -> None:
    """One without a blank after it was a ValueError."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200OK\r\nContent-Length: 4\r\n\r\n1234")

        thread = threading.Thread(target=answer)
        thread.start()
        store = open_store("", Remote(f"http://127.0.0.1:{listening.getsockname()[1]}/dav", "alice", "secret"))
        ((_, outcome),) = store.read_many([Entry("a.bin", 4, "e")])
        thread.join()
    assert isinstance(outcome, Fetched)
    assert outcome.entry == Entry("a.bin", 4, "e")


def test_lines_without_a_carriage_return_are_lines() -> None:
    """Curl takes them; the ETag in them was lost, and with it that the file had changed."""
    assert parse_head([b"HTTP/1.0 200 OK\n", b'ETag: "e"\n', b"\n"]) == (200, {"etag": '"e"'})
