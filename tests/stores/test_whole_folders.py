"""Whole folders come in one archive each, and each of their files as certainly as by a GET of its own."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from ai4os_data import errors, local_copy
from ai4os_data.http import MemoryBody
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, NextcloudStore, read_among
from ai4os_data.stores.archives import Naming
from ai4os_data.stores.whole_folders import whole_folders
from tests.support.archived import FILES, open_share, served
from tests.support.outcomes import content
from tests.support.servers.base import USER
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from ai4os_data.http import Body, Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import Request


@pytest.fixture
def share(nextcloud: NextcloudServer) -> Iterator[Share]:
    """A folder of four folders of 50 files."""
    yield from served(nextcloud)


@pytest.fixture
def store(share: Share, patience: Patience) -> NextcloudStore:
    """Its store."""
    return open_share(share, patience)


def memory(_: Entry) -> Body:
    """A body in memory."""
    return MemoryBody()


def read(store: NextcloudStore, listed: Collection[Entry], wanted: Collection[Entry] | None = None) -> dict[str, bytes]:
    """The wanted ones, each once."""
    wanted = listed if wanted is None else wanted
    outcomes = list(read_among(store, wanted, listed, memory))
    assert sorted(entry for entry, _ in outcomes) == sorted(wanted)
    return {entry.key: content(outcome) for entry, outcome in outcomes}


def asked(share: Share) -> tuple[list[list[str]], list[int], int]:
    """Which whole folders were asked for, how many names other archives have, and how many files came alone."""
    named = [json.loads(parse_qs(request.headers[":query"])["files"][0]) for request in archives(share)]
    whole = [names for names in named if "." not in names[0]]
    others = [len(names) for names in named if "." in names[0]]
    return sorted(whole), others, len(share.requests("GET")) - len(named)


def archives(share: Share) -> list[Request]:
    """The requests for archives."""
    return [request for request in share.requests("GET") if ":query" in request.headers]


ALL = [[f"class {number}"] for number in range(4)]


def test_folders_come_by_their_names(share: Share, store: NextcloudStore) -> None:
    """Four requests for 200 files, and nothing else."""
    assert read(store, store.list()) == FILES
    assert asked(share) == (ALL, [], 0)


def test_files_are_there_while_their_archive_is_on_its_way(nextcloud: NextcloudServer, patience: Patience) -> None:
    """What has come of an archive that is never complete is handed out, and takes no memory any more."""
    share = Share(nextcloud)
    share.put({f"{folder}/{number:03}.bin": bytes(200_000) for number in range(100) for folder in "ab"})
    store = open_share(share, patience)
    listed = store.list()
    nextcloud.forget()
    tracemalloc.start()
    number = sum(1 for _ in read_among(store, listed, listed, memory))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == 200
    assert asked(share) == ([["a"], ["b"]], [], 0)
    assert peak_bytes < 10e6, "of 40 MB"


def test_a_few_files_are_named(share: Share, store: NextcloudStore) -> None:
    """Where much of a folder is not wanted it does not come whole."""
    listed = store.list()
    wanted = [entry for entry in listed if not entry.key.endswith(("0 \u00e9.bin", "1 \u00e9.bin"))]
    assert read(store, listed, wanted).keys() == {entry.key for entry in wanted}
    whole, named, alone = asked(share)
    assert (whole, alone) == ([["class 3"]], 0) or (whole, alone) == ([], 0)
    assert named


def test_what_else_lies_in_a_folder_is_dropped(share: Share, store: NextcloudStore) -> None:
    """A label or two beside the images."""
    share.put({"class 2/labels.txt": b"1 2 3", "class 0/sub/deeper.txt": b"4"})
    listed = store.list()
    assert read(store, listed, [entry for entry in listed if entry.key.endswith(".bin")]) == FILES
    assert asked(share) == (ALL, [], 0)


def test_empty_folders_and_empty_files_are_no_trouble(share: Share, store: NextcloudStore) -> None:
    """Both have no bytes."""
    share.put({"class 1/000 empty.bin": b"", "class 1/sub/empty.bin": b""})
    (share.root / "class 1" / "000 nothing").mkdir()
    expected = {**FILES, "class 1/000 empty.bin": b"", "class 1/sub/empty.bin": b""}
    assert read(store, store.list()) == expected
    assert asked(share) == (ALL, [], 0)


@pytest.mark.parametrize("after_bytes", [0, 10, 5_000, 30_000])
@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_torn_archive_gives_what_it_had(
    nextcloud: NextcloudServer,
    store: NextcloudStore,
    after_bytes: int,
    hangs_up: bool,  # noqa: FBT001  a parameter
) -> None:
    """What is lacking comes as files that are named."""
    nextcloud.truncate_next_archive(after_bytes, hangs_up=hangs_up)
    assert read(store, store.list()) == FILES


def test_a_locked_file_costs_the_rest_of_its_archive_alone(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """The server ends the archive with an error in a 200; the other folders still come whole."""
    nextcloud.lock_member("class 0/100 \u00e9.bin", count=10)
    assert read(store, store.list()) == FILES
    whole, named, alone = asked(share)
    assert whole == ALL
    assert sum(named) + alone <= 30


def test_damaged_and_left_out_files_come_by_themselves(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """The CRC-32 shows the damage, and every name is looked for."""
    keys = sorted(FILES)
    for key in keys[3:6]:
        nextcloud.corrupt_member(key)
    for key in keys[60:63]:
        nextcloud.drop_member(key)
    assert read(store, store.list()) == FILES
    whole, named, alone = asked(share)
    assert whole == ALL
    assert sum(named) + alone <= 2 * 6


@pytest.mark.parametrize("change", ["new", "longer", "gone", "folder gone"])
def test_a_folder_that_has_changed_comes_as_it_is_now(share: Share, store: NextcloudStore, change: str) -> None:
    """Of a file that was not listed, or with another length, nobody knows where it ends."""
    listed = store.list()
    keys = [key for key in sorted(FILES) if key.startswith("class 1/")]
    expected: dict[str, bytes | None] = {**FILES}
    if change == "new":
        share.put({f"class 1/{number:03} a new one.bin": b"new" for number in range(100)})
    elif change == "longer":
        share.put({keys[20]: b"longer" * 1000})
        expected[keys[20]] = b"longer" * 1000
    else:
        gone = keys[7:8] if change == "gone" else keys
        share.remove(*gone)
        if change == "folder gone":
            (share.root / "class 1").rmdir()
        expected.update(dict.fromkeys(gone))
    found = dict(read_among(store, listed, listed, memory))
    came = {
        entry.key: None if isinstance(outcome, errors.NotFoundError) else content(outcome)
        for entry, outcome in found.items()
    }
    assert came == expected


def test_a_server_without_archives_is_asked_for_few(nextcloud_29: NextcloudServer, patience: Patience) -> None:
    """Nextcloud 29 answers with a page."""
    share = Share(nextcloud_29)
    share.put(FILES)
    nextcloud_29.forget()
    assert read(open_share(share, patience), open_share(share, patience).list()) == FILES
    whole, named, alone = asked(share)
    assert len(whole) + len(named) <= 3  # two at a time, and the next one is planned ahead
    assert alone == len(FILES)


@pytest.mark.parametrize("status", [400, 403, 404, 413, 414, 423, 500, 504, 507])
def test_an_archive_that_is_refused_costs_no_file(
    nextcloud: NextcloudServer, store: NextcloudStore, status: int
) -> None:
    """Whatever the server or a proxy has against it."""
    entries = store.list()
    nextcloud.answer_next(2, status, method="GET")
    assert read(store, entries) == FILES


def test_a_server_that_is_gone_is_waited_for_once(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """All files fail as one archive does."""
    entries = store.list()
    nextcloud.set_maintenance(True)
    outcomes = list(read_among(store, entries, entries, memory))
    assert len(outcomes) == len(FILES)
    assert all(isinstance(outcome, errors.ServerUnavailableError) for _, outcome in outcomes)
    assert len(share.requests("GET")) <= 4 * 3


def test_a_folder_named_like_the_user_does_not_come_whole(share: Share, store: NextcloudStore) -> None:
    """Below it files may come under other names."""
    more = {f"class 0/{USER}/{number}.bin": b"x" for number in range(3)}
    share.put(more)
    assert read(store, store.list()) == {**FILES, **more}
    assert asked(share)[0] == ALL[1:]


def test_a_file_never_comes_as_another_one(share: Share, store: NextcloudStore) -> None:
    """Even if the one that is renamed was made after the listing, and comes first: all have one size."""
    files = {f"z/{number:03}.bin": b"right" for number in range(150)}
    share.put(files)
    listed = [entry for entry in store.list() if entry.key in files]
    for folder in (f"a/{USER}/files/{share.name}/z", f"z/{USER}/files/{share.name}", f"{USER}/files/{share.name}/z"):
        share.put({f"{folder}/{key[2:]}": b"wrong" for key in files})
    share.put({f"z\\{key[2:]}": b"wrong" for key in files})
    assert read(store, listed) == files
    assert asked(share)[0] == [["z"]]


def test_a_name_that_comes_twice_is_taken_once(share: Share, store: NextcloudStore) -> None:
    """The server turns a backslash into a slash; the second one is dropped, and what follows is read on."""
    files = {f"z/{folder}/{number:03}.bin": b"right" for folder in ("a", "a/s", "b") for number in range(80)}
    share.put(files)
    listed = [entry for entry in store.list() if entry.key in files]
    share.put({f"z/a/s\\{number:03}.bin": b"wrong" for number in range(50)})
    share.server.forget()
    assert read(store, listed) == files
    assert asked(share) == ([["a"], ["b"]], [], 0)


def test_the_old_address_names_the_files(nextcloud: NextcloudServer, share: Share, patience: Patience) -> None:
    """There nobody knows the user's name on the server, and so not what a file may come as."""
    store = NextcloudStore(
        Remote(nextcloud.legacy_url, nextcloud.user, nextcloud.password), share.name, patience=patience
    )
    assert read(store, store.list()) == FILES
    assert asked(share)[0] == []


