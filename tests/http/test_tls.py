"""TLS is always verified, against the authorities that the user trusts; a token is sent as one."""

from __future__ import annotations

import pickle
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import ServerUnavailableError, TLSError
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry, Fetched, file_at
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import PASSWORD, USER, FaultServer, make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.support.servers.certificates import Certificates

KEY = "a.bin"
CA_VARIABLES = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "RCLONE_CA_CERT"]
DATA = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An unknown authority, and the certificates that it signed."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    """A server with a certificate of that authority."""
    with FaultServer(tmp_path_factory.mktemp("secure"), certificate=certificates.valid) as server:
        (server.root / KEY).write_bytes(DATA)
        yield server


def ask_all(store: WebDAVStore) -> list[Callable[[], object]]:
    """Every kind of request: over webdav4 and over curl."""

    def read_many() -> object:
        ((_, outcome),) = store.read_many([Entry(KEY, len(DATA))])
        if not isinstance(outcome, Fetched):
            raise outcome
        return outcome

    return [
        store.list,
        lambda: store.stat(KEY),
        lambda: file_at(store, KEY),
        read_many,
        lambda: store.read_range(Entry(KEY, len(DATA)), 1, 3),
        lambda: store.write(KEY, b"1"),
        lambda: store.delete(KEY),
    ]


def check_distrust(server: FaultServer, remote: Remote, patience: Patience) -> None:
    """Every verb refuses at once, says what to do, and sends the server nothing."""
    server.forget()
    for ask in ask_all(WebDAVStore(remote, patience=patience)):
        begin = time.monotonic()
        with pytest.raises(TLSError, match="ca_file") as raised:
            ask()
        assert time.monotonic() - begin < 0.8
        assert isinstance(raised.value, ServerUnavailableError)
        assert remote.origin in str(raised.value)
    assert server.requests() == []


def test_a_server_of_an_unknown_authority_is_not_trusted(secure: FaultServer, patience: Patience) -> None:
    """It gets no credentials, and there is no switch to do without the check."""
    check_distrust(secure, Remote(secure.url, USER, PASSWORD), patience)


@pytest.mark.parametrize("which", ["expired", "of_another_host"])
def test_a_certificate_that_is_not_valid_here_is_not_trusted(
    certificates: Certificates, tmp_path: Path, patience: Patience, which: str
) -> None:
    """It is refused although its authority is trusted."""
    with FaultServer(tmp_path, certificate=getattr(certificates, which)) as server:
        check_distrust(server, Remote(server.url, USER, PASSWORD, ca_file=certificates.authority), patience)


def test_an_authority_of_ones_own_is_trusted_where_it_is_given(
    secure: FaultServer, certificates: Certificates, patience: Patience
) -> None:
    """Both clients trust it, also in a copy in another process."""
    remote = Remote(secure.url, USER, PASSWORD, ca_file=certificates.authority)
    store = WebDAVStore(remote, patience=patience)
    for one in (store, pickle.loads(pickle.dumps(store))):  # noqa: S301  it was made here
        assert [entry.key for entry in one.list()] == [KEY]
        assert one.read(KEY) == DATA
        one.write("new.bin", b"new")
        assert one.read_range(one.stat("new.bin"), 1, 2) == b"e"
        one.delete("new.bin")


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_an_authority_of_the_environment_is_trusted(
    secure: FaultServer, certificates: Certificates, patience: Patience, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """An administrator sets it for all programs."""
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(certificates.authority))
    assert WebDAVStore(Remote(secure.url, USER, PASSWORD), patience=patience).read(KEY) == DATA


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_authorities_that_cannot_be_read_are_told(
    secure: FaultServer, tmp_path: Path, patience: Patience, content: bytes | None
) -> None:
    """The error names the file, and is a ``TLSError``."""
    secure.forget()
    if content is not None:
        (tmp_path / "authority.pem").write_bytes(content)
    remote = Remote(secure.url, USER, PASSWORD, ca_file=tmp_path / "authority.pem")
    for ask in ask_all(WebDAVStore(remote, patience=patience)):
        with pytest.raises(TLSError, match=r"authority\.pem"):
            ask()
    assert secure.requests() == []


def test_an_authority_that_was_replaced_is_read_anew(
    secure: FaultServer, certificates: Certificates, tmp_path: Path, patience: Patience
) -> None:
    """The file is read again, as when the old authority has expired."""
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other").authority
    remote = Remote(secure.url, USER, PASSWORD, ca_file=tmp_path / "authority.pem")
    (tmp_path / "authority.pem").write_bytes(other.read_bytes())
    with pytest.raises(TLSError):
        WebDAVStore(remote, patience=patience).stat(KEY)
    (tmp_path / "authority.pem").write_bytes(certificates.authority.read_bytes())
    assert WebDAVStore(remote, patience=patience).stat(KEY).size_bytes == len(DATA)


def test_a_server_without_tls_is_told(fault: FaultServer, patience: Patience) -> None:
    """The server at an https:// address speaks plain HTTP."""
    url = fault.url.replace("http:", "https:")
    for ask in ask_all(WebDAVStore(Remote(url, USER, PASSWORD), patience=patience)):
        with pytest.raises(TLSError):
            ask()
    assert fault.requests() == []


def test_a_server_with_tls_that_is_asked_without_is_told(secure: FaultServer, patience: Patience) -> None:
    """A server that speaks TLS hangs up on plain HTTP."""
    secure.forget()
    url = secure.url.replace("https:", "http:")
    for ask in ask_all(WebDAVStore(Remote(url, USER, PASSWORD), patience=patience)):
        with pytest.raises(ServerUnavailableError):
            ask()
    assert secure.requests() == []


def test_a_bearer_token_is_sent_by_every_verb(fault: FaultServer, patience: Patience) -> None:
    """It is sent instead of user and password, also if a user is named."""
    (fault.root / KEY).write_bytes(DATA)
    assert fault.token is not None
    for remote in (Remote(fault.url, token=fault.token), Remote(fault.url, USER, "wrong", token=fault.token)):
        for ask in ask_all(WebDAVStore(remote, patience=patience)):
            ask()
        (fault.root / KEY).write_bytes(DATA)
    requests = fault.requests()
    assert {request.headers["authorization"] for request in requests} == {f"Bearer {fault.token}"}
    assert {request.method for request in requests} == {"PROPFIND", "GET", "PUT", "DELETE"}


def test_user_and_password_are_sent_with_the_first_request(fault: FaultServer, patience: Patience) -> None:
    """They are sent in UTF-8, without a first request that is refused."""
    (fault.root / KEY).write_bytes(DATA)
    for ask in ask_all(WebDAVStore(Remote(fault.url, USER, PASSWORD), patience=patience)):
        ask()
    assert {request.headers["authorization"] for request in fault.requests()} == {fault.authorization}
    assert 401 not in {request.status for request in fault.requests()}
