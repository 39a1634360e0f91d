"""Names as people type them and as servers have them: other Unicode forms, other capitals, names that are refused."""

from __future__ import annotations

import unicodedata
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import torch

from ai4os_data import StorageCheckpoint, StorageDataset, errors, open_filesystem
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import DirectoryStore, MemoryStore, look_at, open_store
from ai4os_data.stores.names import why_refused
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import ApacheServer, FaultServer

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "B\u00e4ume") for form in ("NFC", "NFD"))
FORMS = pytest.mark.parametrize(
    ("typed", "there"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)], ids=["NFC", "NFD"]
)
LATIN_1 = {f"Gr{chr(byte)}\udcdfe.bin": data for byte, data in ((0xDCF6, b"1"), (0xDCFC, b"22"))}


@pytest.fixture
def top(apache: ApacheServer) -> str:
    """A new folder on Apache, which takes any bytes for a name."""
    name = f"names-{uuid.uuid4().hex}"
    (apache.root / name).mkdir()
    return name


def remote_of(server: ApacheServer | FaultServer | NextcloudServer) -> Remote:
    """How to reach a server."""
    return Remote(server.url, server.user, server.password)


# Bytes that are no UTF-8.


def test_names_that_are_no_utf8_are_different_files_with_their_own_bytes(apache: ApacheServer, top: str) -> None:
    """They arrive, are read and are cached under the bytes that they have on the server."""
    for name, data in LATIN_1.items():
        (apache.root / top / name).write_bytes(data)
    dataset = StorageDataset(top, remote=remote_of(apache))
    for _ in range(2):
        assert {key: dataset[number] for number, key in enumerate(dataset.keys)} == LATIN_1
    again = WebDAVStore(remote_of(apache), f"{top}/Gr\udcf6ner Ordner")
    again.write("a.bin", b"x")
    assert [entry.key for entry in again.list()] == ["a.bin"]
    assert (apache.root / top / "Gr\udcf6ner Ordner" / "a.bin").read_bytes() == b"x"


# Two forms of one word.


@FORMS
def test_a_location_is_found_in_its_other_form(apache: ApacheServer, top: str, typed: str, there: str) -> None:
    """For a dataset, a file system, and a run whose checkpoints would look as if there were none."""
    (apache.root / top / there / there).mkdir(parents=True)
    (apache.root / top / there / there / "1.bin").write_bytes(b"x")
    location = f"{top}/{typed}/{typed}"
    assert StorageDataset(location, remote=remote_of(apache), cache=None)[0] == b"x"
    store = open_store(location, remote_of(apache))
    assert [entry.key for entry in store.list_below("")] == ["1.bin"]
    look_at(store)


@FORMS
def test_a_folder_of_this_machine_is_found_in_its_other_form(tmp_path: Path, typed: str, there: str) -> None:
    """A local folder is found in the other Unicode form, as one on a server is."""
    (tmp_path / there).mkdir()
    (tmp_path / there / "1.bin").write_bytes(b"x")
    assert StorageDataset(tmp_path / typed)[0] == b"x"


@FORMS
def test_two_locations_that_look_alike_are_both_there(apache: ApacheServer, top: str, typed: str, there: str) -> None:
    """The one that is typed is the one that is read."""
    for name in (typed, there):
        (apache.root / top / name).mkdir()
        (apache.root / top / name / "1.bin").write_bytes(name.encode())
    assert StorageDataset(f"{top}/{typed}", remote=remote_of(apache), cache=None)[0] == typed.encode()


def test_a_missing_location_is_shown_with_escapes(apache: ApacheServer, top: str) -> None:
    """Two Unicode forms look different in the message."""
    with pytest.raises(errors.LocationError, match=r"no such folder.*B\\xe4ume"):
        open_store(f"{top}/{COMPOSED}", remote_of(apache)).list()


