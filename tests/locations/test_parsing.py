"""Locations are what users already type: each kind is recognised, opened, and shown without its secrets."""

from __future__ import annotations

import os
import random
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import fsspec
import pytest

from ai4os_data.errors import AuthenticationError, LocationError, RemoteError
from ai4os_data.locations.parsing import DavLocation, DirectoryLocation, FsspecLocation, RemoteLocation, parse, shown
from ai4os_data.locations.rclone import obscure
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import open_store
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from tests.nextcloud import NextcloudServer

if TYPE_CHECKING:
    from ai4os_data.http.retries import Patience
    from tests.support.servers import FaultServer, Server, WsgidavServer

PARSED = {
    "/storage/data": DirectoryLocation("/storage/data"),
    "data": DirectoryLocation("data"),
    "./a:b": DirectoryLocation("./a:b"),
    "../data": DirectoryLocation("../data"),
    "/with:colon/#1": DirectoryLocation("/with:colon/#1"),
    "file:///data/a%20b": DirectoryLocation("/data/a b"),
    "rshare:": RemoteLocation("rshare", ""),
    "rshare:data": RemoteLocation("rshare", "data"),
    "rshare:/data/": RemoteLocation("rshare", "data"),
    "rshare:a b/100%41/#1?x+y&z": RemoteLocation("rshare", "a b/100%41/#1?x+y&z"),
    "rshare:caf\u00e9/cafe\u0301": RemoteLocation("rshare", "caf\u00e9/cafe\u0301"),
    "my share.2+x@y-z:data": RemoteLocation("my share.2+x@y-z", "data"),
    "ai4os://rshare/data/sub": RemoteLocation("rshare", "data/sub"),
    "ai4os://rshare": RemoteLocation("rshare", ""),
    "ai4os://rshare/a b#1%41": RemoteLocation("rshare", "a b#1%41"),
    "webdav://host/a/b": DavLocation("http://host", "a/b"),
    "webdavs://host:8443/a%20b/#1?x": DavLocation("https://host:8443", "a b/#1?x"),
    "dav://host": DavLocation("http://host", ""),
    "webdav://alice:p%40ss%2F@host:80/a": DavLocation("http://host:80", "a", "alice", "p@ss/"),
    "webdav://alice:se@sa#me?@host/a": DavLocation("http://host", "a", "alice", "se@sa#me?"),
    "webdav://[::1]:8080/a": DavLocation("http://[::1]:8080", "a"),
    "https://h/remote.php/dav/files/alice/a/b c": DavLocation("https://h/remote.php/dav/files/alice", "a/b c"),
    "https://h/remote.php/dav/files/alice": DavLocation("https://h/remote.php/dav/files/alice", ""),
    "https://h/remote.php/dav/files/a@b.org/x": DavLocation("https://h/remote.php/dav/files/a@b.org", "x"),
    "https://h/cloud/remote.php/webdav/a": DavLocation("https://h/cloud/remote.php/webdav", "a"),
    "https://h/remote.php/webdavs/a": DavLocation("https://h", "remote.php/webdavs/a"),
    "memory://data/sub": FsspecLocation("memory://data/sub"),
    "s3://bucket/key": FsspecLocation("s3://bucket/key"),
    "simplecache::s3://bucket/key": FsspecLocation("simplecache::s3://bucket/key"),
}


@pytest.mark.parametrize(("text", "location"), PARSED.items(), ids=PARSED)
def test_a_location_is_told_apart(text: str, location: object) -> None:
    """Names stay as they were typed, except in URLs, which are decoded once."""
    assert parse(text) == location


def test_a_path_is_a_directory_whatever_it_holds() -> None:
    """A ``Path`` object always means a directory."""
    assert parse(Path("rshare:data")) == DirectoryLocation("rshare:data")
    assert parse("~/data") == DirectoryLocation(os.path.expanduser("~/data"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "ai4os://",
        "ai4os:///data",
        "https://",
        "https:///data",
        "webdav://alice:sesame@/data",
        "webdav://h:port/x",
    ],
)
def test_what_is_no_location_is_told(text: str) -> None:
    """The error is a ValueError too, and has no password in it."""
    with pytest.raises(LocationError) as raised:
        parse(text)
    assert isinstance(raised.value, ValueError)
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["webdav", "https", "ftp", "simplecache::webdav", "zip://a.zip::ftp"])
@pytest.mark.parametrize("password", ["sesame", "se/same", "se@same", "se#sa?same", "se:same", "se%2Fsame"])
def test_a_location_is_shown_without_its_password(scheme: str, password: str) -> None:
    """Its slash may not have been encoded, or the location may not be understood."""
    location = f"{scheme}://alice:{password}@host:8443/a@b/c"
    assert shown(location) == f"{scheme}://host:8443/a@b/c"
    try:
        told = repr(parse(location))
    except LocationError as error:
        told = str(error)
    assert "same" not in told
    assert "me@" not in told


