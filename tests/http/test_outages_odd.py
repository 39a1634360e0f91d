"""Odd outages: of one file, of a server that recovers by halves, that flaps, or that asks for long pauses."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.http import outages, policy, retries
from ai4os_data.http.bodies import HashBody
from ai4os_data.http.retries import Patience
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, Fetched
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.faulty import DATA, KEY, Faulty, waiting
from tests.support.servers import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import FaultServer

PATIENT = Patience(
    tries=3, first_pause_s=0.05, longest_pause_s=0.2, connect_s=2.0, stall_s=1, total_s=20.0, outage_s=60.0
)
BROKEN = {
    "unavailable": Fault(status=503),
    "bad gateway": Fault(status=502),
    "closed": Fault(drop=True),
    "reset": Fault(drop=True, reset=True),
}
VERBS: dict[str, Callable[[Faulty], object]] = {
    "GET": lambda faulty: faulty.bytes(),
    "range": lambda faulty: faulty.store.read_range(faulty.entry, 10, 20),
    "PROPFIND": lambda faulty: faulty.store.stat(KEY),
}


@pytest.fixture
def patient(fault: FaultServer) -> Faulty:
    """A file among others, listed on the fault server, for a reader who waits for a server that is away."""
    faulty = Faulty.make(fault, PATIENT)
    (fault.root / "other.bin").write_bytes(b"1")
    faulty.store.list()
    return faulty


def healed_after(faulty: Faulty, seconds: float) -> threading.Timer:
    """Let the server recover after a while."""
    timer = threading.Timer(seconds, faulty.server.heal)
    timer.start()
    return timer


# --- one file alone


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("verb", ["GET", "range"])
def test_broken_file_that_is_read_alone_is_told_soon(
    patient: Faulty, verb: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe of another file shows that the server answers and only this file fails."""
    patient.server.always(KEY, BROKEN[kind])
    begin = time.monotonic()
    with pytest.raises((errors.ServerUnavailableError, AssertionError)):
        VERBS[verb](patient)
    assert time.monotonic() - begin < 5
    assert "answers again" not in caplog.text


def test_server_whose_files_all_fail_is_waited_for_though_it_lists(patient: Faulty) -> None:
    """The probe of another file fails too, as on a Nextcloud whose object storage is away."""
    patient.server.always("*", Fault(status=503))
    timer = healed_after(patient, 2.0)
    assert patient.bytes() == DATA
    timer.join()


def test_archives_that_a_proxy_breaks_off_come_as_single_files(patient: Faulty) -> None:
    """Only archives fail, so that is no outage, and no more of them are requested."""
    for number in range(40):
        (patient.server.root / f"{number:02}.bin").write_bytes(b"1")
    remote = Remote(patient.server.url, patient.server.user, patient.server.password)
    store = NextcloudStore(remote, patience=PATIENT)
    entries = store.list()
    patient.server.always("", Fault(status=502))
    patient.server.forget()
    begin = time.monotonic()
    assert all(isinstance(outcome, Fetched) for _, outcome in store.read_many(entries))
    assert all(isinstance(outcome, Fetched) for _, outcome in store.read_many(entries))
    assert time.monotonic() - begin < 6
    assert len([request for request in patient.requests() if request.status == 502]) <= 3 * PATIENT.tries


# --- by halves


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("verb", ["GET", "PROPFIND"])
def test_server_that_is_not_yet_itself_again_is_not_believed(patient: Faulty, verb: str, status: int) -> None:
    """After an outage a proxy says 404 until the server is there, and the server 401 until its database is."""
    patient.server.always("*", Fault(drop=True), method=verb)
    answers = [Fault(status=status)] * (2 if status == 401 else 4)

    def come_back() -> None:
        patient.server.heal()
        patient.server.script("*", *answers, method=verb)

    timer = threading.Timer(1.5, come_back)
    timer.start()
    assert VERBS[verb](patient) == {"GET": DATA, "PROPFIND": patient.entry}[verb]
    timer.join()


