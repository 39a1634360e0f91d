"""A file of an archive never comes under the name of another one, whatever the tree, and wherever the archive ends."""

from __future__ import annotations

import contextlib
import shutil
import warnings
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ai4os_data.http.retries import Patience
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, read_among, whole_folders
from ai4os_data.stores.archives import Group, Naming, unpacked
from ai4os_data.stores.base import memory_body
from ai4os_data.stores.nextcloud import NextcloudStore
from tests.nextcloud import NextcloudServer
from tests.support.outcomes import content
from tests.support.servers.base import USER

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = st.sampled_from([USER, "files", f"{USER}/files", "a", "b.bin", "filesa", f"{USER}x", "fi", "les", "x\u0301"])
FOLDERS = st.sampled_from(["", "a", USER, f"{USER}/files", "files"])
CONFUSED = {"aaa/img.npy", "backup/img.npy", f"backup/{USER}/files/img.npy"}
CHAIN = {f"{USER}/files/x", f"{USER}/fi/{USER}/filesles/x", "x", "y"}  # one comes as the next one, which has gone on


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NextcloudServer]:
    """A server of whose account all is ours."""
    with NextcloudServer(tmp_path_factory.mktemp("names") / "files") as server:
        yield server


def plant(server: NextcloudServer, keys: set[str]) -> dict[str, bytes]:
    """Have these files and no others, all of one size; those that are folders for others are left out."""
    server.clear_faults()
    shutil.rmtree(server.root)
    server.root.mkdir()
    files = {}
    for number, key in enumerate(sorted(keys, key=lambda key: (-key.count("/"), key))):
        path = server.root / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            files[key] = f"{number:06}".encode()
            path.write_bytes(files[key])
    return files


