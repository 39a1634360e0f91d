"""Failures that may pass are tried again, as server and patience allow; others are raised at once."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.http.retries import Patience
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Fetched, file_at
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.faulty import DATA, KEY, SIZE_BYTES, Faulty
from tests.support.outcomes import content
from tests.support.servers import Fault, FaultServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RETRIED = {
    423: errors.LockedError,
    429: errors.ThrottledError,
    502: errors.ServerUnavailableError,
    503: errors.ServerUnavailableError,
    504: errors.ServerUnavailableError,
}
FINAL = {
    400: errors.ProtocolError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    405: errors.ServerError,
    413: errors.ServerError,
    418: errors.ServerError,
    500: errors.ServerError,
    501: errors.ServerError,
    507: errors.OutOfSpaceError,
}


def read(store: WebDAVStore) -> bytes:
    """Read the whole file, by one GET if all is well."""
    return store.read_range(store.stat(KEY), 0, SIZE_BYTES)


VERBS: dict[str, Callable[[WebDAVStore], object]] = {
    "GET": read,
    "PROPFIND": lambda store: store.stat(KEY),
    "PUT": lambda store: store.write(KEY, DATA),
    "DELETE": lambda store: store.delete(KEY),
}


# Which answers are tried again.


@pytest.mark.parametrize("status", RETRIED)
@pytest.mark.parametrize("verb", VERBS)
def test_what_may_pass_is_tried_again(faulty: Faulty, verb: str, status: int) -> None:
    """The server is busy once."""
    faulty.server.script(KEY, Fault(status=status), method=verb)
    VERBS[verb](faulty.store)
    assert faulty.requests(verb)[0].status == status
    # The fault is in the answer: what a DELETE was for has happened by its second try.
    assert faulty.requests(verb)[1].status in {200, 204, 206, 207, 404}


@pytest.mark.parametrize(("status", "error"), RETRIED.items())
@pytest.mark.parametrize("verb", VERBS)
def test_what_does_not_pass_is_told_with_its_type(
    faulty: Faulty, verb: str, status: int, error: type[errors.StorageError]
) -> None:
    """The error comes after the tries of the patience."""
    faulty.server.always(KEY, Fault(status=status), method=verb)
    with pytest.raises(error, match=str(status)) as raised:
        VERBS[verb](faulty.store)
    assert type(raised.value) is error
    assert [request.status for request in faulty.requests(verb)] == [status] * 3


@pytest.mark.parametrize(("status", "error"), FINAL.items())
@pytest.mark.parametrize("verb", VERBS)
def test_what_will_not_pass_costs_one_request(
    faulty: Faulty, verb: str, status: int, error: type[errors.StorageError]
) -> None:
    """Another would add load, or block our address. The 507 of a listing is no full storage."""
    if (verb, status) == ("PROPFIND", 507):
        error = errors.ServerError
    faulty.server.always(KEY, Fault(status=status), method=verb)
    with pytest.raises(error, match=str(status)) as raised:
        VERBS[verb](faulty.store)
    assert isinstance(raised.value, errors.OutOfSpaceError) == (error is errors.OutOfSpaceError)
    assert len(faulty.requests(verb)) == 1


def test_a_missing_file_costs_one_request(faulty: Faulty) -> None:
    """A 404 is an answer and is not tried again."""
    (faulty.server.root / KEY).unlink()
    assert isinstance(faulty.outcome(), errors.NotFoundError)
    assert len(faulty.requests()) == 1


def test_a_full_disk_is_told_as_the_operating_system_would(faulty: Faulty) -> None:
    """Code that handles a full disk handles a full quota."""
    faulty.server.always(KEY, Fault(status=507), method="PUT")
    with pytest.raises(OSError, match="full") as raised:
        faulty.store.write(KEY, DATA)
    assert raised.value.errno == 28


@pytest.mark.parametrize("broken", [Fault(drop=True), Fault(drop=True, reset=True), Fault(cut_after_bytes=0)], ids=repr)
@pytest.mark.parametrize("verb", VERBS)
def test_a_broken_connection_is_made_again(faulty: Faulty, verb: str, broken: Fault) -> None:
    """Every verb is sent again, since each of ours may be sent twice."""
    faulty.server.script(KEY, broken, method=verb)
    VERBS[verb](faulty.store)
    assert (faulty.server.root / KEY).exists() == (verb != "DELETE")


@pytest.mark.parametrize("verb", ["GET", "PROPFIND", "DELETE"])
def test_an_answer_that_does_not_come_is_asked_for_again(faulty: Faulty, verb: str) -> None:
    """The next try follows after a second without a byte."""
    faulty.server.script(KEY, Fault(stall_s=30), method=verb)
    VERBS[verb](faulty.store)
    assert len(faulty.requests(verb)) == 2


def test_an_upload_waits_longer_for_its_answer(faulty: Faulty) -> None:
    """A server may hash what it stored; a second try would only start that over."""
    faulty.server.script(KEY, Fault(stall_s=2.5), method="PUT")
    faulty.store.write(KEY, DATA)
    assert len(faulty.requests("PUT")) == 1


@pytest.mark.parametrize("from_file", [False, True])
def test_a_second_try_of_an_upload_sends_all_of_it(faulty: Faulty, tmp_path: Path, from_file: bool) -> None:  # noqa: FBT001  a parameter
    """The first try was refused after it was sent, or lost its answer."""
    (tmp_path / "local.bin").write_bytes(DATA[::-1])
    faulty.server.script(KEY, Fault(status=503), Fault(drop=True, reset=True), method="PUT")
    entry = faulty.store.write(KEY, tmp_path / "local.bin" if from_file else DATA[::-1])
    assert (faulty.server.root / KEY).read_bytes() == DATA[::-1]
    assert entry.size_bytes == SIZE_BYTES
    assert [request.headers["content-length"] for request in faulty.requests("PUT")] == [str(SIZE_BYTES)] * 3


def test_a_delete_whose_answer_was_lost_is_done(faulty: Faulty) -> None:
    """The second try finds nothing, which is the goal of a DELETE."""
    faulty.server.script(KEY, Fault(status=503), method="DELETE")
    faulty.store.delete(KEY)
    assert [request.status for request in faulty.requests("DELETE")] == [503, 404]


# When they are tried again.


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_retry_after_in_seconds_is_honoured(faulty: Faulty, verb: str, status: int) -> None:
    """The next try comes soon after that time."""
    faulty.server.script(KEY, Fault(status=status, headers={"Retry-After": "1"}), method=verb)
    begin = time.monotonic()
    VERBS[verb](faulty.store)
    assert 1.0 <= time.monotonic() - begin < 1.8


@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_retry_after_as_a_date_is_honoured(faulty: Faulty, verb: str) -> None:
    """The next try comes at that time, to the second."""
    then = int(time.time()) + 2
    faulty.server.script(KEY, Fault(status=503, headers={"Retry-After": formatdate(then, usegmt=True)}), method=verb)
    VERBS[verb](faulty.store)
    assert then <= time.time() < then + 0.8


@pytest.mark.parametrize(
    "value",
    ["soon", "", "-5", "1.5", "\u00b2", "Wed, 32 Nov 2026 25:00:00 GMT", "0", f"Tue, 24 Nov {10**30} 10:00:00 GMT"],
)
@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_a_retry_after_that_is_none_is_not_waited_for(faulty: Faulty, verb: str, value: str) -> None:
    """A header that cannot be parsed raises nothing and adds no pause."""
    faulty.server.script(KEY, Fault(status=503, headers={"Retry-After": value}), method=verb)
    begin = time.monotonic()
    VERBS[verb](faulty.store)
    assert time.monotonic() - begin < 0.8


@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_a_retry_after_beyond_the_deadline_is_told_at_once(faulty: Faulty, verb: str) -> None:
    """Waiting for less than was asked would be in vain."""
    faulty.server.always(KEY, Fault(status=503, headers={"Retry-After": "3600"}), method=verb)
    begin = time.monotonic()
    with pytest.raises(errors.ServerUnavailableError):
        VERBS[verb](faulty.store)
    assert time.monotonic() - begin < 0.8
    assert len(faulty.requests(verb)) == 1


def test_a_pause_holds_up_only_what_waits_for_it(faulty: Faulty) -> None:
    """The other files of a batch come during it."""
    for number in range(10):
        (faulty.server.root / f"{number}.bin").write_bytes(b"1")
    faulty.server.script(KEY, Fault(status=429, headers={"Retry-After": "1"}))
    begin = time.monotonic()
    arrivals = {entry.key: time.monotonic() - begin for entry, _ in faulty.store.read_many(faulty.store.list())}
    assert arrivals.pop(KEY) >= 1.0
    assert len(arrivals) == 10
    assert max(arrivals.values()) < 0.8


def test_tries_and_pauses_are_counted(faulty: Faulty) -> None:
    """The counters explain a slow epoch."""
    faulty.server.script(KEY, Fault(status=503, headers={"Retry-After": "1"}), Fault(cut_after_bytes=0))
    before = faulty.store.counters.totals()
    assert faulty.bytes() == DATA
    after = faulty.store.counters.totals()
    assert after["retries"] - before["retries"] == 2
    assert 1.0 <= (after["waited_ns"] - before["waited_ns"]) / 1e9 < 1.1
    assert after["requests_get"] - before["requests_get"] == 3
    assert after["bytes_from_network"] - before["bytes_from_network"] == SIZE_BYTES


def test_pauses_grow_and_are_never_quite_alike() -> None:
    """They double up to a limit, with random parts, so that clients do not return together."""
    patience = Patience(first_pause_s=1.0, longest_pause_s=8.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (9, 8.0)):
        pauses = {patience.pause_s(failures) for _ in range(50)}
        assert len(pauses) > 40
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
    assert 60.0 <= patience.pause_s(1, 60.0) <= 61.0


def test_a_lock_out_is_explained(faulty: Faulty) -> None:
    """After wrong passwords Nextcloud answers even the right one with a 429 without Retry-After."""
    faulty.server.always(KEY, Fault(status=429))
    assert "wrong passwords" in str(faulty.outcome())
    faulty.server.always(KEY, Fault(status=429, headers={"Retry-After": "0"}))
    assert "wrong passwords" not in str(faulty.outcome())


# What a question of being there is answered with.


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 418, 423, 429, 500, 502, 503, 504, 507])
def test_whether_a_file_exists_is_answered_or_raised(faulty: Faulty, status: int) -> None:
    """False means that the server said so, never that it could not be asked."""
    faulty.server.always("missing.bin", Fault(status=status, headers={"Location": "/login"}), method="PROPFIND")
    with pytest.raises(errors.StorageError) as raised:
        file_at(faulty.store, "missing.bin")
    assert not isinstance(raised.value, errors.NotFoundError)
    faulty.server.heal()
    faulty.store.transport.credentials.refusals.held_since = time.time()  # as if it were opened anew
    assert file_at(faulty.store, "missing.bin") is None
    assert file_at(faulty.store, KEY) is not None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "GET"])
def test_a_redirect_is_told_with_the_place_that_it_names(faulty: Faulty, verb: str, status: int) -> None:
    """It is not followed: only GETs of files follow redirects."""
    place = "https://new.example/dav/a.bin"
    faulty.server.always(KEY, Fault(status=status, headers={"Location": place}), method=verb)
    with pytest.raises(errors.ProtocolError, match=place):
        VERBS[verb](faulty.store)
    assert len(faulty.requests(verb)) == 1


# A server that is not there.


@pytest.mark.parametrize("verb", [*VERBS, "list"])
def test_a_server_that_is_down_is_unavailable_within_bounded_time(faulty: Faulty, verb: str) -> None:
    """Refused connections are tried again; then the error names the server's address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = WebDAVStore(Remote(address, "alice", "sesame"), patience=faulty.store.patience)
        begin = time.monotonic()
        with pytest.raises(errors.ServerUnavailableError, match=address):
            store.list() if verb == "list" else VERBS[verb](store)
        assert time.monotonic() - begin < 2
        ((_, outcome),) = store.read_many([faulty.entry])
        assert isinstance(outcome, errors.ServerUnavailableError)
        assert isinstance(outcome, ConnectionError)


