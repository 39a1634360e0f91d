"""A server that lies, or is away for a while: what lies under a name is always one whole version of that file."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors, local_copy
from tests.support.copies import MIB, differences, keys_of, put, small_files
from tests.support.servers import LOGIN_PAGE, Fault, FaultServer, WsgidavServer
from tests.support.shares import Share
from tests.support.sources import content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.folders import LocalCopy
    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer

SMALL, MIDDLING, LARGE = "class-1/0001.bin", "middling.bin", "large.bin"
SIZES = {SMALL: 977, MIDDLING: 3 * MIB, LARGE: 17 * MIB}
LIES = {
    "truncated": Fault(cut_after_bytes=500),
    "cut in the midst of its length": Fault(headers={"Content-Length": "400"}, cut_after_bytes=400),
    "longer than it is": Fault(headers={"Content-Length": "99999999"}),
    "empty": Fault(body=b"", headers={"Content-Length": "0"}),
    "without a length, and cut": Fault(chunked=True, cut_after_bytes=500),
    "a login page": LOGIN_PAGE,
    "another version": Fault(headers={"ETag": '"another"'}, body=b"other"),
    "compressed": Fault(gzip=True),
    "an error": Fault(status=500),
    "silence": Fault(drop=True),
    "reset": Fault(reset=True, cut_after_bytes=300),
}


CASES = [
    *[(key, lie) for key in (SMALL, MIDDLING) for lie in LIES],
    *[(LARGE, lie) for lie in ("truncated", "a login page", "another version", "reset")],
]
RESUMED = {(SMALL, "truncated"), (SMALL, "reset")}
"""What comes whole all the same, since each answer brings the next part."""


@pytest.fixture
def lying(fault: FaultServer) -> Share:
    """Small files, and one that goes to the disk as it comes."""
    share = Share(fault)
    put(share.root, {**small_files(9), MIDDLING: content(MIDDLING, SIZES[MIDDLING])})
    return share


def add(share: Share, key: str) -> None:
    """Let a file be there that comes in ranges, if it is the one that is tried."""
    if key == LARGE:
        put(share.root, {LARGE: content(LARGE, SIZES[LARGE])})


def copied(share: Share, target: Path, patience: Patience) -> LocalCopy:
    """Copy, with three tries, and for no longer than some seconds, however much an answer brings."""
    hurried = replace(patience, total_s=3.0, slowest_bytes_per_s=10 * MIB)
    return local_copy(share.store(hurried), target, progress=False)


def check_whole(share: Share, target: Path) -> None:
    """Hold that every file under a name is the whole one of the source."""
    for key in keys_of(target):
        assert (target / key).read_bytes() == (share.root / key).read_bytes(), key


@pytest.mark.parametrize(("key", "lie"), CASES)
def test_one_wrong_answer(lying: Share, key: str, lie: str, tmp_path: Path, patience: Patience) -> None:
    """The file comes all the same, or the error names it and the next call fetches it alone."""
    assert isinstance(lying.server, FaultServer)
    target = tmp_path / "copy"
    add(lying, key)
    lying.server.script(f"{lying.name}/{key}", LIES[lie])
    try:
        copied(lying, target, patience)
    except errors.StorageError as error:
        assert key in str(error)  # noqa: PT017  some of them need no second try
        check_whole(lying, target)
        assert keys_of(target) == sorted({*keys_of(lying.root)} - {key})
        assert copied(lying, target, patience).stats()["fetched"] == 1
    assert differences(lying.root, target) == ""


@pytest.mark.parametrize(("key", "lie"), CASES)
def test_nothing_but_wrong_answers(lying: Share, key: str, lie: str, tmp_path: Path, patience: Patience) -> None:
    """The error names the file, the others are there, and when the server is well again it alone is fetched."""
    assert isinstance(lying.server, FaultServer)
    target = tmp_path / "copy"
    add(lying, key)
    lying.server.always(f"{lying.name}/{key}", LIES[lie])
    if (key, lie) in RESUMED:
        copied(lying, target, patience)
    else:
        with pytest.raises(errors.StorageError, match=key):
            copied(lying, target, patience)
        check_whole(lying, target)
        assert keys_of(target) == sorted({*keys_of(lying.root)} - {key})
        lying.server.heal()
        assert copied(lying, target, patience).stats()["fetched"] == 1
    assert differences(lying.root, target) == ""


@pytest.mark.parametrize("key", [MIDDLING, LARGE])
def test_a_file_that_changes_while_it_comes(lying: Share, key: str, tmp_path: Path, patience: Patience) -> None:
    """The version that lies there is one of the two, whole; and after a second call it is the newer."""
    assert isinstance(lying.server, FaultServer)
    add(lying, key)
    old, new = (lying.root / key).read_bytes(), content("newer", SIZES[key] + 1000)
    target = tmp_path / "copy"
    lying.server.script(f"{lying.name}/{key}", Fault(cut_after_bytes=MIB), Fault(rewrite=new))
    try:
        copied(lying, target, patience)
    except errors.StorageError as error:
        assert key in str(error)  # noqa: PT017
    assert not (target / key).exists() or (target / key).read_bytes() in {old, new}
    assert (lying.root / key).read_bytes() == new
    copied(lying, target, patience)
    assert differences(lying.root, target) == ""


def test_a_listing_that_is_cut_or_a_page_removes_nothing(lying: Share, tmp_path: Path, patience: Patience) -> None:
    """What a listing does not name because it is none has not vanished."""
    assert isinstance(lying.server, FaultServer)
    target = tmp_path / "copy"
    copied(lying, target, patience)
    before = keys_of(target)
    for lie in (
        LOGIN_PAGE,
        Fault(body=b'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">'),
        Fault(cut_after_bytes=400),
    ):
        lying.server.always("*", lie, method="PROPFIND")
        with contextlib.suppress(errors.StorageError):
            copied(lying, target, patience)
        assert keys_of(target) == before
        lying.server.heal()


def test_a_folder_that_cannot_be_listed_has_not_vanished(lying: Share, tmp_path: Path, patience: Patience) -> None:
    """Forbidden for now: an error or a warning, and its files stay."""
    assert isinstance(lying.server, FaultServer)
    lying.server.change(depth_infinity="refused")
    target = tmp_path / "copy"
    copied(lying, target, patience)
    before = keys_of(target)
    for status in (403, 500):
        lying.server.always(f"{lying.name}/class-1", Fault(status=status), method="PROPFIND")
        with contextlib.suppress(errors.StorageError):
            local_copy(lying.store(patience), target, pattern=["**/*.bin"], progress=False)
        assert keys_of(target) == before
        lying.server.heal()


SPOILS: dict[str, Callable[[NextcloudServer], None]] = {
    "a flipped bit": lambda cloud: cloud.corrupt_member("0004.bin"),
    "a missing member": lambda cloud: cloud.drop_member("0007.bin"),
    "a locked member": lambda cloud: cloud.lock_member("0008.bin"),
    "the end too early": lambda cloud: cloud.truncate_next_archive(3000),
    "a hang-up": lambda cloud: cloud.truncate_next_archive(3000, hangs_up=True),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoilt_archive(
    nextcloud: NextcloudServer, cloud_share: Share, spoil: str, tmp_path: Path, patience: Patience
) -> None:
    """What is wrong with a member is found out, and the right bytes come with another request."""
    put(cloud_share.root, small_files(60))
    SPOILS[spoil](nextcloud)
    copied(cloud_share, tmp_path / "copy", patience)
    nextcloud.clear_faults()
    assert differences(cloud_share.root, tmp_path / "copy") == ""


def test_wrong_credentials_are_told_without_them(share: Share, tmp_path: Path, patience: Patience) -> None:
    """The error names the server, and no secret."""
    put(share.root, small_files(3))
    with pytest.raises(errors.AuthenticationError) as raised:
        local_copy(share.store(patience, password="wrong-one"), tmp_path / "copy", progress=False)
    assert "wrong-one" not in str(raised.value)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("away_s", [10])
def test_a_server_that_is_away_for_a_while_is_waited_for(away_s: float, tmp_path: Path) -> None:
    """Nothing but the time is lost, and no file comes twice."""
    with WsgidavServer(tmp_path / "server", latency_s=0.05) as server:
        share = Share(server)
        put(share.root, {**small_files(200), LARGE: content("large", 20 * MIB)})

        def interrupt() -> None:
            while not keys_of(tmp_path / "copy"):
                time.sleep(0.01)
            with share.down():
                time.sleep(away_s)

        thread = threading.Thread(target=interrupt)
        thread.start()
        begun = time.monotonic()
        copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False)
        thread.join()
        assert away_s <= time.monotonic() - begun < away_s + 40
        assert copy.stats()["fetched"] == 201
        assert differences(share.root, tmp_path / "copy") == ""
