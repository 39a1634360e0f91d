"""Ranges are of the version and at the offset that were asked for, and broken transfers resume there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import ChangedError, IntegrityError, ProtocolError
from ai4os_data.stores import Entry, Fetched
from tests.support.faulty import DATA, KEY, NEWER, SIZE_BYTES, Faulty
from tests.support.outcomes import content
from tests.support.servers import Fault, FaultServer

if TYPE_CHECKING:
    from ai4os_data.http.retries import Patience

CUT = 40_000


def range_answer(first: int, last: int, total: int | str = SIZE_BYTES) -> dict[str, str | None]:
    """The header of a partial answer."""
    return {"Content-Range": f"bytes {first}-{last}/{total}"}


# A broken transfer goes on.


def test_a_broken_transfer_goes_on_where_it_stopped(faulty: Faulty) -> None:
    """It resumes with the strong ETag of the first part, so that the rest is of the same version."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT))
    assert faulty.bytes() == DATA
    first, second = faulty.requests()
    assert ("range" in first.headers, "if-range" in first.headers) == (False, False)
    assert second.headers["range"] == f"bytes={CUT}-"
    assert second.headers["if-range"] == f'"{faulty.entry.etag}"'
    assert second.status == 206


def test_a_transfer_that_breaks_again_and_again_comes_to_its_end(faulty: Faulty) -> None:
    """Each try that brings bytes earns the next one, beyond the number of tries."""
    faulty.server.script(KEY, *[Fault(cut_after_bytes=10_000)] * 6)
    assert faulty.bytes() == DATA
    assert [request.headers.get("range") for request in faulty.requests()] == [
        None,
        *(f"bytes={first}-" for first in range(10_000, 70_000, 10_000)),
    ]


@pytest.mark.parametrize("etags", ["weak", "none"])
def test_without_a_strong_etag_a_transfer_begins_anew(fault: FaultServer, patience: Patience, etags: str) -> None:
    """A weak one promises equal meaning, not equal bytes."""
    faulty = Faulty.make(fault, patience, etags=etags)
    fault.script(KEY, Fault(cut_after_bytes=CUT))
    assert faulty.bytes() == DATA
    assert ["range" in request.headers for request in faulty.requests()] == [False, False]


def test_a_server_without_ranges_is_not_asked_for_one(faulty: Faulty) -> None:
    """It says so with ``Accept-Ranges: none``."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT, headers={"Accept-Ranges": "none"}))
    assert faulty.bytes() == DATA
    assert ["range" in request.headers for request in faulty.requests()] == [False, False]


def test_a_file_that_changed_between_two_tries_begins_anew(faulty: Faulty) -> None:
    """The new version comes whole: nothing of the old one is in it."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT, rewrite=NEWER))
    outcome = faulty.outcome()
    assert isinstance(outcome, Fetched)
    assert content(outcome) == NEWER
    assert not outcome.entry.is_same_version(faulty.entry)
    assert [request.status for request in faulty.requests()] == [200, 200]


@pytest.mark.parametrize("etag", [{}, {"ETag": '"another"'}, {"ETag": 'W/"another"'}, {"ETag": None}], ids=repr)
def test_a_rest_of_another_version_is_never_put_to_the_first_part(faulty: Faulty, etag: dict[str, str | None]) -> None:
    """The server ignores If-Range, and both versions have the same length."""
    rest = Fault(status=206, headers={**range_answer(CUT, SIZE_BYTES - 1), **etag}, body=NEWER[CUT:])
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT, rewrite=NEWER), rest)
    assert faulty.bytes() == NEWER
    assert [request.headers.get("range") for request in faulty.requests()] == [None, f"bytes={CUT}-", None]


def test_an_answer_of_another_version_that_breaks_off_at_once_does_not_renew_the_first_part(faulty: Faulty) -> None:
    """Its head names the new version, but the kept part is of the old one."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT, rewrite=NEWER), Fault(cut_after_bytes=0))
    assert faulty.bytes() == NEWER
    assert [request.headers.get("range") for request in faulty.requests()] == [None, f"bytes={CUT}-", None]


@pytest.mark.parametrize(
    "rest",
    [
        Fault(ignore_range=True),
        Fault(headers=range_answer(0, SIZE_BYTES - CUT - 1)),
        Fault(headers=range_answer(CUT + 1, SIZE_BYTES)),
        Fault(headers={"Content-Range": None}),
        Fault(headers={"Content-Range": "bytes */100000"}),
        Fault(headers={"Content-Range": "nonsense"}),
        Fault(status=416),
        Fault(status=503),
        Fault(drop=True),
        Fault(cut_after_bytes=1000, reset=True),
    ],
    ids=repr,
)
def test_a_rest_that_is_not_the_rest_does_no_harm(faulty: Faulty, rest: Fault) -> None:
    """The result is the file, whatever the second answer is."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT), rest)
    assert faulty.bytes() == DATA


