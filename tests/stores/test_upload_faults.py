"""Whatever goes wrong, what is reported as confirmed is on the server, and an error says what failed."""

from __future__ import annotations

import hashlib
import random
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, ranges
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import LOGIN_PAGE, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.support.servers import FaultServer, Request

KEY = "run/data.bin"
DATA = random.Random(1).randbytes(100_000)
LARGE = random.Random(2).randbytes(20 * 1024 * 1024)
"""So large that it is read in three ranges."""
SHA256 = hashlib.sha256(DATA).hexdigest()
LARGE_SHA256 = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
def store(fault: FaultServer, patience: Patience) -> WebDAVStore:
    """The fault server, as a user with little patience opens it."""
    (fault.root / "run").mkdir()
    return WebDAVStore(Remote(fault.url, fault.user, fault.password), patience=patience)


def requests(fault: FaultServer, method: str) -> list[Request]:
    """The requests with a method."""
    return [one for one in fault.requests() if one.method == method]


def stored(fault: FaultServer) -> bytes | None:
    """The files that are really there."""
    path = fault.root / KEY
    return path.read_bytes() if path.exists() else None


# --- up


@pytest.mark.parametrize("status", [423, 429, 503])
def test_a_put_that_is_put_off_is_sent_again(fault: FaultServer, store: WebDAVStore, status: int) -> None:
    """The server has said that it did nothing."""
    fault.script(KEY, Fault(status=status, kept_bytes=0), Fault(status=status, kept_bytes=0), method="PUT")
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert stored(fault) == DATA
    assert len(requests(fault, "PUT")) == 3


def test_a_pause_that_the_server_asks_for_is_made(fault: FaultServer, store: WebDAVStore) -> None:
    """The pause comes before the file is looked at."""
    fault.script(KEY, Fault(status=503, headers={"Retry-After": "1"}, kept_bytes=0), method="PUT")
    begun = time.monotonic()
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize(
    "uncertain",
    [
        Fault(status=502),
        Fault(status=504),
        Fault(unanswered=True),
        Fault(unanswered=True, reset=True),
        Fault(stall_s=30),
    ],
    ids=["502", "504", "lost answer", "reset", "stall"],
)
def test_a_put_that_may_have_succeeded_is_looked_at(fault: FaultServer, store: WebDAVStore, uncertain: Fault) -> None:
    """It has succeeded, so the file is read back and not sent again."""
    fault.script(KEY, uncertain, method="PUT")
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert len(requests(fault, "PUT")) == 1
    assert len(requests(fault, "GET")) == 1


@pytest.mark.parametrize(
    "failed",
    [
        Fault(drop=True),
        Fault(drop=True, reset=True),
        Fault(status=504, kept_bytes=50_000),
        Fault(unanswered=True, kept_bytes=99_999),
    ],
    ids=["drop", "reset", "504 and half of it", "lost answer and a byte short"],
)
def test_a_put_that_has_not_succeeded_is_sent_again(fault: FaultServer, store: WebDAVStore, failed: Fault) -> None:
    """The failed PUT has left nothing, or a part of the file."""
    fault.script(KEY, failed, method="PUT")
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert stored(fault) == DATA
    assert len(requests(fault, "PUT")) == 2


@pytest.mark.parametrize(
    "damage",
    [
        Fault(kept_bytes=50_000),
        Fault(kept_bytes=0),
        Fault(flipped=True),
        Fault(flipped=True, unanswered=True),
        Fault(flipped=True, status=504),
    ],
    ids=["half", "nothing", "a bit", "a bit and no answer", "a bit and 504"],
)
def test_damage_that_is_answered_as_success_is_found_and_removed(
    fault: FaultServer, store: WebDAVStore, damage: Fault
) -> None:
    """The next try succeeds."""
    fault.script(KEY, damage, method="PUT")
    with pytest.raises(errors.IntegrityError, match="other bytes"):
        store.write_confirmed(KEY, DATA, SHA256)
    assert stored(fault) is None
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert stored(fault) == DATA


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.ProtocolError),
        (403, errors.PermissionDeniedError),
        (413, errors.ServerError),
        (500, errors.ServerError),
        (507, errors.OutOfSpaceError),
    ],
)
def test_a_refusal_is_an_error_at_once(
    fault: FaultServer, store: WebDAVStore, status: int, kind: type[errors.StorageError]
) -> None:
    """Another try would be refused too."""
    fault.script(KEY, Fault(status=status, kept_bytes=50_000), method="PUT")
    with pytest.raises(kind, match=f"{status}") as raised:
        store.write_confirmed(KEY, DATA, SHA256)
    assert type(raised.value) is kind
    assert len(requests(fault, "PUT")) == 1
    assert status == 403 or stored(fault) is None, "a part of it may fill the disk"
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert stored(fault) == DATA


