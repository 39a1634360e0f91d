"""What goes over the wire: what no server can misunderstand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai4os_data.stores import file_at, folder_token
from tests.support.places import TALKATIVE, ServedFolder, make_place

if TYPE_CHECKING:
    from ai4os_data.http.retries import Patience
    from tests.support.servers import Request


@pytest.fixture(params=TALKATIVE)
def requests(request: pytest.FixtureRequest, patience: Patience) -> list[Request]:
    """All requests that are sent when each verb is used once, on each server."""
    place = make_place(request.param, request, patience)
    assert isinstance(place, ServedFolder)
    assert place.server is not None
    place.put("a/b/deep.bin", b"1" * 100)
    place.put("c d/#.bin", b"2" * 100)
    place.make_folder("empty")
    place.server.forget()
    store = place.open()
    folder_token(store)
    listed = store.list()
    list(store.read_many(listed))
    file_at(store, "missing.bin")
    store.read_range(listed[0], 1, 3)
    store.write("new folder/two/new.bin", b"3")
    store.delete("new folder/two/new.bin")
    return place.server.requests()


def test_every_propfind_has_a_depth(requests: list[Request]) -> None:
    """Each PROPFIND has a Depth: without one it means infinity, which Apache refuses even for one file."""
    depths = [request.headers.get("depth") for request in requests if request.method == "PROPFIND"]
    assert depths
    assert set(depths) <= {"0", "1", "infinity"}


def test_a_file_is_looked_up_without_its_folder(requests: list[Request]) -> None:
    """A question about one file has Depth 0: a Depth of 1 would list all that lies beside it."""
    of_files = [request for request in requests if request.method == "PROPFIND" and request.path.endswith(".bin")]
    assert of_files
    assert {request.headers["depth"] for request in of_files} == {"0"}


def test_folders_keep_their_slash_and_files_have_none(requests: list[Request]) -> None:
    """The URL of a folder ends with a slash: Apache redirects without one, nginx refuses."""
    of_folders = [
        request
        for request in requests
        if request.method == "MKCOL" or (request.method == "PROPFIND" and not request.path.endswith(".bin"))
    ]
    assert of_folders
    assert all(request.path.endswith("/") for request in of_folders)
    assert not any(
        request.path.endswith("/")
        for request in requests
        if request.method in {"GET", "PUT", "DELETE"} and ":query" not in request.headers
    )


def test_nothing_is_asked_for_compressed(requests: list[Request]) -> None:
    """No body is compressed: sizes have to be those of the files."""
    assert {request.headers.get("accept-encoding") for request in requests} == {"identity"}


def test_no_request_is_wasted(requests: list[Request]) -> None:
    """No request fails: no login first, no redirect, no probing of what is known."""
    assert {request.status for request in requests} <= {200, 201, 204, 206, 207, 404, 409, 403, 405}
    assert len(requests) < 30
    assert {request.method for request in requests} == {"PROPFIND", "GET", "PUT", "MKCOL", "DELETE"}