def test_a_copy_fetches_folders_whole(nextcloud: NextcloudServer, share: Share, tmp_path: Path) -> None:
    """And, once it is there, no more than what has changed."""
    remote = Remote(nextcloud.url, nextcloud.user, nextcloud.password)
    copy = local_copy(f"{nextcloud.url}{share.name}", tmp_path / "copy", remote=remote, progress=False)
    assert {key: (copy.path / key).read_bytes() for key in copy.files} == FILES
    assert asked(share) == (ALL, [], 0)
    changed = dict.fromkeys(sorted(FILES)[:3], b"again")
    share.put(changed)
    nextcloud.forget()
    copy.refresh()
    assert {key: (copy.path / key).read_bytes() for key in copy.files} == {**FILES, **changed}
    assert asked(share)[0] == []


# --- which folders


def planned(keys: list[str], wanted: Collection[str] | None = None, user: str | None = USER) -> list[tuple[str, int]]:
    """The folders of each archive, and how many files are wanted of it."""
    listed = [Entry(key, 1000) for key in keys]
    groups = whole_folders(set(keys if wanted is None else wanted), listed, Naming(user, "data"), memory)
    return [(group.parent, len(group.wanted)) for group in groups]


def files_in(folder: str, number: int) -> list[str]:
    """Keys."""
    return [f"{folder}/{position:05}" for position in range(number)]


def test_small_folders_come_together_and_large_ones_in_parts() -> None:
    """A quarter of all files at a time, and never too many."""
    many = [key for number in range(100) for key in files_in(f"train/{number}", 10)]
    assert planned(many) == [("train", 250)] * 4
    assert planned(files_in("images", 900) + files_in("labels", 100)) == [("", 900), ("", 100)]
    assert planned([key for number in range(20) for key in files_in(f"{number}", 1000)]) == [("", 4000)] * 5


def test_few_files_and_files_at_the_top_are_named() -> None:
    """A folder's own files have no folder's name that brings them."""
    assert planned(files_in("a", 31)) == []
    assert planned([f"{number}" for number in range(1000)]) == []
    assert planned(files_in("a", 500), user=None) == []


def test_only_what_is_nearly_all_wanted_comes_whole() -> None:
    """By number and by bytes."""
    keys = files_in("a", 500) + files_in("b", 500)
    assert planned(keys, keys[:500]) == [("", 500)]
    assert planned(keys, keys[:400] + keys[500:]) == [("", 500)]
    large = [Entry(key, 1000) for key in keys[:500]] + [Entry("a/large", 10**9)]
    assert not list(whole_folders(set(keys), large, Naming(USER, "data"), memory))
