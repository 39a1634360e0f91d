"""Redirected files are followed if that is safe; otherwise the error shows the address without its signature."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.http.redirects import MOST_HOPS, absolute, shown
from ai4os_data.http.requests import Request
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Fetched
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.faulty import DATA, KEY, NEWER, SIZE_BYTES, Faulty
from tests.support.outcomes import content
from tests.support.servers import Fault, FaultServer, make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.datasets.sample import Sample
    from ai4os_data.http.retries import Patience

SIGNATURE = "X-Signature=s3cr3t"
STATUSES = [301, 302, 303, 307, 308]
CUT = 40_000
PAGE = b"<html>The file has moved.</html>"
RANGED_BYTES = 17 * 1024 * 1024


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[FaultServer]:
    """The host with the bytes, which accepts everybody who has the address."""
    with FaultServer(tmp_path / "pool", public=True) as server:
        (server.root / KEY).write_bytes(DATA)
        yield server


def to(server: FaultServer, key: str = KEY, status: int = 302) -> Fault:
    """A redirect to a file of a server, with a page and a signature."""
    place = f"{server.url}{key}?{SIGNATURE}&expires=1"
    return Fault(status=status, headers={"Location": place, "Content-Type": "text/html"}, body=PAGE)


@pytest.fixture
def door(faulty: Faulty, pool: FaultServer) -> Faulty:
    """The server that lists, and that redirects every GET of the file."""
    for method in ("GET", "HEAD"):
        faulty.server.always(KEY, to(pool), method)
    return faulty


def outcome_of(faulty: Faulty) -> errors.StorageError:
    """The error of reading the whole file, which shows no signature."""
    outcome = faulty.outcome()
    assert isinstance(outcome, errors.StorageError)
    assert "s3cr3t" not in str(outcome)
    return outcome


# Followed.


@pytest.mark.parametrize("status", STATUSES)
def test_a_file_is_read_where_the_server_says_that_it_is(faulty: Faulty, pool: FaultServer, status: int) -> None:
    """It is read whole, in part and by HEAD, without credentials, and the redirect's page is dropped."""
    for method in ("GET", "HEAD"):
        faulty.server.always(KEY, to(pool, status=status), method)
    assert faulty.bytes() == DATA
    assert faulty.store.read_range(faulty.entry, 10, 20) == DATA[10:20]
    head = faulty.store.transport.send(Request(faulty.store.address.url(KEY), method="HEAD"))
    assert head.headers["content-length"] == str(SIZE_BYTES)
    assert all(request.headers["authorization"] == faulty.server.authorization for request in faulty.requests())
    assert [request.method for request in pool.requests()] == ["GET", "GET", "HEAD"]
    assert not any({"authorization", "cookie"} & request.headers.keys() for request in pool.requests())


def test_headers_of_the_remote_go_to_its_server_alone(door: Faulty, pool: FaultServer) -> None:
    """Headers of a remote may be credentials, so no other host gets them."""
    remote = Remote(
        door.server.url, headers=(("Authorization", door.server.authorization), ("X-Tenant", "t"), ("Cookie", "a=b"))
    )
    assert WebDAVStore(remote).read(KEY) == DATA
    assert {request.headers["x-tenant"] for request in door.requests()} == {"t"}
    (asked,) = pool.requests()
    assert not {"authorization", "x-tenant", "cookie"} & asked.headers.keys()


def test_a_token_goes_to_its_server_alone(door: Faulty, pool: FaultServer) -> None:
    """A token is sent to no other host, and neither is a password."""
    assert WebDAVStore(Remote(door.server.url, token=door.server.token)).read(KEY) == DATA
    (asked,) = pool.requests()
    assert "authorization" not in asked.headers


def test_a_redirect_within_the_server_takes_its_credentials_along(faulty: Faulty) -> None:
    """A ``Location`` that has only a path stays on the server too."""
    (faulty.server.root / "moved to.bin").write_bytes(DATA)
    faulty.server.always(KEY, Fault(status=307, headers={"Location": "/moved%20to.bin?x=1"}))
    assert faulty.bytes() == DATA
    assert [request.path for request in faulty.requests()] == [f"/{KEY}", "/moved to.bin"]


