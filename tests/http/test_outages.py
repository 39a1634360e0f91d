"""A server that is away ends no training: reads wait for it and log that; lasting errors are raised at once."""

from __future__ import annotations

import _thread
import errno
import multiprocessing
import random
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from torch.utils.data import DataLoader

from ai4os_data import DiskCache, StorageDataLoader, StorageDataset, errors
from ai4os_data.fsspec.filesystem import open_filesystem
from ai4os_data.http import outages, retries
from ai4os_data.http.bodies import NoBody
from ai4os_data.http.retries import OUTAGE_S, Patience
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, Fetched, open_store
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.faulty import DATA, KEY, Faulty, waiting
from tests.support.servers import Fault, RcloneMount, missing_fuse, need
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai4os_data.stores import Store
    from tests.support.servers import FaultServer, Server

# Loaders of 2 workers on a loaded machine are part of what is shown.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

NUMBER = 48
FILES = {f"{number % 3}/{number:02}.bin": random.Random(number).randbytes(3_000 + number) for number in range(NUMBER)}
AWAY_S = 1.5
PATIENT = Patience(
    tries=2, first_pause_s=0.05, longest_pause_s=0.2, connect_s=2.0, stall_s=1, total_s=20.0, outage_s=60.0
)
"""Two tries, of which nothing is left after a tenth of a second; what is longer is an outage."""


@pytest.fixture(params=["apache", "wsgidav", "nextcloud"])
def away_share(request: pytest.FixtureRequest) -> Share:
    """A folder on a server that can be stopped and started again, with nothing asked yet."""
    server: Server = request.getfixturevalue(request.param)
    server.forget()
    share = Share(server)
    share.put(FILES)
    return share