def test_a_host_that_does_not_take_connections_is_left_within_the_deadline(patience: Patience) -> None:
    """Such a host is behind a firewall that drops packets."""
    patience = replace(patience, connect_s=0.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # they fill its queue
        for client in waiting:
            client.setblocking(False)  # noqa: FBT003  a method of the standard library
            client.connect_ex(address)
        store = WebDAVStore(Remote(f"http://127.0.0.1:{address[1]}", "alice", "sesame"), patience=patience)
        begin = time.monotonic()
        with pytest.raises(errors.DeadlineError):
            store.stat(KEY)
        ((_, outcome),) = store.read_many([Faulty.listed()])
        assert isinstance(outcome, errors.DeadlineError)
        assert time.monotonic() - begin < 5
        for client in waiting:
            client.close()


def test_a_server_that_restarts_is_waited_for(tmp_path: Path, patience: Patience) -> None:
    """A batch that was on its way when the server went comes when it is back."""
    patience = replace(patience, tries=30, first_pause_s=0.1, longest_pause_s=0.2)
    with FaultServer(tmp_path / "root") as server:
        faulty = Faulty.make(server, patience)
        assert faulty.bytes() == DATA
        server.stop()
        timer = threading.Timer(0.5, server.start)
        timer.start()
        outcome = faulty.outcome()
        timer.join()
        assert isinstance(outcome, Fetched)
        assert content(outcome) == DATA
        assert faulty.store.list() == [faulty.entry]