@pytest.mark.parametrize(
    "location", ["https://host:8443/remote.php/dav/files/alice@example.org/x", "rshare:a@b:c", "/a@b/c", "s3://b/a:c@d"]
)
def test_a_location_without_a_password_is_shown_as_it_is(location: str) -> None:
    """An ``@`` may be part of a name."""
    assert shown(location) == location


# Opened for real.

DATA = random.Random(3).randbytes(5000)
KEY = "class #1/100%41 \u00e9.bin"


class Linked(NamedTuple):
    """A folder on a server, with the variables of a deployment."""

    server: Server
    folder: str
    environ: dict[str, str]


def linked(server: Server, url: str | None = None, vendor: str = "other") -> Linked:
    """Put a file into a new folder, and link the storage to the deployment."""
    folder = f"location-{uuid.uuid4().hex}/sub #2"
    path = server.root / folder / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    environ = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": url or server.url,
        "RCLONE_CONFIG_RSHARE_VENDOR": vendor,
        "RCLONE_CONFIG_RSHARE_USER": server.user,
        "RCLONE_CONFIG_RSHARE_PASS": obscure(server.password),
    }
    return Linked(server, folder, environ)


@pytest.fixture
def cloud(nextcloud: NextcloudServer) -> Linked:
    """Storage on Nextcloud, linked as the platform links it."""
    return linked(nextcloud, nextcloud.url.rstrip("/"), "nextcloud")


def check(location: str | os.PathLike[str], kind: type = NextcloudStore, **options: object) -> None:
    """Read the file by its key below the location, and hold that the store is of this kind."""
    store = open_store(location, **options)  # type: ignore[arg-type]  # its own
    assert type(store) is kind
    assert [entry.key for entry in store.list()] == [KEY]
    assert store.read(KEY) == DATA


@pytest.mark.parametrize("form", ["rshare:{}", "rshare:/{}/", "RSHARE:{}", "ai4os://rshare/{}"])
def test_a_remote_of_the_environment_is_opened(cloud: Linked, form: str) -> None:
    """Users type it every day for ``rclone copy``."""
    check(form.format(cloud.folder), environ=cloud.environ)


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_an_address_of_nextcloud_finds_the_credentials_for_it(cloud: Linked, quoted: bool, legacy: bool) -> None:  # noqa: FBT001  parameters
    """Both forms work, whichever one was linked, encoded or not."""
    assert isinstance(cloud.server, NextcloudServer)
    folder = quote(cloud.folder) if quoted else cloud.folder
    url = cloud.server.legacy_url if legacy else cloud.server.url
    for known in (cloud.server.legacy_url, cloud.server.url):
        check(url + folder, environ=cloud.environ | {"RCLONE_CONFIG_RSHARE_URL": known})


@pytest.mark.parametrize("legacy", [False, True])
def test_an_address_of_nextcloud_takes_the_remote_that_is_given(cloud: Linked, legacy: bool) -> None:  # noqa: FBT001  a parameter
    """The ``Remote`` may be of any path of that server, or be given by name."""
    assert isinstance(cloud.server, NextcloudServer)
    url = (cloud.server.legacy_url if legacy else cloud.server.url) + cloud.folder
    check(url, remote="rshare", environ=cloud.environ)
    for root in (cloud.server.url, cloud.server.legacy_url, cloud.server.origin):
        check(url, remote=Remote(root, cloud.server.user, cloud.server.password), environ={})


def test_an_address_with_credentials_needs_nothing_else(cloud: Linked, wsgidav: WsgidavServer) -> None:
    """The password, with a ``#`` in it, may be encoded or not."""
    assert isinstance(cloud.server, NextcloudServer)
    for password in (quote(cloud.server.password, safe=""), cloud.server.password):
        userinfo = f"{cloud.server.user}:{password}@"
        check(cloud.server.url.replace("://", f"://{userinfo}") + cloud.folder, environ={})
        check(cloud.server.legacy_url.replace("://", f"://{userinfo}") + cloud.folder, environ={})
        here = linked(wsgidav)
        check(f"webdav://{userinfo}127.0.0.1:{wsgidav.port}/{quote(here.folder)}", WebDAVStore, environ={})


def test_a_relative_path_is_one_below_the_remote_that_is_given(cloud: Linked) -> None:
    """With ``remote=`` the location is only a path."""
    check(cloud.folder, remote="rshare", environ=cloud.environ)
    remote = Remote(f"{cloud.server.url}{quote(cloud.folder)}", cloud.server.user, cloud.server.password)
    check("", remote=remote)
    check(".", remote=remote)


