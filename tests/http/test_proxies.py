"""Listings and files use the same proxy, the one that the variables name."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.http import proxies
from ai4os_data.http.proxies import proxy_for
from ai4os_data.http.retries import Patience
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import Fault, FaultServer, make_certificates, need
from tests.support.servers.tunnel import TunnelProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Certificates

PROXY = "http://proxy:3128"
PASSWORD = "s3sam/e@1"
QUOTED = "s3sam%2Fe%401"
NOWHERE = "http://storage.invalid/dav"
NO_SOCKS = None if find_spec("socksio") else "no socksio: pip install socksio"


@pytest.fixture(autouse=True)
def _no_proxy_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset all variables of proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def entry() -> Entry:
    """A file that need not exist."""
    return Entry("a.bin", 1)


# Which variable counts.


@pytest.mark.parametrize(
    ("environ", "url", "variable"),
    [
        ({"http_proxy": PROXY}, "http://h/", "http_proxy"),
        ({"HTTP_PROXY": PROXY}, "http://h/", "HTTP_PROXY"),
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, "http://h/", None),
        ({"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, "http://h/", "http_proxy"),
        ({"http_proxy": PROXY, "HTTP_PROXY": "other:1"}, "http://h/", "http_proxy"),
        ({"http_proxy": "", "HTTP_PROXY": PROXY}, "http://h/", None),
        ({"http_proxy": "", "ALL_PROXY": PROXY}, "http://h/", "ALL_PROXY"),
        ({"http_proxy": PROXY}, "https://h/", None),
        ({"https_proxy": PROXY}, "http://h/", None),
        ({"https_proxy": PROXY, "all_proxy": "other:1"}, "https://h/", "https_proxy"),
        ({"HTTPS_PROXY": PROXY}, "https://h/", "HTTPS_PROXY"),
        ({"all_proxy": PROXY, "ALL_PROXY": "other:1"}, "https://h/", "all_proxy"),
        ({"https_proxy": PROXY, "NO_PROXY": "h"}, "https://h/", None),
        ({"https_proxy": PROXY, "no_proxy": "", "NO_PROXY": "h"}, "https://h/", "https_proxy"),
        ({"https_proxy": "http://proxy:notaport"}, "http://h/", None),
        ({}, "http://h/", None),
    ],
)
def test_a_variable_counts_for_its_scheme(environ: dict[str, str], url: str, variable: str | None) -> None:
    """Lower case wins, also when it is empty; a CGI script ignores HTTP_PROXY."""
    proxy = proxy_for(url, environ)
    assert (proxy.variable if proxy else None) == variable
    assert proxy is None or proxy.url == PROXY


@pytest.mark.parametrize(
    ("value", "url", "user", "password"),
    [
        ("proxy", "http://proxy:80", None, None),
        ("proxy:3128", "http://proxy:3128", None, None),
        (" http://proxy:3128/ ", "http://proxy:3128", None, None),
        ("HTTPS://proxy", "https://proxy:443", None, None),
        ("http://[::1]:3128", "http://[::1]:3128", None, None),
        (f"http://alice:{QUOTED}@proxy:3128", "http://proxy:3128", "alice", PASSWORD),
        (f"alice:{PASSWORD}@proxy:3128", "http://proxy:3128", "alice", PASSWORD),
    ],
)
def test_a_proxy_is_taken_to_pieces(value: str, url: str, user: str | None, password: str | None) -> None:
    """Its credentials are kept apart, and are not shown."""
    proxy = proxy_for("http://h/", {"http_proxy": value})
    assert proxy is not None
    assert (proxy.url, proxy.user, proxy.password) == (url, user, password)
    assert not password or password not in f"{proxy!r} {proxy.label}"


@pytest.mark.parametrize(
    "value",
    [
        *("socks4://proxy:1", "socks4a://proxy", "ftp://proxy", "file:///etc", "http://", "http://proxy:notaport"),
        *("http://proxy:99999", "http://proxy:0", "http://a b", "http://proxy/path", "://proxy", "http://[::1"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_what_names_no_proxy_is_an_error_that_names_the_variable(
    value: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same error comes for listings and files, without a possible password."""
    value = value.replace("://", f"://alice:{QUOTED}@", 1)
    monkeypatch.setenv(variable, value)
    store = WebDAVStore(Remote(NOWHERE, "u", "p"))
    for ask in (store.list, lambda: store.read_range(entry(), 0, 1)):
        with pytest.raises(errors.RemoteError, match=variable) as raised:
            ask()
        assert "s3sam" not in str(raised.value)


# Which servers are asked directly.