def test_a_put_that_has_changed_nothing_removes_nothing(fault: FaultServer, store: WebDAVStore) -> None:
    """A file that was there before, in the same version, is no part of ours."""
    (fault.root / KEY).write_bytes(DATA[:50_000])
    fault.script(KEY, Fault(status=507, kept_bytes=50_000), method="PUT")
    with pytest.raises(errors.OutOfSpaceError):
        store.write_confirmed(KEY, DATA, SHA256)
    assert stored(fault) == DATA[:50_000]
    assert requests(fault, "DELETE") == []


def test_a_put_that_is_refused_after_all_has_come_is_not_undone(fault: FaultServer, store: WebDAVStore) -> None:
    """It is whole: the next try verifies it, and sends nothing."""
    fault.script(KEY, Fault(status=500), method="PUT")
    with pytest.raises(errors.ServerError):
        store.write_confirmed(KEY, DATA, SHA256)
    assert stored(fault) == DATA
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert len(requests(fault, "PUT")) == 1


@pytest.mark.parametrize(
    ("fault_", "kind"),
    [
        (Fault(status=423, kept_bytes=0), errors.LockedError),
        (Fault(status=429, kept_bytes=0), errors.ThrottledError),
        (Fault(status=503, kept_bytes=0), errors.ServerUnavailableError),
        (Fault(status=504, kept_bytes=0), errors.ServerUnavailableError),
        (Fault(drop=True), errors.ServerUnavailableError),
    ],
    ids=["423", "429", "503", "504", "drop"],
)
def test_a_lasting_fault_is_an_error_after_some_tries(
    fault: FaultServer, store: WebDAVStore, fault_: Fault, kind: type[errors.StorageError]
) -> None:
    """The error comes after the three tries of the patience; a later write succeeds."""
    fault.always(KEY, fault_, method="PUT")
    with pytest.raises(kind):
        store.write_confirmed(KEY, DATA, SHA256)
    assert len(requests(fault, "PUT")) == 3
    fault.heal()
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"
    assert stored(fault) == DATA


@pytest.mark.parametrize("status", [500, 401])
def test_what_cannot_be_looked_at_is_not_written_over(fault: FaultServer, store: WebDAVStore, status: int) -> None:
    """The file may be there, and belong to a checkpoint."""
    fault.always(KEY, Fault(status=status), method="PROPFIND")
    with pytest.raises(errors.StorageError):
        store.write_confirmed(KEY, DATA, SHA256)
    assert requests(fault, "PUT") == []


@pytest.mark.parametrize(
    "wrong", [Fault(status=500), Fault(status=404), Fault(status=403), LOGIN_PAGE], ids=["500", "404", "403", "page"]
)
def test_what_cannot_be_read_back_is_not_confirmed(fault: FaultServer, store: WebDAVStore, wrong: Fault) -> None:
    """The PUT was answered with 201; that is not enough."""
    fault.always(KEY, wrong)
    with pytest.raises(errors.StorageError):
        store.write_confirmed(KEY, DATA, SHA256)
    fault.heal()
    sent: list[int] = []
    assert store.write_confirmed(KEY, DATA, SHA256, on_bytes=sent.append) == "confirmed"
    assert sent == [], "it was there all the time"


def test_a_stopped_server_is_waited_for_no_longer_than_patience_has_it(fault: FaultServer, store: WebDAVStore) -> None:
    """The caller tries again later, and it succeeds."""
    fault.stop()
    try:
        with pytest.raises(errors.ServerUnavailableError):
            store.write_confirmed(KEY, DATA, SHA256)
    finally:
        fault.start()
    assert store.write_confirmed(KEY, DATA, SHA256) == "confirmed"


# --- down


@pytest.mark.parametrize(
    "wrong",
    [
        Fault(cut_after_bytes=1000),
        Fault(cut_after_bytes=1000, reset=True),
        Fault(drop=True),
        Fault(status=503),
        Fault(headers={"Content-Range": "bytes 0-99/1000"}),
    ],
    ids=["cut", "reset", "drop", "503", "another range"],
)
def test_a_range_that_fails_is_fetched_again(
    fault: FaultServer, store: WebDAVStore, tmp_path: Path, wrong: Fault
) -> None:
    """The file is complete afterwards."""
    (fault.root / KEY).write_bytes(LARGE)
    fault.script(KEY, wrong)
    assert store.read_into(store.stat(KEY), tmp_path / "local.bin", LARGE_SHA256) == LARGE_SHA256
    assert (tmp_path / "local.bin").read_bytes() == LARGE
    assert len(requests(fault, "GET")) == 4


@pytest.mark.parametrize("etags", ["weak", "none", "strong"])
def test_without_ranges_of_one_version_the_file_comes_whole(
    fault: FaultServer, store: WebDAVStore, tmp_path: Path, etags: str
) -> None:
    """The server has no strong ETags, or ignores ranges."""
    fault.change(etags=etags)
    (fault.root / KEY).write_bytes(LARGE)
    fault.always(KEY, Fault(ignore_range=True))
    assert store.read_into(store.stat(KEY), tmp_path / "local.bin") == LARGE_SHA256
    assert (tmp_path / "local.bin").read_bytes() == LARGE