@contextmanager
def away(share: Share, seconds: float = AWAY_S, *, until: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Stop the server now, and start it again a while later, whatever happens meanwhile.

    Args:
        share: on the server.
        seconds: how long it stays away at the least.
        until: what has to be so by then, on a machine however slow; for at most a minute.
    """
    share.server.stop()

    def come_back() -> None:
        latest = time.monotonic() + 60
        time.sleep(seconds)
        while not until() and time.monotonic() < latest:
            time.sleep(0.05)
        share.server.start()

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def key_and_bytes(sample: Any) -> tuple[str, bytes]:
    """Decode a sample so that its origin shows."""
    return sample.key, sample.bytes()


def dataset_on(share: Share, tmp_path: Path, patience: Patience = PATIENT, **options: Any) -> StorageDataset:
    """A dataset of the share, for readers with that patience."""
    cache = DiskCache(tmp_path / "cache", "64MiB")
    return StorageDataset(share.store(patience), **{"decode": key_and_bytes, "cache": cache, **options})


def waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the log about waiting."""
    return [record.message for record in caplog.records if "answer" in record.message]


# --- epochs over a server that restarts

LOADERS: dict[str, Callable[[StorageDataset], Any]] = {
    "loop": lambda dataset: ([dataset[number]] for number in range(len(dataset))),
    "fork": lambda dataset: DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=list, multiprocessing_context="fork"
    ),
    "spawn": lambda dataset: DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=list, multiprocessing_context="spawn"
    ),
    "look-ahead": lambda dataset: StorageDataLoader(dataset, batch_size=4, collate_fn=list, shuffle=True),
    "look-ahead with workers": lambda dataset: StorageDataLoader(
        dataset, batch_size=4, collate_fn=list, num_workers=2, shuffle=True
    ),
    "look-ahead in small steps": lambda dataset: StorageDataLoader(
        dataset, batch_size=4, collate_fn=list, num_workers=2, shuffle=True, look_ahead_bytes=20_000
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_epoch_goes_on_when_the_server_is_back(away_share: Share, tmp_path: Path, kind: str) -> None:
    """The server is away for longer than all tries take; each sample comes once, with its bytes."""
    dataset = dataset_on(away_share, tmp_path)
    coming = iter(LOADERS[kind](dataset))
    seen = list(next(coming))
    with away(away_share):
        seen += [item for batch in coming for item in batch]
    assert len(seen) == NUMBER
    assert dict(seen) == FILES


def test_look_ahead_goes_on_after_an_outage(away_share: Share, tmp_path: Path) -> None:
    """The look-ahead fetches the rest of the order by itself, and the loop need not."""
    loader = StorageDataLoader(
        dataset_on(away_share, tmp_path), batch_size=4, collate_fn=list, shuffle=True, look_ahead_bytes=20_000
    )
    coming = iter(loader)
    seen = list(next(coming))
    with away(away_share):
        seen += [item for batch in coming for item in batch]
    assert dict(seen) == FILES
    assert loader.stats()["look_ahead_files"] >= NUMBER / 2


def test_what_is_cached_is_given_during_an_outage(away_share: Share, tmp_path: Path) -> None:
    """Cached samples are given without waiting."""
    dataset = dataset_on(away_share, tmp_path)
    dataset.warm(progress=False)
    with away_share.down():
        begin = time.monotonic()
        assert dict(item for batch in DataLoader(dataset, batch_size=4, collate_fn=list) for item in batch) == FILES
        assert time.monotonic() - begin < 5


# --- what counts as being away

AWAY_ANSWERS = {
    "maintenance": Fault(status=503, body=b"<html>in maintenance mode</html>", headers={"Content-Type": "text/html"}),
    "bad gateway": Fault(status=502),
    "gateway timeout": Fault(status=504),
    "throttled": Fault(status=429),
    "throttled for a second": Fault(status=429, headers={"Retry-After": "1"}),
    "asked for an hour": Fault(status=503, headers={"Retry-After": "3600"}),
    "closed": Fault(drop=True),
    "reset": Fault(drop=True, reset=True),
    "silent": Fault(stall_s=30),
}


@pytest.fixture
def patient(fault: FaultServer) -> Faulty:
    """A file that was listed on the fault server, by somebody who waits for a server that is away."""
    return Faulty.make(fault, PATIENT)


VERBS: dict[str, Callable[[Faulty], object]] = {
    "GET": lambda faulty: faulty.bytes(),
    "range": lambda faulty: faulty.store.read_range(faulty.entry, 10, 20),
    "PROPFIND": lambda faulty: faulty.store.stat(KEY),
}


@pytest.mark.parametrize("answer", AWAY_ANSWERS)
@pytest.mark.parametrize("verb", VERBS)
def test_outage_is_waited_out(patient: Faulty, verb: str, answer: str) -> None:
    """However a server shows that it is away, tries do not end the waiting."""
    store = patient.store
    if answer == "asked for an hour":  # then the end of our patience is what is waited for
        store = waiting(store, AWAY_S + 1.0)
    patient = Faulty(patient.server, store, patient.entry)
    patient.server.always("*", AWAY_ANSWERS[answer], method="PROPFIND" if verb == "PROPFIND" else "GET")
    away_s = 2 * AWAY_S if answer == "silent" else AWAY_S  # longer than two tries take
    timer = threading.Timer(away_s, patient.server.heal)
    timer.start()
    begin = time.monotonic()
    VERBS[verb](patient)
    assert away_s <= time.monotonic() - begin < away_s + 10.0
    timer.join()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 500, 507])
@pytest.mark.parametrize("verb", VERBS)
def test_what_cannot_pass_is_told_at_once(patient: Faulty, verb: str, status: int) -> None:
    """An error that does not pass by itself is raised without waiting."""
    patient.server.always("*", Fault(status=status), method="PROPFIND" if verb == "PROPFIND" else "GET")
    begin = time.monotonic()
    with pytest.raises((errors.StorageError, AssertionError)):
        VERBS[verb](patient)
    assert time.monotonic() - begin < 2


def test_name_that_never_resolved_is_told_after_its_tries() -> None:
    """Such a name is probably misspelt, so the server does not count as away."""
    store = WebDAVStore(Remote("http://no-such-host.invalid/dav", "alice", "sesame"), patience=PATIENT)
    begin = time.monotonic()
    with pytest.raises(errors.ServerUnavailableError):
        store.stat(KEY)
    ((_, outcome),) = store.read_many([Faulty.listed()])
    assert isinstance(outcome, errors.ServerUnavailableError)
    assert time.monotonic() - begin < 20


def test_writes_keep_their_own_tries(patient: Faulty) -> None:
    """A checkpoint's uploads have a patience of their own."""
    patient.server.always(KEY, Fault(status=503), method="PUT")
    with pytest.raises(errors.ServerUnavailableError):
        patient.store.write(KEY, DATA)
    assert len(patient.requests("PUT")) == PATIENT.tries


