"""Addresses copied from the browser: public shares are read, and pages of an account are not taken for files."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.locations.parsing import DavLocation, parse
from ai4os_data.locations.remotes import Remote
from ai4os_data.locations.webpages import page_of
from ai4os_data.stores import open_store
from tests.support.servers import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer

TOKEN = "AbCdEf123456789"
FOLDER = "a b/#1 \u00e9"


@pytest.mark.parametrize("before", ["", "/nextcloud", "/a/b"])
@pytest.mark.parametrize("front", ["", "/index.php"])
@pytest.mark.parametrize(
    ("page", "folder"),
    [
        (f"/apps/files/?dir=/{quote(FOLDER)}", FOLDER),
        ("/apps/files?dir=/", ""),
        ("/apps/files/files/123?dir=/d&openfile=true", "d"),
        ("/apps/files/files?view=grid&dir=%2Fd%26e%2Bf#top", "d&e+f"),
        ("/apps/files/favorites", None),
        ("/f/12345", None),
        ("/f/12345/", None),
        ("/apps/dashboard/", None),
    ],
)
def test_a_page_of_an_account_is_known(before: str, front: str, page: str, folder: str | None) -> None:
    """It is known by its path, wherever the Nextcloud is; its query has the folder."""
    found = page_of(f"https://user:pw@cloud.example:8443{before}{front}{page}")
    assert found is not None
    assert (found.server_url, found.token, found.folder) == (f"https://cloud.example:8443{before}", None, folder)
    account = f"https://cloud.example:8443{before}/remote.php/dav/files"
    place = "FOLDER" if folder is None else quote(folder)
    assert found.files_url("a@b") == f"{account}/a%40b/{place}".rstrip("/")
    told = found.advice("https://cloud.example/x?secret=1")
    assert f"{account}/USER" in told
    assert "rshare:" in told
    assert "secret" not in told


@pytest.mark.parametrize("front", ["", "/index.php", "/nextcloud", "/nextcloud/index.php"])
@pytest.mark.parametrize(
    ("page", "below"),
    [
        (f"/s/{TOKEN}", ""),
        (f"/s/{TOKEN}/", ""),
        (f"/s/{TOKEN}/download", ""),
        (f"/s/{TOKEN}/authenticate/showShare", ""),
        (f"/s/{TOKEN}/download?path=%2F{quote(FOLDER)}&files=x", FOLDER),
        (f"/s/{TOKEN}?dir=/sub", "sub"),
        (f"/s/{TOKEN}?path=%2Fsub", "sub"),
        (f"/s/{TOKEN}/{quote(FOLDER)}", FOLDER),
        ("/s/my-data_2026", ""),
    ],
)
def test_a_public_share_is_known(front: str, page: str, below: str) -> None:
    """Its token and the folder below it are found."""
    found = page_of(f"https://cloud.example{front}{page}")
    assert found is not None
    token = page.partition("/s/")[2].partition("?")[0].partition("/")[0]
    root = f"https://cloud.example{front.removesuffix('/index.php')}/public.php/dav/files/{token}"
    location = parse(found.share_url)
    assert location == DavLocation(root, below)


@pytest.mark.parametrize(
    "location",
    [
        *(
            "https://h",
            "https://h/",
            "https://h/dav/s/train/1",
            "https://h/s",
            "https://h/files/f/1x",
            "https://h/apps",
        ),
        *(
            "https://h/remote.php/webdav/",
            "https://h/remote.php/dav/files/alice/s/a",
            "https://h/remote.php/dav/files/a",
        ),
        *(f"webdavs://h/s/{TOKEN}", f"davs://h/s/{TOKEN}", f"rshare:s/{TOKEN}", f"/s/{TOKEN}", "s3://h/index.php"),
        f"https://h/public.php/dav/files/{TOKEN}/s/a",
    ],
)
def test_other_addresses_are_no_pages(location: str) -> None:
    """Addresses that no browser shows are not taken for pages."""
    assert page_of(location) is None


# Opened for real.


@pytest.fixture
def share(fault: FaultServer) -> str:
    """A server with a public share, and the share's link."""
    folder = fault.root / "public.php" / "dav" / "files" / TOKEN / "sub"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"1")
    fault.change(public=True)
    return f"{fault.url}s/{TOKEN}"


