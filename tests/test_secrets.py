"""No secret is written down: none is found in anything that can be read after any action or error."""

from __future__ import annotations

import base64
import contextlib
import logging
import pickle
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ai4os_data import DiskCache, StorageDataset, errors
from ai4os_data.http.retries import Patience
from ai4os_data.locations import parsing
from ai4os_data.locations.rclone import obscure
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import open_store
from tests.support.loaders import batches_of
from tests.support.servers import LOGIN_PAGE, PASSWORD, USER, Fault, FaultServer, make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nextcloud import NextcloudServer
    from tests.support.servers import RcloneMount, WsgidavServer
    from tests.support.shares import Share

OBSCURED = obscure(PASSWORD)
TOKEN = "bearer-token_1.2~3"
SHARED_MEMORY = Path("/dev/shm")
_PAIR = f"{USER}:{PASSWORD}".encode()
SECRETS = {
    "password": PASSWORD.encode(),
    "password in Latin-1": PASSWORD.encode("latin-1"),
    "password escaped": PASSWORD.encode("unicode_escape"),
    "password in a URL": quote(PASSWORD).encode(),
    "password, encoded": base64.b64encode(PASSWORD.encode()).rstrip(b"="),
    "password, obscured": OBSCURED.encode(),
    "credentials, encoded": base64.b64encode(_PAIR).rstrip(b"="),
    "credentials, encoded for a URL": base64.urlsafe_b64encode(_PAIR).rstrip(b"="),
    "token": TOKEN.encode(),
}


class Trail:
    """Everything readable that a test left behind."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, bytes]] = []

    def add(self, what: str, text: str | bytes) -> None:
        """Add something that can be read."""
        self._pieces.append((what, text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")))

    def add_object(self, thing: object) -> None:
        """Add the repr and str of an object."""
        self.add(f"repr of {type(thing).__name__}", f"{thing!r} {thing}")

    def add_error(self, error: BaseException) -> None:
        """Add all of an error, with its causes."""
        self.add(f"{type(error).__name__}", "".join(traceback.format_exception(error)))
        for one in (error, error.__cause__, error.__context__):
            self.add_object(one)
            self.add("attributes of an error", repr(getattr(one, "__dict__", None)))
            self.add("arguments of an error", repr(getattr(one, "args", None)))

    def add_files(self, folder: Path) -> None:
        """Add every file below a folder, with its name."""
        for path in folder.rglob("*"):
            self.add("a file's name", str(path))
            if path.is_file():
                self.add(f"the file {path}", path.read_bytes())

    @contextlib.contextmanager
    def error(self, kind: type[errors.StorageError]) -> Iterator[None]:
        """Expect an error, and add it."""
        with pytest.raises(kind) as raised:
            yield
        self.add_error(raised.value)

    def found(self) -> list[tuple[str, str]]:
        """Each secret that was found, with the text that it stands in."""
        return [
            (name, what)
            for what, text in self._pieces
            for name, secret in SECRETS.items()
            if secret.lower() in text.lower()
        ]

    def __len__(self) -> int:
        """The number of texts."""
        return len(self._pieces)


@pytest.fixture
def trail(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Trail]:
    """Texts that the test adds, all logs at their lowest level, and all output: searched at the end."""
    caplog.set_level(logging.DEBUG)
    for name in ("ai4os_data", "httpx", "httpcore", "webdav4", "fsspec", "diskcache"):
        caplog.set_level(logging.DEBUG, name)
    trail = Trail()
    begin_s = time.time() - 1
    yield trail
    assert len(trail) > 0
    trail.add("the log", caplog.text)
    for record in caplog.records:
        trail.add("a log record", repr(record.__dict__))
    printed = capfd.readouterr()
    trail.add("stdout", printed.out)
    trail.add("stderr", printed.err)
    for path in [*SHARED_MEMORY.glob("ai4os-data*"), *SHARED_MEMORY.glob("ai4os-data*/*")]:
        with contextlib.suppress(OSError):  # it may be another's, or gone
            if path.is_file() and path.stat().st_mtime >= begin_s:
                trail.add(f"the file {path}", path.read_bytes())
    assert trail.found() == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    """Each form of a secret is found in a text, an error and a file."""
    for name, secret in SECRETS.items():
        trail = Trail()
        trail.add("bytes", b"before " + secret + b" after")
        assert (name, "bytes") in trail.found()
    trail = Trail()
    trail.add_error(ValueError(f"bad {PASSWORD}"))
    (tmp_path / "a").write_text(OBSCURED)
    trail.add_files(tmp_path)
    assert {what for what, _ in trail.found()} >= {"password", "password, obscured"}


@pytest.fixture
def deployed(nextcloud: NextcloudServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of files on the storage that is linked to this deployment."""
    monkeypatch.setenv("RCLONE_CONFIG_RSHARE_TYPE", "webdav")
    monkeypatch.setenv("RCLONE_CONFIG_RSHARE_URL", nextcloud.url.rstrip("/"))
    monkeypatch.setenv("RCLONE_CONFIG_RSHARE_VENDOR", "nextcloud")
    monkeypatch.setenv("RCLONE_CONFIG_RSHARE_USER", USER)
    monkeypatch.setenv("RCLONE_CONFIG_RSHARE_PASS", OBSCURED)
    folder = nextcloud.root / "secrets"
    for number in range(20):
        path = folder / f"class {number % 2}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"sample {number}")
    return "rshare:secrets"