@pytest.mark.parametrize(("status", "error"), [(401, errors.AuthenticationError), (404, errors.NotFoundError)])
def test_server_that_stays_so_is_believed_after_a_while(
    patient: Faulty, status: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doubt ends after its time, and after two tries of credentials."""
    monkeypatch.setattr(outages, "_DOUBT_LASTS_S", 1.0)
    patient.server.always("*", Fault(drop=True))
    timer = threading.Timer(1.5, lambda: patient.server.always("*", Fault(status=status)))
    timer.start()
    begin = time.monotonic()
    assert isinstance(patient.outcome(), error)
    assert time.monotonic() - begin < 8
    timer.join()
    assert [request.status for request in patient.requests()].count(401) in range(5)


# --- flapping


def test_server_that_flaps_ends_no_reading(patient: Faulty) -> None:
    """Every other request is refused, so reads get more tries than a broken file has."""
    for number in range(60):
        (patient.server.root / f"{number:02}.bin").write_bytes(b"1")
        patient.server.script(f"{number:02}.bin", *[Fault(status=503)] * (1 + number % 6))
    store = WebDAVStore(patient.store.remote, patience=PATIENT)
    entries = [Entry(f"{number:02}.bin", 1) for number in range(60)]
    assert all(isinstance(outcome, Fetched) for _, outcome in store.read_many(entries))


# --- pauses that are asked for


@pytest.mark.parametrize("verb", VERBS)
def test_constant_of_a_maintenance_does_not_lengthen_it(
    patient: Faulty, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nextcloud asks for 120 s in each maintenance, and one request checks earlier whether it is over."""
    monkeypatch.setattr(outages, "_LONGEST_ASKED_S", 1.5)
    asked = Fault(status=503, headers={"Retry-After": "120"})
    patient.server.always("*", asked, method="PROPFIND" if verb == "PROPFIND" else "GET")
    timer = healed_after(patient, 2.0)
    begin = time.monotonic()
    VERBS[verb](patient)
    assert 2.0 <= time.monotonic() - begin < 6
    timer.join()


@pytest.mark.parametrize("verb", VERBS)
def test_lock_that_asks_for_a_long_pause_is_told_soon(
    patient: Faulty, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock concerns one file, and the others do not wait for its ``Retry-After``."""
    monkeypatch.setattr(policy, "LONGEST_LOCK_PAUSE_S", 0.1)
    asked = Fault(status=423, headers={"Retry-After": "3600"})
    patient.server.always("*", asked, method="PROPFIND" if verb == "PROPFIND" else "GET")
    begin = time.monotonic()
    with pytest.raises((errors.LockedError, AssertionError)):
        VERBS[verb](patient)
    assert time.monotonic() - begin < 4


# --- under the status of a success

_NAMESPACES = 'xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns"'
_AWAY_DOCUMENTS = {
    "an error": (
        f"<d:error {_NAMESPACES}><s:exception>Sabre\\DAV\\Exception\\ServiceUnavailable</s:exception></d:error>"
    ),
    "a response": (
        f"<d:multistatus {_NAMESPACES}><d:response><d:href>/{KEY}</d:href>"
        "<d:status>HTTP/1.1 503 Service Unavailable</d:status></d:response></d:multistatus>"
    ),
}


@pytest.mark.parametrize("kind", _AWAY_DOCUMENTS)
def test_server_that_says_in_a_multistatus_that_it_is_away_is_waited_for(patient: Faulty, kind: str) -> None:
    """The 207 was sent before the server knew; the wait ends with an error in time."""
    document = Fault(status=207, body=_AWAY_DOCUMENTS[kind].encode())
    patient.server.always("*", document, method="PROPFIND")
    timer = healed_after(patient, 1.5)
    assert patient.store.stat(KEY).size_bytes == len(DATA)
    timer.join()
    patient.server.always("*", document, method="PROPFIND")
    begin = time.monotonic()
    with pytest.raises(errors.ServerUnavailableError, match="503"):
        waiting(patient.store, 1.0).stat(KEY)
    assert time.monotonic() - begin < 4


def test_multistatus_after_blank_lines_is_read(patient: Faulty) -> None:
    """A blank line before ``<?php`` in a file of the server precedes every answer."""
    listed = (
        f'\n\n<?xml version="1.0"?><d:multistatus {_NAMESPACES}><d:response><d:href>/{KEY}</d:href><d:propstat><d:prop>'
        "<d:getcontentlength>7</d:getcontentlength></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
        "</d:response></d:multistatus>"
    )
    patient.server.script("*", Fault(status=207, body=listed.encode()), method="PROPFIND")
    assert patient.store.stat(KEY).size_bytes == 7


def test_whole_file_that_comes_as_a_part_is_taken(patient: Faulty) -> None:
    """Some caches answer a plain GET with 206 and the whole file."""
    whole = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
    patient.server.script(KEY, Fault(status=206, headers=whole))
    assert patient.bytes() == DATA
    patient.server.script(KEY, Fault(status=206, headers={"Content-Range": f"bytes 0-9/{len(DATA)}"}, body=DATA[:10]))
    assert patient.bytes() == DATA


def test_silence_is_no_longer_than_the_waiting(patient: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that waits some seconds does not wait a minute for a silent server."""
    monkeypatch.setattr(retries, "_SHORTEST_SILENCE_S", 1)
    store = WebDAVStore(patient.store.remote, patience=replace(PATIENT, stall_s=60, outage_s=2.0))
    patient.server.always("*", Fault(stall_s=30))
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineError, match="outage_s=2"):
        store.read_range(patient.entry, 0, 10)
    assert time.monotonic() - begin < 8


def test_waiting_without_an_end_is_possible(patient: Faulty) -> None:
    """``outage_s=inf`` waits until the server is back."""
    patient.server.script(KEY, *[Fault(status=503)] * 3)
    assert Faulty(patient.server, waiting(patient.store, float("inf")), patient.entry).bytes() == DATA


@pytest.mark.parametrize("verb", VERBS)
def test_public_share_that_is_gone_is_told_at_once(patient: Faulty, verb: str) -> None:
    """Nextcloud 29 to 34 answer 503 and count further requests as guesses of a link."""
    said = (
        b'<?xml version="1.0" encoding="utf-8"?>\n<d:error xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns">\n'
        b"  <s:exception>Sabre\\DAV\\Exception\\ServiceUnavailable</s:exception>\n"
        b"  <s:message>Sabre\\DAV\\Exception\\NotFound: </s:message>\n</d:error>\n"
    )
    patient.server.always("*", Fault(status=503, body=said), method="*")
    patient.server.forget()
    if verb == "GET":
        assert isinstance(patient.outcome(), errors.NotFoundError)
        body = HashBody()  # whatever takes the bytes
        ((_, outcome),) = patient.store.read_many([patient.entry], lambda _: body)
        assert isinstance(outcome, errors.NotFoundError)
    else:
        with pytest.raises(errors.NotFoundError):
            VERBS[verb](patient)
    assert len(patient.server.requests()) <= 2


@pytest.mark.parametrize(
    ("below", "hint"),
    [
        ("remote.php/dav", "remote.php/dav/files/USER"),
        ("remote.php/dav/files", "remote.php/dav/files/USER"),
        ("public.php/dav/files/TOKEN", "expired"),
    ],
)
def test_address_that_is_not_of_files_is_told(patient: Faulty, below: str, hint: str) -> None:
    """A Nextcloud finds no such folder, and the error gives the right address."""
    remote = Remote(f"{patient.server.url}{below}", patient.server.user, patient.server.password)
    with pytest.raises(errors.LocationError, match=hint):
        WebDAVStore(remote, "flowers", patience=PATIENT).listing()