class Pipe:
    """Only takes what is written to it, like the connection to a client."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: bytes) -> int:
        """Take some bytes."""
        self.content += bytes(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def streamed_zip(members: list[tuple[str, bytes]]) -> bytes:
    """A stored zip with data descriptors, as a server sends it before it knows the sizes."""
    pipe = Pipe()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
        for name, data in members:
            archive.writestr(name, data)
    return pipe.content


@st.composite
def keys_below(draw: st.DrawFn, folder: str) -> set[str]:
    """Keys, and others that are left as one of these when the path of a folder on the server is taken out of them."""
    keys = {*draw(st.sets(st.lists(PARTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6))}
    for _ in range(draw(st.integers(0, 4))):
        key = draw(st.sampled_from(sorted(keys)))
        inside = key.rpartition("/")[0]
        path = draw(st.sampled_from([f"{USER}/files", *(f"{USER}/files/{each}" for each in (folder, inside) if each)]))
        place = draw(st.integers(0, len(key)))
        disguised = f"/{key}"[:place] + f"/{path}" + f"/{key}"[place:]
        if "//" not in disguised and not disguised.endswith("/"):
            keys.add(disguised[1:])
    return keys


TREES = FOLDERS.flatmap(lambda folder: st.tuples(st.just(folder), keys_below(folder)))

LATER = st.sets(st.lists(PARTS, min_size=1, max_size=5).map("/".join), max_size=8)


@example(("", CONFUSED), "files", None)
@example(("", CONFUSED), "legacy", None)
@example(("", CHAIN), "files", None)
@example(("", CHAIN), "files", 190)
@given(TREES, st.sampled_from(["files", "legacy"]), st.none() | st.integers(0, 1000))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_key_gets_its_own_bytes(
    server: NextcloudServer, tree: tuple[str, set[str]], endpoint: str, cut_after_bytes: int | None
) -> None:
    """The names on the server are as confusing as they can be, and all files are of one size."""
    folder, keys = tree
    above = f"{folder}/" if folder else ""
    files = plant(server, {above + key for key in keys})
    if cut_after_bytes is not None:
        server.truncate_next_archive(cut_after_bytes)
    url = server.url if endpoint == "files" else server.legacy_url
    store = NextcloudStore(Remote(url, server.user, server.password), folder, patience=Patience(tries=2))
    entries = store.list()
    assert len(entries) == len(files)
    came = {above + entry.key: content(outcome) for entry, outcome in store.read_many(entries)}
    assert came == files


@example(("", CONFUSED), {f"a/{USER}/files/b.bin"}, None)
@given(
    TREES, st.sets(st.lists(PARTS, min_size=1, max_size=5).map("/".join), max_size=8), st.none() | st.integers(0, 1000)
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_key_of_a_whole_folder_gets_its_own_bytes(
    server: NextcloudServer, tree: tuple[str, set[str]], later: set[str], cut_after_bytes: int | None
) -> None:
    """Whatever has come into the folders since they were listed."""
    folder, keys = tree
    above = f"{folder}/" if folder else ""
    files = plant(server, {above + key for key in keys})
    if cut_after_bytes is not None:
        server.truncate_next_archive(cut_after_bytes)
    store = NextcloudStore(Remote(server.url, server.user, server.password), folder, patience=Patience(tries=2))
    entries = store.list()
    for key in {*later, *(f"{key.rpartition('/')[0]}/{more}" for key in keys for more in later)}:
        path = server.root / above / key.strip("/")
        with contextlib.suppress(FileExistsError, NotADirectoryError):  # it was listed, or is in the way
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
            path.write_bytes(b"later!")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_folders, "_ONE_ARCHIVE", 0)
        patch.setattr(whole_folders, "_FEWEST", 1)
        outcomes = read_among(store, entries, entries, memory_body)
        came = {above + entry.key: content(outcome) for entry, outcome in outcomes}
    assert came == files


def test_what_cannot_be_renamed_still_comes_together(server: NextcloudServer) -> None:
    """Two of three names are unlike the path of the account, and one request is enough for them."""
    plant(server, CONFUSED)
    store = NextcloudStore(Remote(server.url, server.user, server.password))
    entries = store.list()
    server.forget()
    list(store.read_many(entries))
    asked = [request for request in server.requests() if request.method == "GET"]
    assert [":query" in request.headers for request in asked] == [True, False]
    assert asked[1].path.endswith(f"/backup/{USER}/files/img.npy")


@pytest.mark.parametrize(
    ("user", "above", "key", "is_kept"),
    [
        ("alice", "data", "images/files/a.jpg", True),
        ("alice", "data", "images/alice/a.jpg", True),
        ("alice", "data", "backup/alice/files/a.jpg", False),
        ("alice", "data", "backup/alice/filesystem/a.jpg", False),
        ("alice", "data", "backup/Alice/Files/a.jpg", False),
        ("alice", "data", "alice/files/a.jpg", False),
        ("alice", "alice/files", "images/a.jpg", True),
        (None, "data", "images/files/a.jpg", True),
        (None, "data", "images/files/data/a.jpg", False),
        (None, "data", "files/data/a.jpg", True),
        (None, "", "images/files/a.jpg", False),
        (None, None, "images/files/a.jpg", False),
        (None, "e\u0301", "images/files/\u00e9/a.jpg", False),
        (None, "\u00e9", "images/files/e\u0301/a.jpg", False),
        ("alice", "data", "images\\a.jpg", False),
        ("alice", "data", "images/\udcff.jpg", False),
    ],
)
def test_who_may_come_in_an_archive(user: str | None, above: str | None, key: str, is_kept: bool) -> None:  # noqa: FBT001  a parameter
    """Files whose names contain no part of the folder's path on the server, as far as it is known."""
    assert Naming(user, above).is_kept(Entry(key, 1)) is is_kept


def test_a_name_that_comes_twice_is_nobody_s() -> None:
    """It is unknown which of the two was meant."""
    entries = [Entry(f"{name}.bin", 3) for name in "abc"]
    archive = streamed_zip([("a.bin", b"one"), ("b.bin", b"two"), ("a.bin", b"six"), ("c.bin", b"ten")])
    came = unpacked([archive], Group("", entries))
    assert came.files == [(entries[1], b"two"), (entries[2], b"ten")]
    assert came.rest == []
    damaged = archive.replace(b"one", b"onE", 1)
    assert unpacked([damaged], Group("", entries)).files == came.files


def test_a_cut_off_archive_of_archives_has_no_members_but_its_own() -> None:
    """What is cut off behind a zip ends as that one does, and its directory lists other files."""
    inner = streamed_zip([("a.bin", b"evil")])
    entries = [Entry("z.npz", len(inner)), Entry("a.bin", 4), Entry("b.bin", 4)]
    archive = streamed_zip([("z.npz", inner), ("a.bin", b"good"), ("b.bin", b"fine")])
    cut = archive[: archive.index(inner) + len(inner)]
    assert unpacked([cut], Group("", entries)).files == []
    assert unpacked([archive], Group("", entries)).files == list(zip(entries, [inner, b"good", b"fine"], strict=True))