def test_a_dataset_keeps_its_secrets(deployed: str, trail: Trail, tmp_path: Path) -> None:
    """Its pickle, repr, lock file, cache and log hold none."""
    cache = DiskCache(tmp_path / "cache", "20MiB")
    dataset = StorageDataset(deployed, decode="text", target="folder", cache=cache)
    trail.add("a pickle", pickle.dumps(dataset))
    dataset.warm(progress=False)
    for workers in (0, 2):
        with batches_of(dataset, workers=workers, batch_size=4) as batches:
            assert sum(len(x) for x, _ in batches) == 20
    dataset.index.save(tmp_path / "data.lock.json")
    locked = StorageDataset(deployed, index=tmp_path / "data.lock.json", cache=cache)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  it was made here
    assert copy[3] == dataset[3]
    for thing in (dataset, locked, copy, dataset.index, cache, dataset.stats(), cache.stats(), dataset.location):
        trail.add_object(thing)
    for one in (dataset, locked, copy, cache, dataset._store):
        trail.add(f"a pickle of {type(one).__name__}", pickle.dumps(one))
    cache.close()
    trail.add_files(tmp_path)
    assert any(b"secrets" in text for _, text in trail._pieces)  # the location does stand there


def test_a_pickle_of_what_the_user_passed_shows_nothing(share: Share, trail: Trail) -> None:
    """It carries the password, as the user wanted; its repr and its log do not."""
    share.put({"a.txt": "1"})
    remote = Remote(share.location, USER, PASSWORD, name="mine")
    dataset = StorageDataset("", remote=remote, cache=None)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  it was made here
    assert copy[0] == dataset[0]
    for thing in (remote, dataset, copy, dataset._store, copy._store, copy._store.remote):
        trail.add_object(thing)


def test_a_location_with_a_password_in_it_keeps_it(wsgidav: WsgidavServer, trail: Trail, tmp_path: Path) -> None:
    """It is taken out before anything is logged, kept or named."""
    (wsgidav.root / "typed").mkdir(exist_ok=True)
    (wsgidav.root / "typed" / "a.txt").write_text("1")
    for password in (quote(PASSWORD, safe=""), PASSWORD):
        location = f"webdav://{USER}:{password}@127.0.0.1:{wsgidav.port}/typed"
        cache = DiskCache(tmp_path / "cache", "20MiB")
        dataset = StorageDataset(location, cache=cache)
        assert dataset[0] == b"1"
        dataset.index.save(tmp_path / "data.lock.json")
        for thing in (dataset, dataset.index, dataset.location, parsing.parse(location), dataset._store, cache):
            trail.add_object(thing)
        cache.close()
    trail.add_files(tmp_path)


FAULTS = {
    "refused": (Fault(status=401), errors.AuthenticationError),
    "not allowed": (Fault(status=403), errors.PermissionDeniedError),
    "moved": (Fault(status=301, headers={"Location": "https://new.example/"}), errors.ProtocolError),
    "not understood": (Fault(status=400), errors.ProtocolError),
    "missing": (Fault(status=404), errors.NotFoundError),
    "locked": (Fault(status=423), errors.LockedError),
    "throttled": (Fault(status=429), errors.ThrottledError),
    "broken": (Fault(status=500), errors.ServerError),
    "down": (Fault(status=503), errors.ServerUnavailableError),
    "full": (Fault(status=507), errors.OutOfSpaceError),
    "silent": (Fault(stall_s=30), errors.DeadlineError),
    "hanging up": (Fault(drop=True), errors.ServerUnavailableError),
    "a login page": (LOGIN_PAGE, errors.ProtocolError),
    "compressed": (Fault(gzip=True), errors.StorageError),
}


@pytest.mark.parametrize(
    ("token", "name"), [*((None, name) for name in FAULTS), *((TOKEN, name) for name in ("refused", "moved", "broken"))]
)
def test_an_error_keeps_all_secrets(fault: FaultServer, trail: Trail, name: str, token: str | None) -> None:
    """Errors of a listing, of a file and of a sample hold none, with a password and with a token."""
    wrong, kind = FAULTS[name]
    for number in range(3):
        (fault.root / f"{number}.txt").write_text("1" * 100)
    fault.change(absolute_hrefs=True)
    remote = Remote(fault.url, None if token else USER, None if token else PASSWORD, token)
    store = open_store("", remote, patience=Patience(tries=1, stall_s=1))
    dataset = StorageDataset(store, cache=None)
    fault.always("*", wrong, method="GET")
    with trail.error(errors.SampleError):
        dataset[0]
    with trail.error(errors.StorageError):
        store.read_range(store.list()[0] if kind is not errors.AuthenticationError else dataset.index.entries[0], 1, 3)
    if kind is not errors.StorageError:  # a compressed listing is fine
        fault.always("*", wrong, method="PROPFIND")
        with trail.error(errors.StorageError):
            store.list()
    for thing in (store, dataset, remote):
        trail.add_object(thing)