@pytest.mark.parametrize(
    ("host", "excluded", "direct"),
    [
        ("127.0.0.1", "localhost,127.0.0.1,::1", True),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("127.0.0.1", "128.0.0.0/8", False),
        ("127.0.0.1", "localhost", False),
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        ("127.0.0.1:8081", "127.0.0.1:8080", False),
        ("127.0.0.1", "127.0.0.1:80", True),
        ("10.1.2.3", "10.1.2.3/99, fd00::/8 , 10.0.0.0/8", True),
        ("10.1.2.3", "3", False),
        ("10.1.2.3", ".3", False),
        ("10.1.2.3", "10.1.2.4/30", False),
        ("10.1.2.3", "10.1.2.1/30", True),
        ("[::1]", "::1", True),
        ("[::1]", "[::1]", True),
        ("[::1]:81", "[::1]:81", True),
        ("[::1]:82", "[::1]:81", False),
        ("[::1]", "0:0:0:0:0:0:0:1", True),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "[fd00::]/8", True),
        ("[fe80::5]", "fd00::/8", False),
        ("[::1]", "127.0.0.0/8", False),
        ("cloud.example.org", "example.org", True),
        ("cloud.example.org", ".example.org", True),
        ("cloud.example.org", "*.example.org", True),
        ("cloud.EXAMPLE.org.", "Example.ORG.", True),
        ("example.org", "example.org", True),
        ("example.org", ".example.org", True),
        ("badexample.org", "example.org", False),
        ("example.org.evil", "example.org", False),
        ("cloud.example.org", "cloud.example.org:80", True),
        ("cloud.example.org", "cloud.example.org:443", False),
        ("cloud.example.org", "a b\tcloud.example.org", True),
        ("cloud.example.org", "http://cloud.example.org", True),
        ("cloud.example.org", "https://cloud.example.org", False),
        ("cloud.example.org", "all://cloud.example.org", True),
        ("cloud.example.org", "*", True),
        ("cloud.example.org", "a, *", True),
        ("127.0.0.1", "*", True),
        ("cloud.example.org", ",,. ,:,/,[,]:,*x", False),
        ("cloud.example.org", "", False),
    ],
)
def test_no_proxy_names_servers_to_ask_directly(host: str, excluded: str, direct: bool) -> None:  # noqa: FBT001  a parameter
    """It takes names with subdomains, addresses, networks and ports; other entries are ignored."""
    for variable in ("no_proxy", "NO_PROXY"):
        assert (proxy_for(f"http://{host}/dav", {"http_proxy": PROXY, variable: excluded}) is None) == direct


# For real.


def read_all(store: WebDAVStore) -> dict[str, bytes]:
    """List and read all files."""
    return {entry.key: store.read(entry.key) for entry in store.list()}


@pytest.fixture
def behind(fault: FaultServer) -> FaultServer:
    """A proxy that answers by itself, for a server that does not exist."""
    (fault.root / "dav").mkdir()
    (fault.root / "dav" / "a.bin").write_bytes(b"1")
    return fault


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://{}", "{}", "http://{}/", f"http://alice:{QUOTED}@{{}}"])
def test_listings_and_files_go_through_the_proxy(
    behind: FaultServer, monkeypatch: pytest.MonkeyPatch, variable: str, form: str
) -> None:
    """Both send the same credentials to the proxy."""
    monkeypatch.setenv(variable, form.format(f"127.0.0.1:{behind.port}"))
    assert read_all(WebDAVStore(Remote(NOWHERE, behind.user, behind.password))) == {"a.bin": b"1"}
    asked = behind.requests()
    assert {request.method for request in asked} == {"PROPFIND", "GET"}
    assert len({request.headers.get("proxy-authorization") for request in asked}) == 1
    assert ("proxy-authorization" in asked[0].headers) == ("alice" in form)


@pytest.mark.parametrize("excluded", ["127.0.0.1", "[::1],127.0.0.0/8", "*", "fd00::/8 127.0.0.1"])
def test_listings_and_files_go_past_the_proxy(
    behind: FaultServer, monkeypatch: pytest.MonkeyPatch, excluded: str
) -> None:
    """Both go past it if ``NO_PROXY`` has the server."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", excluded)
        store = WebDAVStore(Remote(f"{behind.url}dav", behind.user, behind.password))
        assert read_all(store) == {"a.bin": b"1"}


def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, patience: Patience) -> None:
    """The error has the name of its variable, and no password."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://alice:{QUOTED}@{address}")
        store = WebDAVStore(Remote(NOWHERE, "u", "p"), patience=patience)
        for ask in (store.list, lambda: store.read_range(entry(), 0, 1)):
            with pytest.raises(errors.ServerUnavailableError, match=f"http://{address} of http_proxy") as raised:
                ask()
            assert "s3sam" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(407, errors.PermissionDeniedError), (502, errors.ServerUnavailableError)]
)
def test_an_error_of_the_proxy_is_told_as_such(
    behind: FaultServer, monkeypatch: pytest.MonkeyPatch, patience: Patience, status: int, kind: type[Exception]
) -> None:
    """Without encryption, a proxy's answer looks like the server's."""
    behind.always("*", Fault(status=status), method="*")
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{behind.port}")
    store = WebDAVStore(Remote(NOWHERE, "u", "p"), patience=patience)
    for ask in (store.list, lambda: store.read_range(entry(), 0, 1)):
        with pytest.raises(kind, match="of HTTP_PROXY"):
            ask()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and the certificates that it has signed."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def encrypted(tmp_path: Path, certificates: Certificates) -> Iterator[Remote]:
    """A server with a certificate, and a file."""
    with FaultServer(tmp_path / "root", certificate=certificates.valid) as server:
        (server.root / "a.bin").write_bytes(b"1")
        yield Remote(server.url, server.user, server.password, ca_file=certificates.authority)


