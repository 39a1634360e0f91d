"""A body that is not whole, or not the file's, is never handed out: it is fetched again, or an error says why not."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from ai4os_data.errors import DeadlineError, IntegrityError, NotFoundError, ProtocolError, ServerUnavailableError
from ai4os_data.http.bodies import NoBody, Source
from ai4os_data.stores import Entry, Fetched
from tests.support.faulty import DATA, KEY, NEWER, SIZE_BYTES, Faulty
from tests.support.outcomes import content
from tests.support.servers import LOGIN_PAGE, Fault

BROKEN = {
    "short body": Fault(cut_after_bytes=1000),
    "only a head": Fault(cut_after_bytes=0),
    "reset": Fault(cut_after_bytes=1000, reset=True),
    "chunked and cut": Fault(cut_after_bytes=1000, chunked=True),
    "no answer": Fault(drop=True),
    "no answer but a reset": Fault(drop=True, reset=True),
    "stall before the first byte": Fault(stall_s=30),
    "stall after some bytes": Fault(stall_s=30, stall_after_bytes=1000),  # seen when the mean of 5 s is below 1 byte/s
}
WRONG = {
    "empty": Fault(body=b""),
    "shorter than listed": Fault(body=DATA[:1000]),
    "longer than listed": Fault(body=DATA + b"x"),
    "cut, without a length": Fault(body=DATA[:1000], headers={"Content-Length": None}, close=True),
    "cut, chunked to a regular end": Fault(body=DATA[:1000], chunked=True),
}


@pytest.mark.parametrize("wrong", [*BROKEN.values(), *WRONG.values()], ids=[*BROKEN, *WRONG])
def test_a_wrong_answer_is_followed_by_a_right_one(faulty: Faulty, wrong: Fault) -> None:
    """After one wrong answer the file comes exactly with the second GET."""
    faulty.server.script(KEY, wrong)
    assert faulty.bytes() == DATA
    assert len(faulty.requests()) == 2


def test_a_length_that_promises_too_much_is_found_out(faulty: Faulty) -> None:
    """There is no rest to resume with (416), so the file is fetched anew."""
    faulty.server.script(KEY, Fault(headers={"Content-Length": str(SIZE_BYTES + 1)}, close=True))
    assert faulty.bytes() == DATA
    assert [request.status for request in faulty.requests()] == [200, 416, 200]


@pytest.mark.parametrize(
    "healthy", [Fault(chunked=True), Fault(headers={"Content-Length": None}, close=True), Fault(close=True)]
)
def test_an_answer_without_a_length_is_whole_when_it_has_the_listed_size(faulty: Faulty, healthy: Fault) -> None:
    """Chunks, and bodies that end with the connection, are no faults."""
    faulty.server.script(KEY, healthy)
    assert faulty.bytes() == DATA
    assert len(faulty.requests()) == 1


@pytest.mark.parametrize("broken", [BROKEN["only a head"], BROKEN["no answer"], BROKEN["no answer but a reset"]])
def test_a_server_that_hangs_up_for_ever_is_unavailable(faulty: Faulty, broken: Fault) -> None:
    """The error comes after the tries of the patience."""
    faulty.server.always(KEY, broken)
    assert isinstance(faulty.outcome(), ServerUnavailableError)
    assert len(faulty.requests()) == faulty.store.patience.tries


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_server_that_lists_one_size_and_sends_another_is_not_believed(faulty: Faulty, wrong: Fault) -> None:
    """A complete answer of another size is tried three times; the error has both sizes."""
    faulty.server.always(KEY, wrong)
    outcome = faulty.outcome()
    assert isinstance(outcome, IntegrityError)
    assert "100,000 bytes" in str(outcome)
    assert len(faulty.requests()) <= 4


@pytest.mark.parametrize("stall", [Fault(stall_s=30), Fault(stall_s=30, stall_after_bytes=0)])
def test_a_server_that_says_nothing_is_left_within_the_deadline(faulty: Faulty, stall: Fault) -> None:
    """Three tries of a second each are made."""
    faulty.server.always(KEY, stall)
    begin = time.monotonic()
    assert isinstance(faulty.outcome(), DeadlineError)
    assert 2.5 < time.monotonic() - begin < 7
    assert len(faulty.requests()) == 3


def test_a_stall_after_each_few_bytes_is_bounded_by_the_total(faulty: Faulty) -> None:
    """Progress earns new tries, but no more time."""
    faulty.store.transport.patience = replace(faulty.store.patience, total_s=3.0, slowest_bytes_per_s=SIZE_BYTES * 1000)
    faulty.server.always(KEY, Fault(stall_s=30, stall_after_bytes=10))
    begin = time.monotonic()
    assert isinstance(faulty.outcome(), DeadlineError)
    assert 2 < time.monotonic() - begin < 5.5


def test_a_login_page_is_not_a_file(faulty: Faulty) -> None:
    """A gateway answers everything with 200 and HTML; one request shows that."""
    faulty.server.always(KEY, LOGIN_PAGE)
    outcome = faulty.outcome()
    assert isinstance(outcome, ProtocolError)
    assert "HTML page" in str(outcome)
    assert len(faulty.requests()) == 1


def test_a_login_page_as_long_as_the_file_is_not_a_file(faulty: Faulty) -> None:
    """Without an ETag the length alone proves nothing."""
    faulty.server.always(KEY, replace(LOGIN_PAGE, body=b"x" * SIZE_BYTES))
    assert isinstance(faulty.outcome(), ProtocolError)


def test_a_page_that_is_a_file_is_read(faulty: Faulty) -> None:
    """HTML is data too if the key says so."""
    (faulty.server.root / "page.html").write_bytes(b"<html></html>")
    assert faulty.store.read("page.html") == b"<html></html>"


def test_compressed_bytes_are_refused(faulty: Faulty) -> None:
    """Their length differs from the listed one, and no compression was asked for; one try is enough."""
    faulty.server.always(KEY, Fault(gzip=True))
    outcome = faulty.outcome()
    assert isinstance(outcome, ProtocolError)
    assert "gzip" in str(outcome)
    (request,) = faulty.requests()
    assert request.headers["accept-encoding"] == "identity"


def test_a_rewrite_of_the_same_size_is_noticed(faulty: Faulty) -> None:
    """The ETag shows it: the new bytes come, with a new entry."""
    (faulty.server.root / KEY).write_bytes(NEWER)
    outcome = faulty.outcome()
    assert isinstance(outcome, Fetched)
    assert content(outcome) == NEWER
    assert not outcome.entry.is_same_version(faulty.entry)
    assert outcome.entry.size_bytes == faulty.entry.size_bytes


def test_one_file_of_many_fails_alone(faulty: Faulty) -> None:
    """Each of the others comes once, whatever happens to that one."""
    keys = [f"{number}.bin" for number in range(20)]
    for key in keys:
        (faulty.server.root / key).write_bytes(key.encode() * 100)
    faulty.server.always("3.bin", Fault(cut_after_bytes=0))
    faulty.server.always("7.bin", LOGIN_PAGE)
    faulty.server.always("11.bin", Fault(status=404))
    outcomes = dict(faulty.store.read_many([entry for entry in faulty.store.list() if entry.key in keys]))
    failed = {entry.key: type(outcome) for entry, outcome in outcomes.items() if not isinstance(outcome, Fetched)}
    assert failed == {"3.bin": ServerUnavailableError, "7.bin": ProtocolError, "11.bin": NotFoundError}
    read = {entry.key: content(outcome) for entry, outcome in outcomes.items() if isinstance(outcome, Fetched)}
    assert read == {key: key.encode() * 100 for key in keys if key not in failed}


def test_slow_files_do_not_hold_up_the_others(faulty: Faulty) -> None:
    """A stall occupies only its own connection."""
    keys = [f"{number:02}.bin" for number in range(40)]
    for key in keys:
        (faulty.server.root / key).write_bytes(key.encode())
    faulty.server.script("00.bin", Fault(stall_s=0.8))
    entries = [Entry(key, 6) for key in keys]
    begin = time.monotonic()
    arrivals = {entry.key: time.monotonic() - begin for entry, _ in faulty.store.read_many(entries)}
    assert sorted(arrivals) == keys
    assert max(seconds for key, seconds in arrivals.items() if key != "00.bin") < 0.8 <= arrivals["00.bin"]


class _Breaks(NoBody):
    """A body that cannot take bytes."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def write(self, _: bytes) -> None:
        """Raise."""
        raise self._error


class _BreaksToo:
    """A source that cannot give bytes."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def read(self, _: int) -> bytes:
        """Raise."""
        raise self._error

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("error", [OSError(28, "full"), AttributeError("a bug"), KeyboardInterrupt()], ids=repr)
def test_what_goes_wrong_here_is_no_broken_connection(
    faulty: Faulty, error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a bug, or an interrupt while bytes arrive is raised unchanged."""
    with pytest.raises(type(error)) as raised:
        list(faulty.store.read_many([faulty.entry] * 3, lambda _: _Breaks(error)))
    assert raised.value is error
    assert len(faulty.requests()) <= 3
    assert faulty.bytes() == DATA
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt()], ids=repr)
def test_what_cannot_be_read_to_be_sent_is_no_broken_connection(
    faulty: Faulty, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a breaking local disk is raised unchanged."""
    source = Source(b"12345")
    monkeypatch.setattr(source, "open", lambda: _BreaksToo(error))
    with pytest.raises(type(error)) as raised:
        faulty.store._writer.put("new.bin", source, repeats=True)
    assert raised.value is error
    assert len(faulty.requests("PUT")) <= 1
    assert faulty.bytes() == DATA