@FORMS
def test_keys_split_files_patterns_and_siblings_find_their_files(tmp_path: Path, typed: str, there: str) -> None:
    """The labels of a mapping find theirs too, in whichever Unicode form they were written."""
    store = MemoryStore({f"{there}/1.jpg": b"1", f"{there}/1.txt": b"mask", "b.jpg": b"2", f"{there}.split": b""})
    dataset = StorageDataset.from_keys(store, ["b.jpg", f"{typed}/1.jpg"], [5, 6])
    assert (dataset.keys, dataset.targets) == (["b.jpg", f"{there}/1.jpg"], [5, 6])
    by_key = StorageDataset.from_keys(store, [f"{typed}/1.jpg"], {f"{typed}/1.jpg": 7})
    assert by_key.targets == [7]
    assert StorageDataset(store, pattern="*/*.jpg", target={f"{typed}/1.jpg": 8}).targets == [8]
    store.files[f"{there}.split"] = f"{typed}/1.jpg 3\n".encode()
    (tmp_path / "split.txt").write_text(f"{typed}/1.jpg 3\n", encoding="utf-8")
    for file in (tmp_path / "split.txt", f"{typed}.split"):
        split = StorageDataset.from_split_file(store, file)
        assert (split.keys, split.targets) == ([f"{there}/1.jpg"], [3])
    assert StorageDataset(store, pattern=f"{typed}/*.jpg").keys == [f"{there}/1.jpg"]
    pairs = StorageDataset(store, pattern="**/1.jpg", decode=lambda sample: sample.sibling(f"{typed}/1.txt").bytes())
    assert pairs[0] == b"mask"


def test_a_key_that_two_files_look_like_is_an_error_that_shows_both() -> None:
    """Neither file is taken, and the message shows both names with escapes."""
    mixed = f"{COMPOSED}/{DECOMPOSED}.jpg"
    store = MemoryStore({f"{form}/{form}.jpg": b"x" for form in (COMPOSED, DECOMPOSED)})
    with pytest.raises(errors.NotFoundError, match=r"B\\xe4ume.*look alike") as raised:
        StorageDataset.from_keys(store, [mixed])
    assert r"Ba\u0308ume" in str(raised.value)
    with pytest.raises(errors.NotFoundError, match=r"\\xfc"):
        StorageDataset.from_keys(store, ["\u00fc.jpg"])


@FORMS
def test_a_folder_that_a_server_spells_its_way_is_not_inside_itself(
    fault: FaultServer, patience: Patience, typed: str, there: str
) -> None:
    """A walk would have no end."""
    folder = "<d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop>{}</d:propstat>"
    good = folder.format("<d:status>HTTP/1.1 200 OK</d:status>")
    responses = "".join(f"<d:response><d:href>/{quote(there)}/{x}</d:href>{good}</d:response>" for x in ("", "x/"))
    body = f'<d:multistatus xmlns:d="DAV:">{responses}</d:multistatus>'
    fault.always("*", Fault(status=207, body=body.encode()), method="PROPFIND")
    assert WebDAVStore(remote_of(fault), patience=patience).members(typed) == ([], [f"{there}/x"])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (DECOMPOSED, COMPOSED),
        (COMPOSED, DECOMPOSED),
        ("photos", "Photos"),
        ("a/b", "a//b"),
    ],
)
def test_a_server_may_spell_the_location_in_its_own_way(
    fault: FaultServer, patience: Patience, typed: str, told: str
) -> None:
    """Nextcloud finds the one form and answers with the other; Windows has no capitals; a proxy doubles slashes."""
    base = f"/{quote(told)}"
    folder = "<d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop>"
    file = "<d:propstat><d:prop><d:resourcetype/><d:getcontentlength>1</d:getcontentlength></d:prop>"
    good = "<d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
    body = (
        f'<d:multistatus xmlns:d="DAV:"><d:response><d:href>{base}/</d:href>{folder}{good}</d:response>'
        f"<d:response><d:href>{base}/x/1.bin</d:href>{file}{good}</d:response></d:multistatus>"
    )
    fault.always("*", Fault(status=207, body=body.encode()), method="PROPFIND")
    store = WebDAVStore(remote_of(fault), typed, patience=patience)
    assert [entry.key for entry in store.list()] == ["x/1.bin"]
    assert [entry.key for entry in store.list_below("x")] == ["x/1.bin"]
    other = WebDAVStore(remote_of(fault), f"{typed}er", patience=patience)
    with pytest.raises(errors.ProtocolError, match="not below"):
        other.list()