@pytest.mark.parametrize(
    ("more", "key"), [("", "sub/a.bin"), ("/download", "sub/a.bin"), ("?dir=/sub", "a.bin"), ("/sub", "a.bin")]
)
def test_a_public_share_is_read(fault: FaultServer, share: str, more: str, key: str, tmp_path: Path) -> None:
    """No credentials are sent, whatever remotes there are for that server."""
    conf = tmp_path / "rclone.conf"
    conf.write_text(f"[rshare]\ntype = webdav\nurl = {fault.url}\nuser = {fault.user}\npass = {fault.password}\n")
    account = Remote(f"{fault.url}remote.php/dav/files/alice", fault.user, fault.password)
    for remote in (None, account):
        store = open_store(share + more, remote, environ={"RCLONE_CONFIG": str(conf)})
        assert [entry.key for entry in store.list()] == [key]
        assert store.read(key) == b"1"
    direct = StorageDataset(share.replace("/s/", "/public.php/dav/files/"), cache=None)
    assert (list(direct.keys), direct[0]) == (["sub/a.bin"], b"1")
    assert not any("authorization" in request.headers for request in fault.requests())


def test_a_share_with_a_password_takes_it_from_its_address(fault: FaultServer, share: str) -> None:
    """Its user is ``anonymous``; without a password the error says how to give it."""
    fault.change(public=False)
    with pytest.raises(errors.AuthenticationError, match="anonymous:PASSWORD@HOST/s/TOKEN"):
        open_store(share).list()
    fault.forget()
    with pytest.raises(errors.AuthenticationError, match="anonymous:PASSWORD@HOST/s/TOKEN"):
        open_store(share.replace("://", "://anonymous:sesame@")).list()
    (request,) = fault.requests()
    assert request.headers["authorization"] == "Basic YW5vbnltb3VzOnNlc2FtZQ=="


def test_a_page_is_told_with_the_address_to_give(fault: FaultServer) -> None:
    """The address has what is known of the account, and nothing is requested."""
    environ = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_CLOUD_TYPE": "webdav",
        "RCLONE_CONFIG_CLOUD_URL": f"{fault.url}remote.php/dav/files/alice",
        "RCLONE_CONFIG_CLOUD_USER": "alice",
        "RCLONE_CONFIG_CLOUD_PASS": "sesame",
    }
    page = f"{fault.url}apps/files/?dir=/data/train"
    for remote in (None, "cloud"):
        with pytest.raises(errors.LocationError) as raised:
            open_store(page, remote, environ=environ)
        assert f"{fault.url}remote.php/dav/files/alice/data/train, or cloud:data/train." in str(raised.value)
    with pytest.raises(errors.LocationError, match=r"files/USER/data/train, or rshare:data/train"):
        open_store(page, Remote("https://elsewhere.example/dav", "bob", "x"), environ={})
    assert fault.requests() == []


def test_a_folder_that_looks_like_a_page_is_read_by_who_says_so(fault: FaultServer) -> None:
    """``webdav://``, or a remote that begins below the root, says so."""
    (fault.root / "dav" / "s" / "train").mkdir(parents=True)
    (fault.root / "dav" / "s" / "train" / "a.bin").write_bytes(b"1")
    remote = Remote(f"{fault.url}dav/s", fault.user, fault.password)
    assert open_store(f"{fault.url}dav/s/train", remote).read("a.bin") == b"1"
    whole = Remote(fault.url, fault.user, fault.password)
    location = f"{fault.url}dav/s/train".replace("http://", "webdav://")
    assert open_store(location, whole).read("a.bin") == b"1"


def test_an_address_without_webdav_is_told(fault: FaultServer) -> None:
    """For the host of a Nextcloud alone, the error says its own address."""
    for status in (404, 405):
        fault.always("*", Fault(status=status), method="PROPFIND")
        with pytest.raises(errors.StorageError, match=r"https://HOST/remote\.php/dav/files/USER"):
            open_store(fault.url).list()


@pytest.mark.parametrize(
    "location", [":webdav:d", ":webdav,url='http://h',pass=s3cr3t:d", "rshare,pass=s3cr3t:d", "hifis,url=http://x:d"]
)
def test_a_connection_string_is_told_from_a_path(location: str) -> None:
    """A connection string of rclone is refused without showing its secrets."""
    with pytest.raises(errors.LocationError, match="connection string") as raised:
        open_store(location)
    assert "s3cr3t" not in str(raised.value)