def test_broken_file_is_no_outage(patient: Faulty) -> None:
    """While the server answers for other files, this one ends after its tries, and the others do not wait."""
    for number in range(60):
        (patient.server.root / f"{number:02}.bin").write_bytes(b"1")
    patient.server.change(latency_s=0.02)
    patient.server.always(KEY, Fault(status=503))
    entries = [Entry(f"{number:02}.bin", 1) for number in range(60)]
    begin = time.monotonic()
    found = dict(patient.store.read_many([patient.entry, *entries]))
    assert time.monotonic() - begin < 5
    assert isinstance(found.pop(patient.entry), errors.ServerUnavailableError)
    assert all(isinstance(outcome, Fetched) for outcome in found.values())


# --- how it is waited for


def test_few_requests_are_made_while_the_server_is_away(patient: Faulty) -> None:
    """After the requests in flight have failed, one asks for all, however many threads and files wait."""
    for number in range(200):
        (patient.server.root / f"{number:03}.bin").write_bytes(b"1")
    entries = [Entry(f"{number:03}.bin", 1) for number in range(200)]
    store = WebDAVStore(patient.store.remote, patience=replace(PATIENT, first_pause_s=0.3, longest_pause_s=0.5))
    patient.server.always("*", Fault(status=503))
    timer = threading.Timer(4.0, patient.server.heal)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.extend(outcome for _, outcome in store.read_many(entries)))
        for _ in range(4)
    ]
    timer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timer.join()
    assert len(found) == 800
    assert all(isinstance(outcome, Fetched) for outcome in found)
    refused = [request for request in patient.requests() if request.status == 503]
    assert len(refused) <= 4 * 16 + 4.0 / 0.15