def test_a_worker_s_error_keeps_all_secrets(fault: FaultServer, trail: Trail, patience: Patience) -> None:
    """Its traceback is a text that the trainer prints."""
    (fault.root / "a.txt").write_text("1")
    remote = Remote(fault.url, USER, PASSWORD)
    dataset = StorageDataset(open_store("", remote, patience=patience), cache=None)
    fault.credentials_expire()
    with batches_of(dataset, workers=1) as batches, trail.error(errors.SampleError):
        next(batches)


def test_errors_of_connections_keep_all_secrets(trail: Trail, tmp_path: Path, patience: Patience) -> None:
    """The certificate is not trusted, or there is no server."""
    (tmp_path / "certificates").mkdir()
    certificates = make_certificates(tmp_path / "certificates")
    with FaultServer(tmp_path / "root", certificate=certificates.valid) as server:
        untrusted = open_store("", Remote(server.url, USER, PASSWORD, TOKEN), patience=patience)
        for ask in (untrusted.list, lambda: untrusted.write("a", b"1")):
            with trail.error(errors.TLSError):
                ask()
    gone = open_store("", Remote(server.url, USER, PASSWORD), patience=patience)
    for ask in (gone.list, lambda: gone.write("a", b"1")):
        with trail.error(errors.ServerUnavailableError):
            ask()


@pytest.mark.parametrize(
    "location",
    [
        f"webdav://{USER}:{PASSWORD}@/data",
        f"webdav://{USER}:{PASSWORD}@host:port/data",
        f"https://{USER}:{PASSWORD}@127.0.0.1:1/remote.php/dav/files/{USER}/data",
        f"https://{USER}:{PASSWORD}/x@127.0.0.1:1/data",
        f"http://{USER}:{PASSWORD}@127.0.0.1:1/../data",
        f"ftp://{USER}:{PASSWORD}@127.0.0.1:1/data",
        f"no-such-protocol://{USER}:{PASSWORD}@host/data",
        f"simplecache::no-such-protocol://{USER}:{PASSWORD}@host/data",
        f"s3://{USER}:{PASSWORD}@bucket/data",
    ],
)
def test_a_location_that_cannot_be_opened_keeps_its_password(location: str, trail: Trail) -> None:
    """The error shows the location without the password."""
    with pytest.raises((errors.StorageError, ImportError, OSError)) as raised:
        open_store(location, environ={}, patience=Patience(tries=1, connect_s=1)).list()
    error: BaseException | None = raised.value
    assert isinstance(error, errors.StorageError)
    trail.add("the error", f"{error!r} {error}")
    trail.add("shown", parsing.shown(location))


def test_a_mount_that_is_read_over_webdav_tells_no_secret(
    mount: RcloneMount, nextcloud: NextcloudServer, deployed: str, trail: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says once that it is, and where."""
    assert deployed.startswith("rshare:")
    (mount.path / "mounted").mkdir()  # through the mount, which would not see it for 5 minutes otherwise
    (nextcloud.root / "mounted" / "a.bin").write_bytes(b"1")
    store = open_store(str(mount.path / "mounted"))
    assert [entry.key for entry in store.list()] == ["a.bin"]
    assert "reading over WebDAV" in caplog.text
    trail.add_object(store)
    trail.add("a pickle", pickle.dumps(store))


def test_configurations_that_are_wrong_keep_all_secrets(trail: Trail, tmp_path: Path) -> None:
    """The remote has another kind, no URL, a broken file, or a wrong URL."""
    conf = tmp_path / "rclone.conf"
    base = {"RCLONE_CONFIG": str(conf), "RCLONE_CONFIG_X_USER": USER, "RCLONE_CONFIG_X_PASS": OBSCURED}
    for more in (
        {},
        {"RCLONE_CONFIG_X_TYPE": "s3"},
        {"RCLONE_CONFIG_X_URL": f"ftp://{USER}:{PASSWORD}@host"},
        {"RCLONE_CONFIG_X_URL": f"https://{USER}:{PASSWORD}/x@host"},
        {"RCLONE_CONFIG_X_TYPE": "alias", "RCLONE_CONFIG_X_REMOTE": "y:"},
    ):
        for text in ("", f"pass = {OBSCURED}\n", f"[x]\npass {OBSCURED}\n"):
            conf.write_text(text)
            with trail.error(errors.RemoteError):
                Remote.discover("x", base | more)
