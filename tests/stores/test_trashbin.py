"""Nextcloud's trash bin keeps nothing of a checkpoint that was removed, and loses nothing else."""

from __future__ import annotations

import http.client
import uuid
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import trashbin
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.nextcloud_urls import NextcloudUrls
from ai4os_data.stores.trashbin import TrashBin
from tests.support.runs import open_run, save_steps, steps_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer


class Bin:
    """A folder of its own on the double, and its entries in the trash bin."""

    def __init__(self, server: NextcloudServer, patience: Patience, legacy: str = "") -> None:
        self.server = server
        self.folder = f"bin {uuid.uuid4().hex}"
        self.remote = Remote(legacy or server.url, server.user, server.password, vendor="nextcloud")
        self.store = NextcloudStore(self.remote, self.folder, patience=patience)

    def locations(self) -> list[str]:
        """The original locations of the entries in the bin, below the folder."""
        urls = NextcloudUrls.of(self.remote)
        assert urls is not None
        all_of_them = [one.location for one in TrashBin(self.store.dav, urls).entries()]
        return sorted(one[len(self.folder) + 1 :] for one in all_of_them if one.startswith(f"{self.folder}/"))

    def requests(self, method: str) -> int:
        """The number of requests with a method."""
        return len([one for one in self.server.requests() if one.method == method])

    def delete_by_hand(self, key: str) -> None:
        """Delete something as the web page does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        token = b64encode(f"{self.server.user}:{self.server.password}".encode()).decode()
        connection.request("DELETE", self.store.address.url(key), headers={"Authorization": f"Basic {token}"})
        assert connection.getresponse().status == 204
        connection.close()


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Begin as a new process does."""
    trashbin._skipped.clear()
    yield
    trashbin._skipped.clear()


@pytest.fixture(params=["34", "29", "34 legacy", "29 legacy"])
def bin_(request: pytest.FixtureRequest, patience: Patience) -> Bin:
    """The bin of a version that a header makes skip it, and of one that ignores the header; by both addresses."""
    server = request.getfixturevalue("nextcloud" if request.param.startswith("34") else "nextcloud_29")
    server.forget()
    return Bin(server, patience, server.legacy_url if request.param.endswith("legacy") else "")


def test_removed_checkpoints_leave_the_bin_empty(bin_: Bin, tmp_path: Path) -> None:
    """Four of six checkpoints are removed, manifest and folder."""
    with open_run(bin_.store, tmp_path, keep_last=2) as run:
        save_steps(run, 1, 2, 3, 4, 5, 6)
        assert steps_of(run) == [6, 5]
    assert bin_.locations() == []


def test_nothing_else_leaves_the_bin(bin_: Bin) -> None:
    """Entries that somebody else deleted, from elsewhere, or a part of the folder, stay."""
    for key in ("run/a/m", "run/a/s", "run/b/n", "other/a2/m", "run/a/by-hand"):
        bin_.store.write(key, b"1")
    for key in ("run/a/by-hand", "other/a2", "run/b/n"):
        bin_.delete_by_hand(key)
    before = ["other/a2", "run/a/by-hand", "run/b/n"]
    assert bin_.locations() == before
    bin_.store.expunge("run/a", first=["run/a/m", "run/a/missing"])
    assert bin_.locations() == before
    assert not bin_.store.has_folder("run/a")


def test_what_was_deleted_long_ago_stays(bin_: Bin, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older entry of the same path is not ours to remove."""
    monkeypatch.setattr(trashbin, "_CLOCKS_S", -1e6)
    bin_.store.write("run/a/m", b"1")
    bin_.delete_by_hand("run/a/m")
    bin_.store.write("run/a/m", b"2")
    bin_.store.expunge("run/a")
    assert "run/a/m" in bin_.locations()


def test_the_bin_is_looked_at_once_where_the_server_skips_it(bin_: Bin) -> None:
    """After that a removal costs no further requests."""
    for name in ("a", "b", "c"):
        bin_.store.write(f"run/{name}/m", b"1")
    bin_.store.expunge("run/a")
    bin_.server.forget()
    bin_.store.expunge("run/b")
    bin_.store.expunge("run/c")
    is_skipped = bin_.server.settings.version == "34"
    assert bin_.requests("PROPFIND") == (0 if is_skipped else 2)
    assert bin_.requests("DELETE") == (2 if is_skipped else 4)


def test_a_bin_that_tells_nonsense_is_no_error(bin_: Bin) -> None:
    """One entry has a deletion time of five thousand digits."""
    bin_.store.write("run/a/m", b"1")
    time = "9" * 5000
    body = (
        '<?xml version="1.0"?><d:multistatus xmlns:d="DAV:" xmlns:nc="http://nextcloud.org/ns"><d:response>'
        f"<d:href>/remote.php/dav/trashbin/x/trash/a.d{time}</d:href><d:propstat><d:prop><nc:trashbin-filename>a"
        "</nc:trashbin-filename><nc:trashbin-original-location>run/a</nc:trashbin-original-location>"
        f"<nc:trashbin-deletion-time>{time}</nc:trashbin-deletion-time></d:prop><d:status>HTTP/1.1 200 OK</d:status>"
        "</d:propstat></d:response></d:multistatus>"
    )
    bin_.server.answer_next(1, 207, within="/trashbin/", method="PROPFIND", body=body)
    bin_.store.expunge("run/a")
    assert not bin_.store.has_folder("run/a")


@pytest.mark.parametrize("status", [403, 404, 405, 423, 500, 503])
def test_a_bin_that_cannot_be_emptied_is_no_error(status: int, bin_: Bin) -> None:
    """A bin that cannot be read is no error either: the checkpoint itself is gone."""
    for name in ("a", "b"):
        bin_.store.write(f"run/{name}/m", b"1")
    bin_.server.answer_next(1, status, within="/trashbin/", method="PROPFIND")
    bin_.store.expunge("run/a")
    bin_.server.clear_faults()
    bin_.server.answer_next(9, status, within="/trashbin/", method="DELETE")
    bin_.store.expunge("run/b")
    bin_.server.clear_faults()
    assert not bin_.store.has_folder("run/a")
    assert not bin_.store.has_folder("run/b")


def test_what_a_user_deletes_goes_to_the_bin(bin_: Bin) -> None:
    """Files and folders that are removed as such can be had back."""
    for key in ("a", "folder/b"):
        bin_.store.write(key, b"1")
    bin_.store.delete("a")
    bin_.store.remove_tree("folder")
    assert bin_.locations() == ["a", "folder"]