def test_waiting_is_logged_when_it_begins_each_minute_and_when_it_ends(
    patient: Faulty, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One set of lines for all threads, with remote, longest wait and duration, and no secrets."""
    monkeypatch.setattr(outages, "_LINE_EVERY_S", 1.0)
    patient.server.always("*", Fault(status=503))
    timer = threading.Timer(2.5, patient.server.heal)
    timer.start()
    threads = [threading.Thread(target=patient.bytes) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timer.join()
    begun, *each, ended = waits(caplog)
    assert patient.store.remote.origin in begun
    assert "503" in begun
    assert "for 60 s at most" in begun
    assert 1 <= len(each) <= 3
    assert all("still waiting" in line for line in each)
    assert "answers again, after 3 s" in ended or "answers again, after 2 s" in ended
    assert patient.server.password not in caplog.text


def test_odd_failure_is_not_logged(patient: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    """A failure that the next try mends is not logged."""
    patient.server.script(KEY, Fault(status=503))
    patient.bytes()
    assert waits(caplog) == []


@pytest.mark.parametrize("verb", VERBS)
def test_long_pause_that_the_server_asks_for_is_logged(
    patient: Faulty, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It is logged at its begin and in its course; otherwise it would look like a hang."""
    monkeypatch.setattr(outages, "_LINE_EVERY_S", 1.0)
    asked = Fault(status=503, headers={"Retry-After": "4"})
    patient.server.script("*", asked, method="PROPFIND" if verb == "PROPFIND" else "GET")
    begin = time.monotonic()
    VERBS[verb](patient)
    assert time.monotonic() - begin >= 4
    begun, *each, ended = waits(caplog)
    assert "Reading waits" in begun
    assert len(each) >= 2
    assert "answers again" in ended


@pytest.mark.parametrize("verb", VERBS)
def test_waiting_ends_with_its_time(patient: Faulty, verb: str) -> None:
    """The error says how long the read waited, and which setting said so."""
    faulty = Faulty(patient.server, waiting(patient.store, 2.0), patient.entry)
    patient.server.always("*", Fault(status=503), method="PROPFIND" if verb == "PROPFIND" else "GET")
    begin = time.monotonic()
    if verb == "GET":
        outcome = faulty.outcome()
        assert isinstance(outcome, errors.ServerUnavailableError)
        said = str(outcome)
    else:
        with pytest.raises(errors.ServerUnavailableError) as raised:
            VERBS[verb](faulty)
        said = str(raised.value)
    assert 1.5 <= time.monotonic() - begin < 4
    assert "outage_s=2" in said
    assert "503" in said


@pytest.mark.parametrize("is_large", [False, True])
def test_server_that_sends_slowly_is_back(patient: Faulty, is_large: bool) -> None:  # noqa: FBT001  a parameter
    """Its first bytes end the waiting, so that other reads do not give up during that answer."""
    for number in range(12):
        (patient.server.root / f"{number:02}.bin").write_bytes(b"12345")
    patience = replace(PATIENT, stall_s=8, outage_s=2.5)
    store = WebDAVStore(patient.store.remote, patience=patience)
    patient.server.always("*", Fault(status=503, body=b"<html>in maintenance mode</html>"))

    def come_back() -> None:
        patient.server.heal()
        patient.server.always("*", Fault(stall_s=4.0, stall_after_bytes=2))

    timer = threading.Timer(1.0, come_back)
    timer.start()
    entries = [Entry(f"{number:02}.bin", 5) for number in range(12)]
    begin = time.monotonic()
    make = (lambda _: NoBody()) if is_large else None
    assert all(isinstance(outcome, Fetched) for _, outcome in store.read_many(entries, make))
    assert time.monotonic() - begin < 15
    timer.join()


def test_batch_ends_as_a_whole_when_the_waiting_ends(patient: Faulty) -> None:
    """Requests that were never sent do not wait one after the other."""
    for number in range(60):
        (patient.server.root / f"{number:02}.bin").write_bytes(b"1")
    store = waiting(patient.store, 2.0)
    patient.server.always("*", Fault(status=503))
    begin = time.monotonic()
    outcomes = [outcome for _, outcome in store.read_many(Entry(f"{number:02}.bin", 1) for number in range(60))]
    assert time.monotonic() - begin < 5
    assert len(outcomes) == 60
    assert all(isinstance(outcome, errors.ServerUnavailableError) for outcome in outcomes)


def test_without_waiting_tries_end_it(patient: Faulty) -> None:
    """With ``outage_s=0`` a read ends after the tries of its patience."""
    patient.server.always("*", Fault(status=503))
    with pytest.raises(errors.ServerUnavailableError):
        waiting(patient.store, 0.0).read_range(patient.entry, 0, 10)
    assert len(patient.requests()) == PATIENT.tries


@pytest.mark.parametrize("kind", ["GET", "PROPFIND"])
def test_interrupt_ends_the_waiting(patient: Faulty, kind: str) -> None:
    """Ctrl-C is raised at once."""
    patient.server.stop()
    try:
        timer = threading.Timer(1.0, lambda: _thread.interrupt_main(signal.SIGINT))
        timer.start()
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            VERBS[kind](patient)
        assert time.monotonic() - begin < 3
    finally:
        patient.server.start()


def test_forked_child_waits_by_itself(patient: Faulty) -> None:
    """It inherits neither its parent's knowledge of an outage nor its locks."""
    patient.server.always("*", Fault(status=503))
    thread = threading.Thread(target=patient.bytes)
    thread.start()
    time.sleep(1.0)
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(patient.bytes()))
    process.start()
    time.sleep(0.5)
    patient.server.heal()
    assert ours.poll(20)
    assert ours.recv() == DATA
    process.join()
    thread.join()


# --- where it is set


def _be_killed(store: Store, told: Any) -> None:
    """Be a trainer whose worker reads."""
    worker = multiprocessing.get_context("fork").Process(target=store.read, args=(Faulty.listed().key,))
    worker.start()
    told.send(worker.pid)
    time.sleep(60)


def test_worker_whose_trainer_is_killed_waits_no_more(patient: Faulty) -> None:
    """Nobody uses what it reads; it once waited for ten minutes."""
    patient.server.always("*", Fault(status=503), method="*")
    context = multiprocessing.get_context("fork")
    heard, told = context.Pipe(duplex=False)
    trainer = context.Process(target=_be_killed, args=(patient.store, told))
    trainer.start()
    worker = heard.recv()
    time.sleep(1)
    assert _runs(worker)
    trainer.kill()
    trainer.join()
    until = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("wrong", [-1, float("nan"), "600", None.__class__, True])
def test_only_a_number_of_seconds_is_taken(share: Share, wrong: Any) -> None:
    """The error for anything else names the argument."""
    for make in (
        lambda: StorageDataset(share.location, remote=share.remote, outage_s=wrong),
        lambda: StorageDataset.from_keys(share.location, ["a"], remote=share.remote, outage_s=wrong),
        lambda: open_filesystem(share.location, share.remote, outage_s=wrong),
        lambda: open_store(share.location, share.remote, outage_s=wrong),
        lambda: fsspec.filesystem("ai4os", outage_s=wrong),
    ):
        with pytest.raises(ValueError, match="outage_s"):
            make()


