"""What a listing cannot read is named: an error if a dataset may want it, else a warning; never left out."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.datasets.index import Index
from ai4os_data.datasets.patterns import Pattern
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import DirectoryStore, open_store
from ai4os_data.stores.anyfsspec import FsspecStore
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import BROKEN_XML, LOGIN_PAGE, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Store
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import FaultServer, RcloneMount
    from tests.support.shares import Share

NOBODY = 65534
STATUSES = {
    403: (errors.PermissionDeniedError, "not allowed"),
    423: (errors.LockedError, "locked"),
    500: (errors.ServerError, "500"),
    507: (errors.ServerError, "cuts its listing off"),
}


@pytest.fixture
def store(fault: FaultServer, patience: Patience) -> WebDAVStore:
    """A store of three classes."""
    for key in ("cat/1.jpg", "dog/1.jpg", "emu/1.jpg", "notes.txt"):
        path = fault.root / "d" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    return WebDAVStore(Remote(fault.url, fault.user, fault.password), "d", patience=patience)


def said(caplog: pytest.LogCaptureFixture) -> str:
    """What the library has logged."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "ai4os_data")


def resource(href: str, inside: str) -> str:
    """One response of a multistatus."""
    return f"<d:response><d:href>{href}</d:href>{inside}</d:response>"


def propstat(properties: str, status: str = "200 OK") -> str:
    """Properties with their status."""
    return f"<d:propstat><d:prop>{properties}</d:prop><d:status>HTTP/1.1 {status}</d:status></d:propstat>"


def a_folder(href: str) -> str:
    """A folder in a multistatus."""
    return resource(href, propstat("<d:resourcetype><d:collection/></d:resourcetype>"))


def a_file(href: str, size: str = "<d:getcontentlength>9</d:getcontentlength>") -> str:
    """A file in a multistatus."""
    return resource(href, propstat(f"<d:resourcetype/>{size}"))


def multistatus(*responses: str) -> Fault:
    """An answer with these responses."""
    xml = f'<d:multistatus xmlns:d="DAV:">{"".join(responses)}</d:multistatus>'
    return Fault(status=207, body=xml.encode())


def answer_with(fault: FaultServer, odd: str, *, also: str = "dog") -> None:
    """List the two other classes, and something odd; asked for by itself, the odd thing says no more."""
    whole = [a_folder("/d/"), a_folder("/d/cat/"), a_file("/d/cat/1.jpg"), odd, a_folder("/d/emu/")]
    fault.always("d", multistatus(*whole, a_file("/d/emu/1.jpg")), method="PROPFIND")
    fault.always(f"d/{also}", multistatus(odd), method="PROPFIND")