# Names that are refused.

REFUSED = {".htaccess": "keep for their own", "x.part": "'.part'", "two\nlines": "line break", "n" * 251: "251 bytes"}


@pytest.mark.parametrize("name", REFUSED, ids=[name[:12] for name in REFUSED])
def test_a_name_that_nextcloud_refuses_is_told_as_that(
    nextcloud: NextcloudServer, patience: Patience, name: str, tmp_path: Path
) -> None:
    """When a file is written, a folder is made, a checkpoint is sent, and a file of the file system is closed."""
    top = f"refused-{uuid.uuid4().hex}"
    remote = Remote(nextcloud.url, nextcloud.user, nextcloud.password, vendor="nextcloud")
    store = NextcloudStore(remote, top, patience=patience)
    store.make_folder("")
    why = f"refuses the name, since .*{REFUSED[name]}"
    with pytest.raises(errors.NameRefusedError, match=why):
        store.write(name, b"x")
    with pytest.raises(errors.NameRefusedError, match=why):
        store.write(f"{name}/below.bin", b"x")
    with pytest.raises(errors.NameRefusedError, match=why):
        store.make_folder(name)
    assert store.list_below("") == []
    with (
        pytest.raises(errors.NameRefusedError, match=why),
        open_filesystem(top, remote=remote).open(name, "wb") as file,
    ):
        file.write(b"x")
    with (
        pytest.raises(errors.StorageError, match=why),
        StorageCheckpoint(f"{top}/{name}", remote=remote, spool=tmp_path / "spool") as run,
    ):
        run.save({"w": torch.zeros(3)}, step=1).wait("confirmed", timeout_s=30)


def test_a_name_is_not_blamed_for_what_it_has_no_part_in(fault: FaultServer, patience: Patience) -> None:
    """A full disk, a lock, wrong credentials and an ordinary name keep their own errors."""
    store = WebDAVStore(remote_of(fault), patience=patience)
    for status, name, expected in (
        (507, "x.part", errors.OutOfSpaceError),
        (423, "x.part", errors.LockedError),
        (503, "x.part", errors.ServerUnavailableError),
        (403, "plain.bin", errors.PermissionDeniedError),
        (403, "a:b.bin", errors.PermissionDeniedError),
        (500, "plain.bin", errors.ServerError),
    ):
        fault.always("*", Fault(status=status), method="PUT")
        with pytest.raises(expected) as raised:
            store.write(name, b"x")
        assert "name" not in str(raised.value)
    fault.always("*", Fault(status=400), method="PUT")
    with pytest.raises(errors.LocationError, match="Windows"):
        store.write("a:b.bin", b"x")


def test_ordinary_names_are_never_why() -> None:
    """No reason is found in a name that any server takes."""
    for name in ("a.bin", "step-000000123-ab12/MANIFEST.json", ".hidden", "b\u00e4ume.jpg", "party", "n" * 250, "a b"):
        assert why_refused(name) is None


def test_a_local_disk_takes_what_it_takes(tmp_path: Path) -> None:
    """The message about a name is the system's own."""
    store = DirectoryStore(tmp_path)
    for name in (".htaccess", "x.part", "two\nlines"):
        store.write(name, b"x")
    with pytest.raises(errors.ServerError, match="too long"):
        store.write("n" * 256, b"x")
