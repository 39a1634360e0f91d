"""A listing is complete and of this folder, or it is an error: whatever a server answers."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest
import torch

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.http.retries import Patience
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import file_at
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import BROKEN_XML, HREFS_ELSEWHERE, LOGIN_PAGE, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nextcloud import NextcloudServer
    from tests.support.servers import FaultServer

TREE = {"top.bin": 1, "a/one.bin": 2, "a/b/two.bin": 3, "a/b/c/three.bin": 4, "d e/four.bin": 5, "d e/f/five.bin": 6}
SIZES_THAT_ARE_NONE = ["nonsense", "-1", "1.5", "\u00b2", "1e3", " "]


@pytest.fixture
def store(fault: FaultServer, patience: Patience) -> WebDAVStore:
    """A store of a folder with a tree in it, beside a file that is none of its business."""
    for key, size_bytes in TREE.items():
        path = fault.root / "folder" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size_bytes)
    (fault.root / "folder" / "empty" / "too").mkdir(parents=True)
    (fault.root / "folderer").mkdir()
    return WebDAVStore(Remote(fault.url, fault.user, fault.password), "folder", patience=patience)


def listed(store: WebDAVStore) -> dict[str, int]:
    """Keys and sizes."""
    return {entry.key: entry.size_bytes for entry in store.list()}


def answer(*responses: str) -> bytes:
    """A multistatus with these responses."""
    return f'<d:multistatus xmlns:d="DAV:">{"".join(responses)}</d:multistatus>'.encode()


def a_file(href: str, size: str | int = 5) -> str:
    """One of its responses."""
    return (
        f"<d:response><d:href>{href}</d:href><d:propstat><d:prop><d:resourcetype/><d:getcontentlength>{size}"
        f"</d:getcontentlength></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    )


# However deep a server lists.


@pytest.mark.parametrize("depth_infinity", ["listed", "refused", "clamped"])
@pytest.mark.parametrize("absolute_hrefs", [False, True])
def test_the_listing_is_the_same_however_deep_the_server_goes(
    fault: FaultServer,
    store: WebDAVStore,
    depth_infinity: str,
    absolute_hrefs: bool,  # noqa: FBT001  a parameter
) -> None:
    """All at once, folder by folder after a 403, or after a Depth of infinity that was taken for 1 without a word."""
    fault.change(depth_infinity=depth_infinity, absolute_hrefs=absolute_hrefs)
    assert listed(store) == TREE
    requests = fault.requests()
    assert requests[0].headers["depth"] == "infinity"
    assert len(requests) == {"listed": 1, "refused": 1 + 8, "clamped": 1 + 7}[depth_infinity]


def test_a_folder_that_goes_away_while_it_is_listed_is_not_there(fault: FaultServer, store: WebDAVStore) -> None:
    """The rest of the listing is still right."""
    fault.change(depth_infinity="refused")
    fault.always("folder/a/b", Fault(status=404), method="PROPFIND")
    assert listed(store) == {key: size for key, size in TREE.items() if not key.startswith("a/b/")}


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_folder_that_cannot_be_listed_fails_the_listing(fault: FaultServer, store: WebDAVStore, status: int) -> None:
    """A listing without it would look complete."""
    fault.change(depth_infinity="refused")
    fault.always("folder/a/b", Fault(status=status), method="PROPFIND")
    with pytest.raises(errors.StorageError, match=str(status)):
        store.list()


def test_a_missing_folder_is_a_location_error_also_where_the_depth_is_refused_first(
    fault: FaultServer, patience: Patience
) -> None:
    """Some servers refuse the depth before they look for the folder."""
    fault.script("nowhere", Fault(status=403), method="PROPFIND")
    store = WebDAVStore(Remote(fault.url, fault.user, fault.password), "nowhere", patience=patience)
    with pytest.raises(errors.LocationError, match="no such folder"):
        store.list()


# Names that leave the folder.


@pytest.mark.parametrize("href", HREFS_ELSEWHERE.hrefs)
def test_a_name_that_leaves_the_folder_or_the_server_is_refused(
    fault: FaultServer, store: WebDAVStore, href: str
) -> None:
    """With all of the listing: who sends one such name is not to be trusted with the others."""
    fault.always("*", Fault(hrefs=(href,)), method="PROPFIND")
    for _ in range(2):
        with pytest.raises(errors.ProtocolError) as raised:
            store.list()
        assert href in str(raised.value)


@pytest.mark.parametrize(
    "href",
    [
        "/folderer/stolen.bin",
        "/stolen.bin",
        "/folder/../stolen.bin",
        "/folder/a/./b.bin",
        "/folder/a//b.bin",
        "/folder/%00.bin",
        "/folder/..",
        "http://127.0.0.1:1@elsewhere.example/folder/stolen.bin",
        "HTTPS://elsewhere.example/folder/stolen.bin",
        "ftp://127.0.0.1/folder/stolen.bin",
        "//elsewhere.example/folder/stolen.bin",
        "http://[::1/folder/stolen.bin",
    ],
)
def test_a_name_beside_the_folder_is_refused(fault: FaultServer, store: WebDAVStore, href: str) -> None:
    """At the root of the server and in a folder whose name begins alike, too."""
    fault.always("*", Fault(hrefs=(href,)), method="PROPFIND")
    with pytest.raises(errors.ProtocolError):
        store.list()


def test_an_address_of_the_server_itself_is_taken(fault: FaultServer, store: WebDAVStore) -> None:
    """The host is ours; scheme and port may be those that a proxy hides."""
    hrefs = ("http://127.0.0.1/folder/x.bin", "HTTPS://127.0.0.1:8443/folder/y%23.bin", "//127.0.0.1/folder/z.bin")
    fault.always("folder", Fault(hrefs=hrefs), method="PROPFIND")
    assert listed(store) == TREE | {"x.bin": 5, "y#.bin": 5, "z.bin": 5}


def test_names_are_taken_apart_after_they_are_decoded(fault: FaultServer, store: WebDAVStore) -> None:
    """A server may percent-encode more or less than we do."""
    hrefs = ("/%66older/%61.bin", "/folder/b c.bin", "/folder/d%2520e.bin", "/folder/caf%C3%A9.bin", "/folder/~.bin")
    fault.always("folder", Fault(hrefs=hrefs), method="PROPFIND")
    assert set(listed(store)) == set(TREE) | {"a.bin", "b c.bin", "d%20e.bin", "caf\u00e9.bin", "~.bin"}


# Answers that are no listings.


@pytest.mark.parametrize(
    "broken",
    [
        BROKEN_XML,
        Fault(cut_after_bytes=100),
        Fault(cut_after_bytes=100, reset=True),
        Fault(chunked=True, cut_after_bytes=100),
        Fault(body=b""),
        Fault(drop=True),
        Fault(status=503),
        Fault(stall_s=30),
    ],
    ids=repr,
)
def test_a_broken_listing_is_fetched_again(fault: FaultServer, store: WebDAVStore, broken: Fault) -> None:
    """One torn answer costs a second request and no error."""
    fault.script("folder", broken, method="PROPFIND")
    assert listed(store) == TREE


@pytest.mark.parametrize(
    "broken", [BROKEN_XML, Fault(body=b""), Fault(body=b"<html></html>"), Fault(body=answer())], ids=repr
)
def test_what_is_never_a_listing_is_an_error(fault: FaultServer, store: WebDAVStore, broken: Fault) -> None:
    """Such an answer never counts as an empty folder."""
    fault.always("*", broken, method="PROPFIND")
    for ask in (store.list, lambda: store.stat("top.bin"), lambda: file_at(store, "top.bin")):
        with pytest.raises(errors.ProtocolError, match="cannot be used"):
            ask()


def test_a_login_page_is_no_listing(fault: FaultServer, store: WebDAVStore) -> None:
    """Its status gives it away, and it is not asked for again."""
    fault.always("*", LOGIN_PAGE, method="PROPFIND")
    with pytest.raises(errors.ProtocolError, match="not a WebDAV server"):
        store.list()
    assert len(fault.requests()) <= 3


def test_a_page_of_a_plain_web_server_is_no_listing(fault: FaultServer, store: WebDAVStore) -> None:
    """A server that does not know PROPFIND answers with a page."""
    fault.always("*", Fault(status=405), method="PROPFIND")
    with pytest.raises(errors.ServerError, match="405"):
        store.list()


@pytest.mark.parametrize("size", SIZES_THAT_ARE_NONE)
def test_a_size_that_is_none_is_an_error(fault: FaultServer, store: WebDAVStore, size: str) -> None:
    """A size that is no number raises an error of ours with a type."""
    fault.always("*", Fault(body=answer(a_file("/folder/top.bin", size))), method="PROPFIND")
    with pytest.raises(errors.ProtocolError):
        store.list()


def test_properties_that_the_server_does_not_know_are_not_taken(fault: FaultServer, store: WebDAVStore) -> None:
    """Properties with another status than 200 do not count; a response with only an error is no file."""
    unknown = (
        "<d:response><d:href>/folder/x.bin</d:href>"
        "<d:propstat><d:prop><d:getetag>wrong</d:getetag><d:getcontentlength>1</d:getcontentlength></d:prop>"
        "<d:status>HTTP/1.1 404 Not Found</d:status></d:propstat>"
        "<d:propstat><d:prop><d:getcontentlength>7</d:getcontentlength></d:prop>"
        "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    )
    gone = "<d:response><d:href>/folder/gone.bin</d:href><d:status>HTTP/1.1 404 Not Found</d:status></d:response>"
    fault.always("*", Fault(body=answer(unknown, gone, a_file("/folder/y.bin"))), method="PROPFIND")
    assert [(entry.key, entry.size_bytes, entry.etag) for entry in store.list()] == [
        ("x.bin", 7, None),
        ("y.bin", 5, None),
    ]


def test_entities_are_not_expanded_without_end(fault: FaultServer, store: WebDAVStore) -> None:
    """A billion laughs are refused by the parser."""
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE d [<!ENTITY a0 "ha">{entities}]><d:multistatus xmlns:d="DAV:">&a11;</d:multistatus>'
    fault.always("*", Fault(body=bomb.encode()), method="PROPFIND")
    begin = time.monotonic()
    with pytest.raises(errors.ProtocolError):
        store.list()
    assert time.monotonic() - begin < 5


def test_a_listing_that_stalls_is_left_within_the_deadline(fault: FaultServer, store: WebDAVStore) -> None:
    """Three tries of a second each are made."""
    fault.always("*", Fault(stall_s=30), method="PROPFIND")
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineError):
        store.list()
    assert 2.5 < time.monotonic() - begin < 7


def test_a_question_is_asked_once_more_when_the_wait_is_over(fault: FaultServer) -> None:
    """A first answer that takes nearly all of ``outage_s`` to fail is not the last word."""
    (fault.root / "a.bin").write_bytes(b"12345")
    patience = Patience(tries=3, first_pause_s=0.02, longest_pause_s=0.05, stall_s=1, total_s=10.0, outage_s=1.4)
    store = WebDAVStore(Remote(fault.url, fault.user, fault.password), patience=patience)
    fault.script("*", Fault(stall_s=3), method="PROPFIND")
    assert store.stat("a.bin").size_bytes == 5


@pytest.mark.parametrize("status", [301, 302, 308])
def test_a_folder_that_moved_is_told_with_its_place(fault: FaultServer, store: WebDAVStore, status: int) -> None:
    """Not followed: webdav verbs do not survive it, and credentials are for this server."""
    place = "https://new.example/dav/folder/"
    fault.always("*", Fault(status=status, headers={"Location": place}), method="PROPFIND")
    with pytest.raises(errors.ProtocolError, match=place):
        store.list()
    assert {request.method for request in fault.requests()} == {"PROPFIND"}


def test_a_compressed_listing_is_understood(fault: FaultServer, store: WebDAVStore) -> None:
    """Nobody asked for it, but a listing has no size to be compared with."""
    fault.always("folder", Fault(gzip=True), method="PROPFIND")
    assert listed(store) == TREE


# A Depth of infinity that fails, in whatever way.

FAILURES = [
    *(Fault(status=status) for status in (400, 403, 404, 405, 412, 413, 423, 429, 500, 501, 502, 503, 504, 507)),
    Fault(drop=True),
    Fault(drop=True, reset=True),
    Fault(stall_s=30),
    Fault(body=b""),
    Fault(cut_after_bytes=100),
    Fault(status=204, body=b""),
    BROKEN_XML,
    LOGIN_PAGE,
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failing_depth_of_infinity_is_tried_once_for_a_server(
    fault: FaultServer, store: WebDAVStore, failure: Fault
) -> None:
    """Then Depth 1 lists the same, folder by folder; no store of that server tries infinity again in this process."""
    fault.script("folder", failure, method="PROPFIND")
    assert listed(store) == TREE
    depths = [request.headers["depth"] for request in fault.requests()]
    assert depths == ["infinity"] + ["1"] * 8
    fault.forget()
    again = WebDAVStore(store.remote, "folder/a", patience=store.patience)
    assert set(listed(again)) == {"one.bin", "b/two.bin", "b/c/three.bin"}
    assert {request.headers["depth"] for request in fault.requests()} == {"1"}


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_depth_of_infinity_that_fails_like_depth_1_says_nothing_of_the_server(
    fault: FaultServer, store: WebDAVStore, failure: Fault
) -> None:
    """It is an outage, or a missing folder: Depth 1 raises its own error, and nothing is remembered."""
    fault.always("folder", failure, method="PROPFIND")
    with pytest.raises(errors.StorageError) as raised:
        store.list()
    assert not isinstance(raised.value, errors.OutOfSpaceError)
    fault.heal()
    fault.forget()
    assert listed(store) == TREE
    assert [request.headers["depth"] for request in fault.requests()] == ["infinity"]


def test_wrong_credentials_are_not_tried_a_second_time_by_another_depth(fault: FaultServer, store: WebDAVStore) -> None:
    """Servers shut an address out after a few wrong tries."""
    fault.credentials_expire()
    with pytest.raises(errors.AuthenticationError):
        store.list()
    assert len(fault.requests()) == 1
    fault.heal()


# An error of the server under the status of a success.

SABRE = (
    '<?xml version="1.0" encoding="utf-8"?>\n<d:error xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns">\n'
    "  <s:exception>{}</s:exception>\n  <s:message>said by the server</s:message>\n</d:error>\n"
)
TORN = '<?xml version="1.0"?>\n<d:multistatus xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns"'
HIDDEN = {
    r"Sabre\DAV\Exception\Forbidden": errors.PermissionDeniedError,
    r"Sabre\DAV\Exception\NotAuthenticated": errors.AuthenticationError,
    r"Sabre\DAV\Exception\Locked": errors.LockedError,
    r"OCA\DAV\Connector\Sabre\Exception\FileLocked": errors.LockedError,
    r"Sabre\DAV\Exception\ServiceUnavailable": errors.ServerUnavailableError,
    r"OCA\DAV\Connector\Sabre\Exception\TooManyRequests": errors.ThrottledError,
    r"Sabre\DAV\Exception\InsufficientStorage": errors.ServerError,
    r"Sabre\DAV\Exception\BadRequest": errors.ProtocolError,
    r"Error": errors.ServerError,
}


@pytest.mark.parametrize("exception", HIDDEN)
@pytest.mark.parametrize("around", ["{}", "{}" + TORN, TORN + ">{}", TORN + "\n{}</d:multistatus>"])
def test_an_error_in_a_multistatus_is_read_as_its_status(
    fault: FaultServer, store: WebDAVStore, exception: str, around: str
) -> None:
    """Nextcloud streams: the status is sent before it knows that there is nothing to list."""
    body = around.format(SABRE.format(exception))
    fault.always("*", Fault(status=207, body=body.encode()), method="PROPFIND")
    for ask in (store.list, lambda: store.stat("top.bin"), store._folder.etag, lambda: store.has_folder("a")):
        with pytest.raises(HIDDEN[exception]) as raised:
            ask()
        assert not isinstance(raised.value, errors.OutOfSpaceError)


@pytest.mark.parametrize("around", ["{}", "{}" + TORN, TORN + ">{}"])
def test_a_missing_path_in_a_multistatus_is_missing_at_once(
    fault: FaultServer, store: WebDAVStore, around: str
) -> None:
    """False, nothing, NotFoundError and LocationError, as with a 404; without a second try."""
    body = around.format(SABRE.format(r"Sabre\DAV\Exception\NotFound"))
    fault.always("*", Fault(status=207, body=body.encode()), method="PROPFIND")
    assert file_at(store, "top.bin") is None
    assert not store.has_folder("a")
    assert len(fault.requests()) == 2
    assert store.list_below("a") == []
    with pytest.raises(errors.NotFoundError):
        store.stat("top.bin")
    for ask in (store.list, store.look, store._folder.etag):
        with pytest.raises(errors.LocationError, match="no such folder"):
            ask()


def test_a_listing_that_breaks_off_over_a_missing_file_is_no_missing_folder(
    fault: FaultServer, store: WebDAVStore
) -> None:
    """Otherwise a run whose checkpoints are being pruned would look new, and begin from scratch."""
    begun = f"{TORN}>{a_file('/folder/top.bin')}"
    error = SABRE.format(r"Sabre\DAV\Exception\NotFound")
    for body in (begun + error, error + begun):
        fault.always("*", Fault(status=207, body=body.encode()), method="PROPFIND")
        with pytest.raises(errors.ProtocolError):
            store.list_below("")
        fault.script("folder", Fault(status=207, body=body.encode()), method="PROPFIND")
        fault.heal()
        assert listed(store) == TREE


def test_what_an_error_says_in_a_file_name_is_no_error(fault: FaultServer, store: WebDAVStore) -> None:
    """Names are escaped; an error inside a response is that of the response."""
    inside = "<d:error><d:no-external-entities/></d:error>"
    odd = f"<d:response><d:href>/folder/x</d:href><d:status>HTTP/1.1 500 X</d:status>{inside}</d:response>"
    fault.always("*", Fault(body=answer(odd, a_file("/folder/&lt;d:error&gt;"))), method="PROPFIND")
    assert [entry.key for entry in store.listing().entries] == ["<d:error>"]


@pytest.mark.parametrize("encoding", ["gb2312", "utf-32", "no-such-encoding"])
def test_an_encoding_that_no_server_uses_is_an_error_of_ours(
    fault: FaultServer, store: WebDAVStore, encoding: str
) -> None:
    """Python's codecs would raise a LookupError or a ValueError out of the parser."""
    body = f'<?xml version="1.0" encoding="{encoding}"?><d:multistatus xmlns:d="DAV:"/>'
    fault.always("*", Fault(status=207, body=body.encode()), method="PROPFIND")
    with pytest.raises(errors.ProtocolError):
        store.list()


def test_a_listing_that_only_calls_itself_compressed_is_an_error_of_ours(
    fault: FaultServer, store: WebDAVStore
) -> None:
    """A proxy that unpacks and keeps the header."""
    fault.always("*", Fault(headers={"Content-Encoding": "gzip"}), method="PROPFIND")
    with pytest.raises(errors.ProtocolError, match="cannot be used"):
        store.list()


def test_a_new_run_begins_at_the_older_endpoint_of_nextcloud_at_once(
    nextcloud: NextcloudServer, tmp_path: Path
) -> None:
    """There are no checkpoints and no folders: each is missing by a 207 with an error in it."""
    remote = Remote(nextcloud.legacy_url, nextcloud.user, nextcloud.password, vendor="nextcloud")
    begin = time.monotonic()
    with StorageCheckpoint(f"runs/{uuid.uuid4().hex}", remote=remote, spool=tmp_path / "spool") as run:
        assert run.restore() is None
        run.save({"w": torch.zeros(3)}, step=1).wait("confirmed", timeout_s=30)
        assert run.restore() is not None
    assert time.monotonic() - begin < 10