def test_versions_are_never_spliced(
    fault: FaultServer, store: WebDAVStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes between two ranges comes whole, in its new version."""
    monkeypatch.setattr(ranges, "IN_FLIGHT", 1)
    newer = LARGE[::-1]
    (fault.root / KEY).write_bytes(LARGE)
    entry = store.stat(KEY)
    fault.script(KEY, Fault(rewrite=newer))
    found = store.read_into(entry, tmp_path / "local.bin")
    assert (tmp_path / "local.bin").read_bytes() == newer
    assert found == hashlib.sha256(newer).hexdigest()


def test_a_full_local_disk_is_told_and_leaves_nothing(fault: FaultServer, store: WebDAVStore, tmp_path: Path) -> None:
    """It is an error of this machine, not of the store."""
    (fault.root / KEY).write_bytes(LARGE)
    local = tmp_path / "local.bin"
    local.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        store.read_into(store.stat(KEY), local)
    assert not isinstance(raised.value, errors.StorageError)
    assert [*tmp_path.iterdir()] == []


def test_memory_does_not_grow_with_the_file(store: WebDAVStore, tmp_path: Path) -> None:
    """Neither an upload nor a download holds the file in memory."""
    local = tmp_path / "large.bin"
    local.write_bytes(LARGE * 3)
    sha256 = hashlib.sha256(LARGE * 3).hexdigest()
    tracemalloc.start()
    try:
        store.write_confirmed(KEY, local, sha256)
        store.read_into(store.stat(KEY), tmp_path / "local.bin", sha256)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024 * 1024


# --- listings and trees


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (Fault(status=401), errors.AuthenticationError),
        (Fault(status=403), errors.PermissionDeniedError),
        (Fault(status=429), errors.ThrottledError),
        (Fault(status=500), errors.ServerError),
        (Fault(status=502), errors.ServerUnavailableError),
        (Fault(status=503), errors.ServerUnavailableError),
        (Fault(drop=True), errors.ServerUnavailableError),
        (Fault(stall_s=10), errors.DeadlineError),
        (Fault(body=b"<html>", headers={"Content-Type": "text/html"}), errors.ProtocolError),
        (LOGIN_PAGE, errors.ProtocolError),
    ],
    ids=["401", "403", "429", "500", "502", "503", "drop", "stall", "html", "page"],
)
@pytest.mark.parametrize("folder", ["", "run"])
def test_a_listing_that_fails_never_looks_empty(
    fault: FaultServer, store: WebDAVStore, wrong: Fault, kind: type[errors.StorageError], folder: str
) -> None:
    """An empty one would mean a run that has not begun."""
    (fault.root / KEY).write_bytes(DATA)
    fault.always(folder, wrong, method="PROPFIND")
    with pytest.raises(kind):
        store.list_below(folder)


def test_a_folder_that_fails_in_the_middle_of_a_listing_fails_all_of_it(fault: FaultServer, store: WebDAVStore) -> None:
    """The server lists folder by folder, and one of them fails."""
    fault.change(depth_infinity="refused")
    (fault.root / "run/attempt").mkdir()
    (fault.root / "run/attempt/data.bin").write_bytes(DATA)
    fault.always("run/attempt", Fault(status=500), method="PROPFIND")
    with pytest.raises(errors.ServerError):
        store.list_below("run")
    fault.heal()
    assert [entry.key for entry in store.list_below("run")] == ["run/attempt/data.bin"]


def test_what_a_server_lists_from_elsewhere_is_not_below(fault: FaultServer, store: WebDAVStore) -> None:
    """Files outside the folder that was asked for are left out."""
    fault.script("run", Fault(hrefs=("/other/data.bin", "/run2/data.bin")), method="PROPFIND")
    assert store.list_below("run") == []


def test_a_tree_that_could_not_be_removed_is_an_error(fault: FaultServer, store: WebDAVStore) -> None:
    """A 207 to a DELETE lists what is left (RFC 4918, 9.6.1)."""
    (fault.root / KEY).write_bytes(DATA)
    fault.script("run", Fault(status=207, drop=False), method="DELETE")
    with pytest.raises(errors.ServerError, match="207"):
        store.remove_tree("run")


def test_a_tree_whose_removal_was_not_answered_is_gone(fault: FaultServer, store: WebDAVStore) -> None:
    """The second DELETE finds nothing, which is no error."""
    (fault.root / KEY).write_bytes(DATA)
    fault.script("run", Fault(unanswered=True), method="DELETE")
    store.remove_tree("run")
    assert not (fault.root / "run").exists()
    assert store.list_below("run") == []


def test_an_entry_without_an_etag_is_read_from_its_begin_to_its_end(
    fault: FaultServer, store: WebDAVStore, tmp_path: Path
) -> None:
    """One request, without a range."""
    (fault.root / KEY).write_bytes(LARGE)
    assert store.read_into(Entry(KEY, len(LARGE)), tmp_path / "local.bin") == LARGE_SHA256
    (get,) = requests(fault, "GET")
    assert "range" not in get.headers