def outage_of(store: Store) -> float:
    """How long the reads of a store wait."""
    found: Any = store
    waited: float = found.patience.outage_s
    return waited


def test_ten_minutes_are_waited_unless_told_otherwise(share: Share) -> None:
    """Datasets and file systems have this default; a given store keeps its own."""
    share.put(FILES)
    store = open_store(share.location, share.remote)
    assert outage_of(store) == OUTAGE_S == 600
    assert outage_of(open_store(share.location, share.remote, outage_s=5)) == 5
    dataset = StorageDataset(share.location, remote=share.remote, cache=None)
    assert outage_of(dataset.reader.files.store) == 600
    given = share.store(replace(PATIENT, outage_s=7.0))
    assert outage_of(StorageDataset(given, cache=None).reader.files.store) == 7
    assert outage_of(StorageDataset(given, cache=None, outage_s=0).reader.files.store) == 0


# --- opening


def test_opening_waits_no_longer_than_half_a_minute(
    away_share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is a second; then a kept listing is used, or the error is raised."""
    monkeypatch.setattr(retries, "OPENING_S", 1.0)
    dataset = dataset_on(away_share, tmp_path)
    assert len(dataset) == NUMBER
    with away_share.down():
        begin = time.monotonic()
        assert len(dataset_on(away_share, tmp_path)) == NUMBER
        assert time.monotonic() - begin < 3
        begin = time.monotonic()
        with pytest.raises(errors.ServerUnavailableError, match="outage_s=1"):
            dataset_on(away_share, tmp_path / "other")
        assert time.monotonic() - begin < 4


def test_silent_server_is_not_waited_for_where_a_listing_is_kept(
    fault: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request ends within the time that opening has."""
    monkeypatch.setattr(retries, "OPENING_S", 1.0)
    share = Share(fault)
    share.put(FILES)
    patience = replace(PATIENT, stall_s=60)
    dataset_on(share, tmp_path, patience)
    fault.always("*", Fault(stall_s=30), method="PROPFIND")
    begin = time.monotonic()
    assert len(dataset_on(share, tmp_path, patience)) == NUMBER
    assert time.monotonic() - begin < 5


def test_server_that_comes_back_while_a_dataset_is_opened_is_waited_for(away_share: Share, tmp_path: Path) -> None:
    """A new run that begins during a restart begins a little later."""
    with away(away_share):
        assert len(dataset_on(away_share, tmp_path)) == NUMBER


# --- other places


class _Shaky(MemoryFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """A foreign file system whose network is away until a moment."""

    protocol = "shaky"
    store: ClassVar[Any] = {}
    back_s = 0.0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return f"/{path.removeprefix('shaky://').strip('/')}"

    def _open(self, *arguments: Any, **options: Any) -> Any:
        if time.monotonic() < type(self).back_s:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        return super()._open(*arguments, **options)


def test_fsspec_store_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is waited for whichever file system reports it."""
    fsspec.register_implementation("shaky", _Shaky, clobber=True)
    _Shaky().pipe_file("/data/a.bin", DATA)
    dataset = StorageDataset(open_store("shaky://data", patience=PATIENT), cache=None)
    _Shaky.back_s = time.monotonic() + AWAY_S
    assert dataset[0] == DATA
    assert time.monotonic() >= _Shaky.back_s
    assert len(waits(caplog)) == 2


def test_mounted_location_waits_for_the_server_behind_it(
    wsgidav: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mount says errno 5 while its server is away; a mount whose process died is not waited for."""
    need(missing_fuse())
    share = Share(wsgidav)
    share.put(FILES)
    (tmp_path / "mount").mkdir()
    remote = f"{share.server.url}{share.name.replace(' ', '%20')}"
    flags = ["--low-level-retries", "1"]
    with RcloneMount(remote, share.server.user, share.server.password, tmp_path / "mount", flags=flags) as mount:
        dataset = StorageDataset(str(mount.path), cache=None, outage_s=120)
        assert dataset[0] == FILES[dataset.keys[0]]
        with away(share, 5.0, until=lambda: any("the mount" in line for line in waits(caplog))):
            assert dataset[1] == FILES[dataset.keys[1]]
        assert any("the mount" in line for line in waits(caplog))
        mount.child.kill()
        begin = time.monotonic()
        with pytest.raises(errors.SampleError, match="the storage is gone"):
            dataset[2]
        assert time.monotonic() - begin < 5