def test_a_transfer_that_breaks_off_is_resumed_behind_the_redirect(door: Faulty, pool: FaultServer) -> None:
    """It asks the server again, since the redirect may have expired, with range and condition."""
    pool.script(KEY, Fault(cut_after_bytes=CUT))
    assert door.bytes() == DATA
    again = pool.requests()[1].headers
    assert again["range"] == f"bytes={CUT}-"
    assert again["if-range"].startswith('"')
    assert len(door.requests()) == 2


def test_a_transfer_that_breaks_off_is_not_spliced_with_another_version(door: Faulty, pool: FaultServer) -> None:
    """A file that was rewritten meanwhile starts again."""
    pool.script(KEY, Fault(cut_after_bytes=CUT, rewrite=NEWER))
    (door.server.root / KEY).write_bytes(NEWER)
    assert door.bytes() == NEWER


def test_a_server_that_begins_to_redirect_keeps_what_came(faulty: Faulty, pool: FaultServer) -> None:
    """The page that comes with a later redirect does not replace the first part."""
    faulty.server.script(KEY, Fault(cut_after_bytes=CUT), to(pool))
    assert faulty.bytes() == DATA
    assert pool.requests()[0].headers["range"] == f"bytes={CUT}-"


def test_a_pool_that_is_away_is_asked_for_anew(door: Faulty, pool: FaultServer) -> None:
    """The next try asks the server, which may know another one."""
    pool.script(KEY, Fault(drop=True), Fault(status=503))
    assert door.bytes() == DATA
    assert len(door.requests()) == len(pool.requests()) == 3


def test_etags_of_another_host_are_its_own(door: Faulty, pool: FaultServer) -> None:
    """Only the length can be compared; the entry stays the listed one."""
    pool.change(etags="seconds")
    outcome = door.outcome()
    assert isinstance(outcome, Fetched)
    assert outcome.entry == door.entry
    assert content(outcome) == DATA
    (pool.root / KEY).write_bytes(DATA[:-1])
    assert isinstance(outcome_of(door), errors.IntegrityError)


def test_a_large_file_comes_from_another_host(door: Faulty, pool: FaultServer, tmp_path: Path) -> None:
    """In ranges if it has the listed ETag, else from beginning to end."""
    data = random.Random(5).randbytes(RANGED_BYTES)
    for server in (door.server, pool):
        (server.root / "large").write_bytes(data)
    door.server.always("large", to(pool, "large"))
    entry = door.store.stat("large")
    for etags in ("strong", "seconds"):
        pool.change(etags=etags)
        pool.forget()
        door.store.read_into(entry, tmp_path / etags)
        assert (tmp_path / etags).read_bytes() == data
        assert ("range" in pool.requests()[-1].headers) == (etags == "strong")


def test_a_sample_is_opened_behind_a_redirect(door: Faulty, pool: FaultServer) -> None:
    """``Sample.open`` reads a redirected file in ranges."""

    def decode(sample: Sample) -> bytes:
        with sample.open() as file:
            file.seek(1000)
            return file.read(10)

    remote = Remote(door.server.url, door.server.user, door.server.password)
    assert StorageDataset("", remote=remote, decode=decode, cache=None)[0] == DATA[1000:1010]
    assert pool.requests()


# Not followed.


def test_redirects_in_a_circle_end(faulty: Faulty) -> None:
    """They end after some hops, without another try."""
    faulty.server.always(KEY, to(faulty.server))
    assert isinstance(outcome_of(faulty), errors.ProtocolError)
    assert len(faulty.requests()) == MOST_HOPS + 1


@pytest.mark.parametrize(
    "place",
    [
        *("ftp://host/a?s3cr3t", "file:///etc/passwd?s3cr3t", "gopher://host:70/?s3cr3t", "javascript:go()"),
        *("http://host:port/?s3cr3t", "http://[host/?s3cr3t", "https:///a?s3cr3t", "http://host:99999/?s3cr3t", ""),
    ],
)
def test_what_is_no_address_of_a_file_is_not_followed(faulty: Faulty, place: str) -> None:
    """The error shows the address without its query."""
    faulty.server.always(KEY, Fault(status=302, headers={"Location": place}))
    error = outcome_of(faulty)
    assert isinstance(error, errors.ProtocolError)
    assert len(faulty.requests()) == 1


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_what_is_no_redirect_is_told_as_what_it_is(faulty: Faulty, pool: FaultServer, status: int) -> None:
    """Other 3xx are errors, with an address or without."""
    faulty.server.script(KEY, to(pool, status=status), Fault(status=status))
    for _ in range(2):
        assert str(status) in str(outcome_of(faulty))
    assert pool.requests() == []