def test_a_webdav_server_of_any_kind_is_opened(wsgidav: WsgidavServer) -> None:
    """The location is below the address of its credentials."""
    here = linked(wsgidav)
    check(f"rshare:{here.folder}", WebDAVStore, environ=here.environ)
    check(f"webdav://127.0.0.1:{wsgidav.port}/{quote(here.folder)}", WebDAVStore, environ=here.environ)
    check(wsgidav.url + quote(here.folder), WebDAVStore, environ=here.environ)
    below = here.environ | {"RCLONE_CONFIG_RSHARE_URL": wsgidav.url + quote(here.folder.split("/", maxsplit=1)[0])}
    check(f"rshare:{here.folder.split('/', maxsplit=1)[1]}", WebDAVStore, environ=below)
    check(wsgidav.url + quote(here.folder), WebDAVStore, environ=below)


def test_a_directory_is_opened_in_all_its_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is absolute, relative, from home, or a ``file://``."""
    folder = tmp_path / "data #1"
    (folder / KEY).parent.mkdir(parents=True)
    (folder / KEY).write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for location in (
        folder,
        str(folder),
        f"{folder}/",
        "data #1",
        "./data #1",
        "~/data #1",
        f"file://{quote(str(folder))}",
    ):
        store = open_store(location)
        assert [entry.key for entry in store.list()] == [KEY]
        assert store.read(KEY) == DATA


def test_any_file_system_of_fsspec_is_opened() -> None:
    """It is opened by its URL."""
    root = f"location-{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe_file(f"/{root}/{KEY}", DATA)
    assert open_store(f"memory://{root}").read(KEY) == DATA


@pytest.mark.parametrize("user", ["alice@example.org", "alice smith", "j\u00f6rg", "a+b%41"])
def test_users_may_have_any_name(tmp_path: Path, user: str) -> None:
    """Nextcloud allows addresses as names; the URL may be encoded or not."""
    with NextcloudServer(tmp_path, user=user) as server:
        here = linked(server)
        folder = quote(here.folder)
        remote = Remote(server.origin, user, server.password)
        check(f"{server.origin}/remote.php/dav/files/{quote(user)}/{folder}", remote=remote, environ={})
        check(f"rshare:{here.folder}", environ=here.environ)
        check(server.url + folder, environ=here.environ)
        if "%" not in user:
            typed = f"{server.origin}/remote.php/dav/files/{user}"
            check(f"{typed}/{folder}", environ=here.environ | {"RCLONE_CONFIG_RSHARE_URL": typed})


# Where nothing is, and where credentials do not go.


def test_a_location_that_is_nowhere_is_told(cloud: Linked, tmp_path: Path) -> None:
    """Each kind has its own words, when it is opened or listed."""
    for location in ("rshare:no/where", str(tmp_path / "nowhere"), "memory://nowhere-at-all", "no-such-protocol://x/y"):
        with pytest.raises(LocationError):
            open_store(location, environ=cloud.environ).list()
    with pytest.raises(RemoteError, match="no remote is called 'nobody'"):
        open_store("nobody:data", environ=cloud.environ)


@pytest.mark.parametrize("location", ["rshare:../bob", "rshare:a/../../bob", "ai4os://rshare/..", "rshare:a//b"])
def test_a_location_cannot_leave_its_remote(cloud: Linked, location: str) -> None:
    """A path with ``..`` in it is refused before anything is asked."""
    cloud.server.forget()
    with pytest.raises(LocationError):
        open_store(location, environ=cloud.environ)
    assert cloud.server.requests() == []


def test_credentials_are_not_sent_to_another_server(cloud: Linked, fault: FaultServer, patience: Patience) -> None:
    """Another port of the host is another server: it gets none, and answers 401."""
    (fault.root / "data").mkdir()
    store = open_store(f"{fault.url}data", environ=cloud.environ, patience=patience)
    with pytest.raises(AuthenticationError):
        store.list()
    assert [request.headers.get("authorization") for request in fault.requests()] == [None]
    fault.forget()
    remote = Remote(cloud.server.url, cloud.server.user, cloud.server.password)
    for given in ("rshare", remote):
        with pytest.raises(RemoteError, match="are not sent to"):
            open_store(f"{fault.url}data", remote=given, environ=cloud.environ)
    assert fault.requests() == []


def test_credentials_of_one_account_are_not_used_for_another(cloud: Linked) -> None:
    """The linked storage is not used for another user of the same Nextcloud."""
    assert isinstance(cloud.server, NextcloudServer)
    store = open_store(f"{cloud.server.origin}/remote.php/dav/files/bob/x", environ=cloud.environ)
    assert isinstance(store, NextcloudStore)
    assert store.remote.password is None


def test_a_location_is_called_as_it_was_typed(cloud: Linked) -> None:
    """It is shown as typed, without secrets."""
    assert isinstance(cloud.server, NextcloudServer)
    assert open_store(f"rshare:{cloud.folder}", environ=cloud.environ).location == f"rshare:{cloud.folder}"
    url = cloud.server.url.replace("://", "://alice:sesame@") + "x"
    assert open_store(url, environ={}).location == cloud.server.url + "x"