def test_a_compressed_rest_is_refused(faulty: Faulty) -> None:
    """A rest that the server compressed is never joined to the first part."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT), Fault(gzip=True))
    assert isinstance(faulty.outcome(), ProtocolError)


def test_a_compressed_first_part_is_not_gone_on_with(faulty: Faulty) -> None:
    """An offset in the compressed bytes is not an offset in the file."""
    faulty.server.script(KEY, Fault(gzip=True, cut_after_bytes=CUT))
    assert faulty.bytes() == DATA
    assert "range" not in faulty.requests()[1].headers


def test_a_part_that_nobody_asked_for_is_not_the_file(faulty: Faulty) -> None:
    """A 206 to a plain GET, whole or broken off, is dropped."""
    part = Fault(status=206, headers=range_answer(1000, 1999), body=DATA[1000:2000])
    broken = Fault(status=206, headers={**range_answer(1000, SIZE_BYTES - 1)}, body=DATA[1000:], cut_after_bytes=500)
    faulty.server.script(KEY, part, broken)
    assert faulty.bytes() == DATA
    assert ["range" in request.headers for request in faulty.requests()] == [False, False, False]


# A range is asked for.


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (10, 20), (99_990, 100_000), (99_990, 200_000), (0, 100_000), (65_530, 65_540)]
)
def test_a_server_that_ignores_ranges_is_cut_right(faulty: Faulty, start: int, stop: int) -> None:
    """200 and the whole file: the slice is taken out of it, and the rest is not waited for."""
    faulty.server.always(KEY, Fault(ignore_range=True))
    assert faulty.store.read_range(faulty.entry, start, stop) == DATA[start:stop]
    (request,) = faulty.requests()
    assert request.headers["range"] == f"bytes={start}-{min(stop, SIZE_BYTES) - 1}"


WRONG_RANGES = {
    "another begin": Fault(headers=range_answer(0, 9)),
    "none": Fault(headers={"Content-Range": None}),
    "nonsense": Fault(headers={"Content-Range": "bytes nonsense"}),
    "another unit": Fault(headers={"Content-Range": "lines 20-29/100000"}),
}


@pytest.mark.parametrize("wrong", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_a_wrong_content_range_is_refused(faulty: Faulty, wrong: Fault) -> None:
    """It is tried again once; if it stays, an error is raised and no bytes are given."""
    faulty.server.script(KEY, wrong)
    assert faulty.store.read_range(faulty.entry, 20, 30) == DATA[20:30]
    faulty.server.always(KEY, wrong)
    with pytest.raises(ProtocolError, match="another range"):
        faulty.store.read_range(faulty.entry, 20, 30)
    assert len(faulty.requests()) == 2 + 3


@pytest.mark.parametrize("total", [SIZE_BYTES, "*"])
def test_a_part_of_a_part_is_refused(faulty: Faulty, total: int | str) -> None:
    """An answer that ends well but is too short for its range is an error."""
    faulty.server.always(KEY, Fault(headers=range_answer(20, 24, total), body=DATA[20:25]))
    with pytest.raises(IntegrityError):
        faulty.store.read_range(faulty.entry, 20, 30)


def test_a_part_that_is_too_long_is_refused(faulty: Faulty) -> None:
    """More bytes than were asked for are an error."""
    faulty.server.always(KEY, Fault(headers=range_answer(20, 39), body=DATA[20:40]))
    with pytest.raises(IntegrityError):
        faulty.store.read_range(faulty.entry, 20, 30)


@pytest.mark.parametrize(
    "broken",
    [
        Fault(cut_after_bytes=3),
        Fault(cut_after_bytes=3, ignore_range=True),
        Fault(cut_after_bytes=3, reset=True),
        Fault(chunked=True, cut_after_bytes=3),
        Fault(drop=True),
        Fault(status=503),
    ],
    ids=repr,
)
def test_a_range_that_breaks_off_is_fetched_again(faulty: Faulty, broken: Fault) -> None:
    """The second try brings exactly the range."""
    faulty.server.script(KEY, broken)
    assert faulty.store.read_range(faulty.entry, 20, 30) == DATA[20:30]
    assert len(faulty.requests()) == 2


@pytest.mark.parametrize("now", [NEWER, DATA + b"longer", DATA[:50_000], DATA[:10], b""], ids=len)
@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_range_of_another_version_is_refused(faulty: Faulty, now: bytes, ignore_range: bool) -> None:  # noqa: FBT001  a parameter
    """Rewritten, longer, shorter than the range, or empty: parts of two versions are never put together."""
    (faulty.server.root / KEY).write_bytes(now)
    faulty.server.always(KEY, Fault(ignore_range=ignore_range))
    with pytest.raises(ChangedError):
        faulty.store.read_range(faulty.entry, 60_000, 60_010)


def test_nothing_is_asked_for_an_empty_range(faulty: Faulty) -> None:
    """It costs no request, also past the end."""
    assert faulty.store.read_range(faulty.entry, 10, 10) == b""
    assert faulty.store.read_range(faulty.entry, SIZE_BYTES, SIZE_BYTES + 10) == b""
    assert faulty.store.read_range(Entry(KEY, 0), 0, 10) == b""
    assert faulty.requests() == []