def port_of(remote: Remote) -> int:
    """The port of a remote on this machine."""
    return int(remote.origin.rpartition(":")[2])


def test_an_encrypted_server_is_reached_by_connect(encrypted: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both use CONNECT, and the proxy never gets the storage's password."""
    with TunnelProxy("connect", port_of(encrypted), credentials=("alice", PASSWORD)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://alice:{QUOTED}@{proxy.address}")
        assert read_all(WebDAVStore(encrypted)) == {"a.bin": b"1"}
        assert proxy.asked == [f"CONNECT 127.0.0.1:{port_of(encrypted)}"] * 2


def test_a_proxy_may_be_encrypted_itself(
    encrypted: Remote, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is verified by the same authorities as the server."""
    with TunnelProxy("connect", port_of(encrypted), certificate=certificates.valid) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://{proxy.address}")
        assert read_all(WebDAVStore(encrypted)) == {"a.bin": b"1"}
        assert proxy.asked == [f"CONNECT 127.0.0.1:{port_of(encrypted)}"] * 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (407, (errors.PermissionDeniedError, 1)),
        (403, (errors.PermissionDeniedError, 1)),
        (401, (errors.PermissionDeniedError, 1)),
        (503, (errors.ServerUnavailableError, 3)),
    ],
)
def test_a_proxy_that_opens_no_way_is_told(
    encrypted: Remote,
    monkeypatch: pytest.MonkeyPatch,
    patience: Patience,
    status: int,
    expected: tuple[type[Exception], int],
) -> None:
    """A lasting refusal is raised at once, and the storage's credentials do not count as refused."""
    kind, tries = expected
    with TunnelProxy("connect", port_of(encrypted), status=status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
        store = WebDAVStore(encrypted, patience=patience)
        for ask in (lambda: store.stat("a.bin"), lambda: store.read_range(entry(), 0, 1)):
            proxy.asked.clear()
            with pytest.raises(kind, match="of HTTPS_PROXY") as raised:
                ask()
            assert not isinstance(raised.value, errors.AuthenticationError)
            assert len(proxy.asked) == tries
    monkeypatch.delenv("HTTPS_PROXY")
    assert read_all(WebDAVStore(encrypted)) == {"a.bin": b"1"}
    assert store.transport.credentials.refusals.turn() == "go"


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("credentials", [None, ("alice", PASSWORD)])
def test_a_socks_proxy_leads_to_the_server(
    behind: FaultServer, monkeypatch: pytest.MonkeyPatch, scheme: str, credentials: tuple[str, str] | None
) -> None:
    """The proxy resolves names, for listings and for files."""
    need(NO_SOCKS)
    with TunnelProxy("socks5", behind.port, credentials=credentials) as proxy:
        userinfo = f"alice:{QUOTED}@" if credentials else ""
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{userinfo}{proxy.address}")
        assert read_all(WebDAVStore(Remote(NOWHERE, behind.user, behind.password))) == {"a.bin": b"1"}
        assert proxy.asked == ["storage.invalid:80"] * 2


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_a_proxy_that_does_not_speak_socks_is_told(monkeypatch: pytest.MonkeyPatch, answer: bytes | None) -> None:
    """An HTTP proxy given as ``socks5://`` is named; a silent one is not waited for without end."""
    need(NO_SOCKS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    if answer is None:
                        held.append(connection)
                        continue
                    connection.recv(4)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{listening.getsockname()[1]}")
        store = WebDAVStore(Remote(NOWHERE, "u", "p"), patience=Patience(tries=1, connect_s=0.5))
        with pytest.raises(errors.RemoteError, match="of ALL_PROXY does not speak SOCKS 5"):
            store.list()
        with pytest.raises(errors.ServerError, match="ALL_PROXY"):
            store.read_range(entry(), 0, 1)
        listening.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def test_a_socks_proxy_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, since listings need it even if curl does not."""
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    store = WebDAVStore(Remote(NOWHERE, "u", "p"))
    for ask in (store.list, lambda: store.read_range(entry(), 0, 1)):
        with pytest.raises(errors.RemoteError, match=r"ALL_PROXY.*ai4os-data\[socks\]"):
            ask()
