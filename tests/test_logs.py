"""The log has no line per request of httpx, and no headers."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from ai4os_data import errors
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from ai4os_data.http.retries import Patience
    from tests.support.shares import Share


def names(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The libraries whose loggers have logged something."""
    return {record.name.partition(".")[0] for record in caplog.records}


@pytest.mark.parametrize("name", ["share", "cloud_share"])
def test_requests_of_ours_are_not_logged_by_httpx(
    name: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """They are logged at no level: in threads of a listing, in writes and in failures."""
    there: Share = request.getfixturevalue(name)
    there.put({"a/b": b"b", "c/d/e": b"e"})
    with caplog.at_level(logging.DEBUG):
        store = open_store(there.location, there.remote)
        assert len(store.list()) == 2
        store.write("new/file", b"1")
        assert not store.has_folder("nosuch")
        store.remove_tree("new")
    assert names(caplog) <= {"ai4os_data"}


def test_requests_of_the_user_are_logged_as_ever(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """They are logged before, after, and in another thread during ours."""
    store = open_store(share.location, share.remote)
    done = threading.Event()

    def list_all_the_time() -> None:
        while not done.is_set():
            store.list()

    ours = threading.Thread(target=list_all_the_time)
    with caplog.at_level(logging.DEBUG):
        ours.start()
        try:
            for _ in range(5):
                httpx.get(share.server.url)
        finally:
            done.set()
            ours.join()
    lines = [record.getMessage() for record in caplog.records if record.name == "httpx"]
    assert len(lines) == 5
    assert all(line.startswith("HTTP Request: GET") for line in lines)
    assert "httpcore" in names(caplog)


def test_a_request_that_fails_silences_nothing_afterwards(
    share: Share, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """The failing request itself is not logged."""
    store = share.store(patience)
    with caplog.at_level(logging.DEBUG):
        with share.down(), pytest.raises(errors.ServerUnavailableError):
            store.list()
        assert names(caplog) <= {"ai4os_data"}
        httpx.get(share.server.url)
    assert "httpx" in names(caplog)