def test_https_is_not_left_for_http(pool: FaultServer, tmp_path: Path, patience: Patience) -> None:
    """The bytes would come unencrypted."""
    (tmp_path / "certificates").mkdir()
    certificates = make_certificates(tmp_path / "certificates")
    with FaultServer(tmp_path / "root", certificate=certificates.valid) as server:
        (server.root / KEY).write_bytes(DATA)
        remote = Remote(server.url, server.user, server.password, ca_file=certificates.authority)
        faulty = Faulty(server, WebDAVStore(remote, patience=patience), Faulty.listed()._replace(etag=None))
        assert faulty.bytes() == DATA
        server.always(KEY, to(pool))
        assert "from https" in str(outcome_of(faulty))
        assert pool.requests() == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_another_host_does_not_end_the_asking_of_ours(
    door: Faulty, pool: FaultServer, status: int
) -> None:
    """Our credentials were not sent there, so they do not count as refused."""
    pool.always(KEY, Fault(status=status))
    assert isinstance(outcome_of(door), errors.PermissionDeniedError)
    door.server.heal()
    assert door.bytes() == DATA


@pytest.mark.parametrize("wrong", [Fault(drop=True), Fault(status=404), Fault(status=500), Fault(status=503)], ids=repr)
def test_a_failure_of_another_host_shows_no_signature(door: Faulty, pool: FaultServer, wrong: Fault) -> None:
    """The error shows the address without its query."""
    pool.always(KEY, wrong)
    error = outcome_of(door)
    if wrong.status != 404:
        assert f"redirected to {pool.url}{KEY}" in str(error)


def test_a_pool_that_is_down_is_named(faulty: Faulty, tmp_path: Path) -> None:
    """The error has its address, without the signature."""
    with FaultServer(tmp_path / "pool") as pool:
        place = to(pool)
    faulty.server.always(KEY, place)
    assert f"Is {pool.url.rstrip('/')} up" in str(outcome_of(faulty))


@pytest.mark.parametrize("status", STATUSES)
def test_an_upload_is_not_redirected(faulty: Faulty, pool: FaultServer, status: int) -> None:
    """Nothing is sent to another address."""
    faulty.server.always("new.bin", to(pool, "new.bin", status), method="PUT")
    with pytest.raises(errors.ProtocolError, match=f"{pool.url}new.bin") as raised:
        faulty.store.write("new.bin", b"1")
    assert "s3cr3t" not in str(raised.value)
    assert pool.requests() == []


def test_a_listing_is_not_redirected(faulty: Faulty, pool: FaultServer) -> None:
    """The error names the address to give, without its query."""
    faulty.server.always("", Fault(status=302, headers={"Location": f"/new/?{SIGNATURE}"}), method="PROPFIND")
    with pytest.raises(errors.ProtocolError, match=f"{faulty.server.url}new/ ") as raised:
        faulty.store.list()
    assert "s3cr3t" not in str(raised.value)
    assert pool.requests() == []


def test_a_page_to_log_in_is_no_file(faulty: Faulty, pool: FaultServer) -> None:
    """A login page is refused as a whole file, as a range, and without a length."""
    for chunked in (False, True):
        page = Fault(headers={"Content-Type": "text/html"}, body=PAGE * 4000, chunked=chunked, ignore_range=True)
        pool.always("login", replace(page, status=200))
        faulty.server.always(KEY, to(pool, "login"))
        assert isinstance(outcome_of(faulty), errors.ProtocolError)
        with pytest.raises((errors.ProtocolError, errors.ChangedError)):
            faulty.store.read_range(faulty.entry, 10, 20)


@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("http://h/a b\u00e9?x=%20#part", "http://h/a%20b%E9?x=%20"),
        ("/b?x", "https://door/b?x"),
        ("b", "https://door/dir/b"),
        ("//h:8/b", "https://h:8/b"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_an_address_goes_on_the_wire_encoded(location: str, there: str) -> None:
    """Blanks and letters beyond ASCII in a ``Location`` are percent-encoded."""
    assert absolute("https://door/dir/a", location) == there


def test_an_address_is_shown_without_secrets() -> None:
    """Credentials, query and fragment are cut off."""
    assert shown("https://u:p@h/a?X-Amz-Signature=1#b") == "https://h/a"