# A resource with a status of its own.


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", ["response", "propstat"])
def test_a_folder_with_a_status_of_its_own_is_an_error_where_it_may_hold_samples(
    fault: FaultServer, store: WebDAVStore, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A class would vanish, and the numbers of the others move. A pattern that does not reach it gets a warning."""
    line = f"<d:status>HTTP/1.1 {status} Whatever</d:status>"
    answer_with(
        fault, resource("/d/dog/", line if kind == "response" else propstat("<d:getetag/>", f"{status} Whatever"))
    )
    expected, meaning = STATUSES[status]
    for pattern in ("**/*.jpg", "*/*.jpg", "d*/**", ["cat/*", "dog/1.jpg"]):
        with pytest.raises(expected, match=rf"'dog'.*{meaning}"):
            StorageDataset(store, pattern=pattern, target="folder", cache=None)
    with pytest.raises(expected):
        store.list()
    assert said(caplog) == ""
    assert StorageDataset(store, pattern=["cat/*", "emu/*"], cache=None).keys == ["cat/1.jpg", "emu/1.jpg"]
    assert "'dog'" in said(caplog)


def test_a_folder_that_the_whole_listing_cannot_tell_of_is_asked_for_by_itself(
    fault: FaultServer, store: WebDAVStore
) -> None:
    """A server may cut a Depth of infinity off at a folder that it lists well alone."""
    odd = resource("/d/dog/", "<d:status>HTTP/1.1 507 Insufficient Storage</d:status>")
    fault.script("d", multistatus(a_folder("/d/"), odd, a_folder("/d/cat/"), a_file("/d/cat/1.jpg")), method="PROPFIND")
    assert [entry.key for entry in store.list()] == ["cat/1.jpg", "dog/1.jpg"]


def test_the_location_itself_with_a_status_of_its_own_is_an_error(fault: FaultServer, store: WebDAVStore) -> None:
    """It is not an empty folder; gone is gone, though it comes with a 207."""
    for status, expected in ((403, errors.PermissionDeniedError), (500, errors.ServerError)):
        answer = multistatus(resource("/d/", f"<d:status>HTTP/1.1 {status} X</d:status>"))
        fault.always("*", answer, method="PROPFIND")
        with pytest.raises(expected):
            store.list()
    fault.always("*", multistatus(resource("/d/", "<d:status>HTTP/1.1 404 X</d:status>")), method="PROPFIND")
    with pytest.raises(errors.LocationError, match="no such folder"):
        store.list()
    assert store.list_below("") == []


def test_several_names_under_one_status_are_all_named(fault: FaultServer, store: WebDAVStore) -> None:
    """RFC 4918, 14.24: a response has one or more hrefs. Those of a lock or of a redirect are not among them."""
    both = (
        "<d:response><d:href>/d/dog/</d:href><d:href>/d/fox/</d:href><d:status>HTTP/1.1 403 X</d:status>"
        "<d:error><d:lock-token-submitted><d:href>/d/hen/</d:href></d:lock-token-submitted></d:error></d:response>"
    )
    answer_with(fault, both)
    fault.always("d/fox", Fault(status=403), method="PROPFIND")
    assert sorted(one.key for one in store.listing().unreadable) == ["dog", "fox"]


def test_what_has_gone_meanwhile_is_left_out_and_named(
    fault: FaultServer, store: WebDAVStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A 404 of its own is no trouble with the rest."""
    answer_with(fault, resource("/d/dog/", "<d:status>HTTP/1.1 404 Not Found</d:status>"))
    assert [entry.key for entry in store.list()] == ["cat/1.jpg", "emu/1.jpg"]
    assert "'dog'" in said(caplog)


def test_from_keys_is_concerned_by_its_keys_alone(fault: FaultServer, store: WebDAVStore, tmp_path: Path) -> None:
    """What was not asked for may be unreadable; a key in it is an error that says why it is missing."""
    answer_with(fault, resource("/d/dog/", "<d:status>HTTP/1.1 403 Forbidden</d:status>"))
    assert len(StorageDataset.from_keys(store, ["cat/1.jpg"], cache=None)) == 1
    with pytest.raises(errors.PermissionDeniedError, match=r"'dog/1\.jpg' cannot be read.*403"):
        StorageDataset.from_keys(store, ["cat/1.jpg", "dog/1.jpg"], cache=None)
    split = tmp_path / "split.txt"
    split.write_text("cat/1.jpg 0\n")
    assert StorageDataset.from_split_file(store, split, cache=None).targets == [0]


def test_a_listing_with_gaps_is_not_trusted_again(fault: FaultServer, store: WebDAVStore, tmp_path: Path) -> None:
    """What was in the way may be gone; while the server is away, the gaps are remembered."""
    answer_with(fault, resource("/d/dog/", "<d:status>HTTP/1.1 403 Forbidden</d:status>"))
    StorageDataset(store, pattern="cat/*", cache=tmp_path / "cache")
    fault.always("*", Fault(status=500), method="PROPFIND")
    fault.always("d", Fault(status=500), method="PROPFIND")
    with pytest.raises(errors.ServerError, match="'dog'"):
        StorageDataset(store, pattern="**/*.jpg", cache=tmp_path / "cache")
    fault.heal()
    assert len(StorageDataset(store, pattern="**/*.jpg", cache=tmp_path / "cache")) == 3


def test_gaps_are_kept_beside_the_cache_and_not_in_a_lock_file(
    fault: FaultServer, store: WebDAVStore, tmp_path: Path
) -> None:
    """A lock file says itself which files there are."""
    answer_with(fault, resource("/d/dog/", "<d:status>HTTP/1.1 403 Forbidden</d:status>"))
    index = Index.of(store.listing(), store.location, None)
    again = Index.from_bytes(index.to_bytes())
    assert again is not None
    assert [(one.key, one.is_folder, str(one.error)) for one in again.unreadable] == [
        (one.key, one.is_folder, str(one.error)) for one in index.unreadable
    ]
    index.save(tmp_path / "lock.json")
    assert Index.load(tmp_path / "lock.json").unreadable == []


# A file that is odd.


@pytest.mark.parametrize("size", ["-1", "-2", "100.0", "", "9" * 5000, None])
def test_one_odd_size_concerns_its_own_file(
    fault: FaultServer, store: WebDAVStore, size: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Documents of other programs have a size of -1; the error says so, and who does not want them is not bothered."""
    element = "" if size is None else f"<d:getcontentlength>{size}</d:getcontentlength>"
    answer_with(fault, a_file("/d/report.gdoc", element), also="report.gdoc")
    with pytest.raises(errors.ProtocolError, match=r"report\.gdoc.*size"):
        StorageDataset(store, cache=None)
    assert StorageDataset(store, pattern="**/*.jpg", cache=None).keys == ["cat/1.jpg", "emu/1.jpg"]
    assert "report.gdoc" in said(caplog)
    with pytest.raises(errors.ProtocolError, match="size"):
        store.stat("report.gdoc")


def test_blanks_around_a_size_are_none_of_it(fault: FaultServer, store: WebDAVStore) -> None:
    """XML may be indented, also inside an element."""
    answer_with(fault, a_file("/d/x.bin", "<d:getcontentlength>\n  100 </d:getcontentlength>"))
    assert {entry.key: entry.size_bytes for entry in store.list()}["x.bin"] == 100


@pytest.mark.parametrize(
    ("etag", "modified", "expected"),
    [
        ("null", "Fri, 27 Nov 2026 10:00:00 GMT", (None, "Fri, 27 Nov 2026 10:00:00 GMT")),
        ("", "2026-11-27T10:00:00Z", (None, "Fri, 27 Nov 2026 10:00:00 GMT")),
        ("", "Fri, 27 Nov 2026 11:00:00 +0100", (None, "Fri, 27 Nov 2026 10:00:00 GMT")),
        ("", "not a date", (None, None)),
        ("", "0001-01-01T00:00:00+01:00", (None, None)),
        ("", "Fri, 31 Dec 9999 23:59:59 -0100", (None, None)),
        ('"abc"', "not a date", ("abc", "not a date")),
    ],
)
def test_an_odd_etag_or_date_is_none(
    fault: FaultServer, store: WebDAVStore, etag: str, modified: str, expected: tuple[str | None, str | None]
) -> None:
    """Without an ETag a date is compared with that of a GET, so it is put into the same form."""
    properties = f"<d:getcontentlength>1</d:getcontentlength><d:getetag>{etag}</d:getetag>"
    answer_with(fault, a_file("/d/x.bin", f"{properties}<d:getlastmodified>{modified}</d:getlastmodified>"))
    entry = next(entry for entry in store.list() if entry.key == "x.bin")
    assert (entry.etag, entry.modified) == expected


def test_a_key_with_two_slashes_concerns_itself(
    fault: FaultServer, store: WebDAVStore, caplog: pytest.LogCaptureFixture
) -> None:
    """S3 has such keys, and gateways list them. A name that leaves its folder is another matter."""
    answer_with(fault, a_file("/d/old//1.txt"))
    assert len(StorageDataset(store, pattern="**/*.jpg", cache=None)) == 2
    assert "old//1.txt" in said(caplog)
    with pytest.raises(errors.ProtocolError, match="//"):
        StorageDataset(store, pattern="old/*.txt", cache=None)
    answer_with(fault, a_file("/d/old/../1.txt"))
    with pytest.raises(errors.ProtocolError, match="leaves its folder"):
        StorageDataset(store, pattern="**/*.jpg", cache=None)


def test_s3_keys_with_two_slashes_concern_themselves() -> None:
    """A key with an empty part, as fsspec lists it, is unreadable by itself alone."""
    system = fsspec.filesystem("memory")
    for key in ("a/1.jpg", "a//2.txt", "/3.txt"):
        system.pipe_file(f"/slashes/{key}", b"x")
    store = FsspecStore("memory://slashes")
    assert [entry.key for entry in store.listing().entries] == ["a/1.jpg"]
    assert StorageDataset(store, pattern="**/*.jpg", cache=None).keys == ["a/1.jpg"]
    with pytest.raises(errors.ProtocolError, match="a//2"):
        StorageDataset(store, pattern="**/*.txt", cache=None)
    with pytest.raises(errors.ProtocolError):
        store.list()


# Folders of this machine.


@pytest.fixture
def tree() -> Iterator[Path]:
    """A folder that everybody may look into."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    for key in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        (top / key).parent.mkdir(exist_ok=True)
        (top / key).write_bytes(b"x")
    yield top
    shutil.rmtree(top)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Have no rights that others have not."""
    if os.geteuid() != 0:
        yield
        return
    gc.collect()
    gc.disable()  # what root made is not for nobody to remove
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        gc.enable()


def local_stores(top: Path) -> list[Store]:
    """The ways to read a folder of this machine."""
    return [open_store(top), FsspecStore(f"file://{top}")]


def test_a_folder_that_may_not_be_looked_into_concerns_itself(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error if samples may be in it, else a warning; for the root always an error."""
    (tree / "private").mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    with as_nobody():
        for store in local_stores(tree):
            assert [entry.key for entry in store.listing().entries] == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
            assert len(StorageDataset(store, pattern=["a/*", "b/*"], cache=None)) == 3
            assert "private" in said(caplog)
            caplog.clear()
            for pattern in ("**/*.jpg", "*/1.jpg", "private/*"):
                with pytest.raises(errors.PermissionDeniedError, match="private"):
                    StorageDataset(store, pattern=pattern, cache=None)
            with pytest.raises(errors.PermissionDeniedError):
                store.list()
        with pytest.raises(errors.PermissionDeniedError):
            open_store(tree / "private").list()


def test_a_folder_that_the_server_behind_a_mount_refuses_concerns_itself(
    nextcloud: NextcloudServer, mount: RcloneMount
) -> None:
    """The mount answers EIO, as it does when it is dead; here the rest of it lives."""
    top = f"refused-{uuid.uuid4().hex}"
    os.mkdir(mount.path / top)
    for name in ("cat", "dog", "emu"):
        (nextcloud.root / top / name).mkdir()
        (nextcloud.root / top / name / "1.jpg").write_bytes(b"x")
    nextcloud.answer_next(100, 403, method="PROPFIND", within=f"{top}/dog")
    store = DirectoryStore(mount.path / top)
    try:
        assert StorageDataset(store, pattern=["cat/*", "emu/*"], cache=None).keys == ["cat/1.jpg", "emu/1.jpg"]
        with pytest.raises(errors.ServerError, match=r"'dog'.*behind the mount"):
            StorageDataset(store, pattern="**/*.jpg", cache=None)
    finally:
        nextcloud.clear_faults()


def test_lost_and_found_is_never_in_the_way(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every disk has one, and it is root's: no data of a user is in it."""
    (tree / "lost+found").mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    with as_nobody():
        for store in local_stores(tree):
            assert len(StorageDataset(store, cache=None)) == 3
            assert "lost+found" in said(caplog)
            caplog.clear()


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "cat/@eaDir", ".Trash-1000", "$Recycle.Bin"])
def test_junk_that_cannot_be_listed_is_in_the_way_of_those_who_name_it(
    fault: FaultServer, store: WebDAVStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No sample comes from there, unless the pattern names it."""
    refused = resource(f"/d/{name}/", "<d:status>HTTP/1.1 403 Forbidden</d:status>")
    answer_with(fault, refused, also=name)
    assert StorageDataset(store, cache=None).keys == ["cat/1.jpg", "emu/1.jpg"]
    assert name in said(caplog)
    with pytest.raises(errors.PermissionDeniedError):
        StorageDataset(store, pattern=f"{name}/*.jpg", cache=None)


def test_links_in_a_circle_end(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One to its own folder, one to a folder above, two that lead to each other, one to itself, one to nothing."""
    links = {"a/here": ".", "a/up": "..", "a/b": "../b", "b/a": "../a", "a/self": "self", "a/none": "nowhere"}
    for name, to in links.items():
        (tree / name).symlink_to(to)
    os.mkfifo(tree / "a/pipe")
    keys = {entry.key for entry in DirectoryStore(tree).list()}
    assert keys == {"a/1.jpg", "a/2.jpg", "a/b/1.jpg", "b/1.jpg", "b/a/1.jpg", "b/a/2.jpg"}
    assert "'a/self' (in a circle)" in said(caplog)
    assert len(said(caplog).splitlines()) == 1


def test_links_between_all_folders_end_soon(tree: Path) -> None:
    """The ways between 12 folders are 12! = 479 million; nothing is left out without a word."""
    for number in range(12):
        (tree / f"f{number}").mkdir()
    for number in range(12):
        for other in range(12):
            (tree / f"f{number}" / f"to{other}").symlink_to(f"../f{other}")
    begin = time.monotonic()
    listing = DirectoryStore(tree).listing()
    assert time.monotonic() - begin < 10
    assert len(listing.entries) == 3
    assert "links lead to this folder" in str(listing.unreadable[0].error)


def test_a_server_that_follows_links_in_a_circle_is_listed_to_an_end(
    fault: FaultServer, store: WebDAVStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Folder by folder there would be no end; one that is a folder above it once more is left out, and named."""
    (fault.root / "d" / "cat" / "loop").symlink_to("..")
    fault.change(depth_infinity="refused")
    assert [entry.key for entry in store.list()] == ["cat/1.jpg", "dog/1.jpg", "emu/1.jpg", "notes.txt"]
    assert "'cat/loop'" in said(caplog)


# What a pattern reaches.


@pytest.mark.parametrize(
    ("pattern", "folder", "expected"),
    [
        ("**/*.jpg", "dog", True),
        ("*/*.jpg", "dog", True),
        ("*.jpg", "dog", False),
        ("dog/*", "dog", True),
        ("cat/**", "dog", False),
        ("d*/x/*.jpg", "dog", True),
        ("d*/x/*.jpg", "dog/y", False),
        ("*/x/*.jpg", "dog/x", True),
        ("*/x/*.jpg", "dog/x/z", False),
        ("a/**/b/*.jpg", "a/x/y", True),
        ("{cat,dog/x}/*.jpg", "dog/x", True),
        ("[!d]*/*", "dog", False),
    ],
)
def test_what_a_pattern_reaches(pattern: str, folder: str, expected: bool) -> None:  # noqa: FBT001  a parameter
    """Whether a file in a folder, or further below, could match."""
    assert Pattern(pattern).reaches(folder) is expected


# What is no listing at all, while one is kept.


NO_LISTINGS = [LOGIN_PAGE, Fault(status=204, body=b""), Fault(body=b""), BROKEN_XML, Fault(cut_after_bytes=50)]


@pytest.mark.parametrize("answer", NO_LISTINGS, ids=repr)
@pytest.mark.parametrize("vendor", ["nextcloud", "other"])
def test_the_kept_listing_serves_where_no_listing_comes(
    fault: FaultServer, answer: Fault, vendor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A captive portal, a login page, a proxy that breaks off: within seconds, with a warning."""
    (fault.root / "x.bin").write_bytes(b"x")
    store = open_store("", Remote(fault.url, fault.user, fault.password, vendor=vendor))
    StorageDataset(store, cache=tmp_path / "cache")
    fault.always("*", answer, method="PROPFIND")
    begin = time.monotonic()
    assert StorageDataset(store, cache=tmp_path / "cache").keys == ["x.bin"]
    assert time.monotonic() - begin < 5
    assert "is used, since the storage gives no listing" in said(caplog)
    begin = time.monotonic()
    with pytest.raises(errors.ProtocolError):
        StorageDataset(store, cache=None)
    assert time.monotonic() - begin < 5


def test_a_folder_etag_that_is_torn_once_is_asked_for_again(fault: FaultServer, store: WebDAVStore) -> None:
    """One torn answer costs a second request and no error."""
    fault.script("d", BROKEN_XML, method="PROPFIND")
    assert store._folder.etag() is None
    assert len(fault.requests()) == 2


def test_reopening_finds_the_gap_of_a_share_closed(share: Share, tmp_path: Path) -> None:
    """A listing without gaps is as before."""
    share.put({"a/1.bin": "one"})
    index = StorageDataset(share.location, remote=share.remote, cache=tmp_path / "cache").index
    assert index.unreadable == []


def test_what_was_cut_off_and_told_in_part_comes_once(fault: FaultServer, store: WebDAVStore) -> None:
    """A file is one sample, however often a server names it."""
    odd = resource("/d/dog/", "<d:status>HTTP/1.1 507 Insufficient Storage</d:status>")
    fault.script("d", multistatus(a_folder("/d/"), a_file("/d/dog/1.jpg"), odd), method="PROPFIND")
    assert [entry.key for entry in store.list()] == ["dog/1.jpg"]


def test_a_response_that_names_nothing_makes_the_listing_unusable(fault: FaultServer, store: WebDAVStore) -> None:
    """It cannot be known what is missing from such a listing."""
    nameless = "<d:response><d:status>HTTP/1.1 403 Forbidden</d:status></d:response>"
    fault.always("*", multistatus(a_folder("/d/"), nameless), method="PROPFIND")
    with pytest.raises(errors.ProtocolError, match="does not say of what"):
        store.list()


def test_a_folder_whose_type_cannot_be_told_is_no_file(fault: FaultServer, store: WebDAVStore) -> None:
    """Some properties came with 200, its type with 403: the slash shows that it is a folder."""
    known = propstat("<d:getcontentlength>4096</d:getcontentlength>")
    answer_with(fault, resource("/d/dog/", known + propstat("<d:resourcetype/>", "403 Forbidden")))
    assert [(one.key, one.is_folder) for one in store.listing().unreadable] == [("dog", True)]


@pytest.mark.parametrize("size", [-1, 1.5, "x", float("nan")])
def test_an_odd_size_of_a_file_system_concerns_its_own_file(monkeypatch: pytest.MonkeyPatch, size: object) -> None:
    """Some gateways list documents without a usable size; all other files are listed."""
    system = fsspec.filesystem("memory")
    system.pipe({"/odd/a.jpg": b"x", "/odd/report.gdoc": b"y"})
    find = type(system).find

    def with_an_odd_one(*arguments: Any, **options: Any) -> Any:
        found = find(*arguments, **options)
        found["/odd/report.gdoc"]["size"] = size
        return found

    monkeypatch.setattr(type(system), "find", with_an_odd_one)
    store = FsspecStore("memory://odd")
    assert StorageDataset(store, pattern="**/*.jpg", cache=None).keys == ["a.jpg"]
    with pytest.raises(errors.ProtocolError, match=r"report\.gdoc.*size"):
        StorageDataset(store, cache=None)
