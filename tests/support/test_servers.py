"""The servers that the other tests trust: each starts, lets its user in, serves, tells, stops, and dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import pytest

from ai4os_data.cli.embedded import EmbeddedServer
from tests.support.servers import (
    BROKEN_XML,
    HREFS_ELSEWHERE,
    LOGIN_PAGE,
    ApacheServer,
    Fault,
    FaultServer,
    RcloneMount,
    RcloneServer,
    ShapedProxy,
    WsgidavServer,
    make_certificates,
    missing_apache,
    missing_fuse,
    need,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server

NAMES = [
    "a b.txt",
    "hash#1",
    "percent%41",
    "100%",
    "question?x",
    "a+b",
    "a&b",
    "quo'te\"d",
    "semi;colon",
    "caf\u00e9",
    "cafe\u0301",
    "sub/deep/c.bin",
]
SERVERS = [WsgidavServer, ApacheServer, RcloneServer, FaultServer]


class Reply(NamedTuple):
    """What came back, with lower-case header names."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    server: Server | EmbeddedServer | ShapedProxy,
    method: str,
    path: str,
    authorization: str | None = None,
    **headers: str,
) -> Reply:
    """Send one request on a connection of its own, with header names in Python's spelling."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if authorization is None and not isinstance(server, (EmbeddedServer, ShapedProxy)):
        authorization = server.authorization
    if authorization:
        fields["Authorization"] = authorization
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method, quote(path), headers=fields)
        answer = connection.getresponse()
        lower = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, lower, answer.read())


def listed(reply: Reply) -> list[str]:
    """Return the paths that a multistatus names, sorted."""
    hrefs = [element.text or "" for element in ET.fromstring(reply.body).iter("{DAV:}href")]  # noqa: S314  ours
    return sorted(unquote(urlsplit(href).path) for href in hrefs)


def fill(root: Path) -> None:
    """Put a small file of each name into a folder."""
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"content of {name}".encode())


@pytest.fixture(scope="module", params=SERVERS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each kind of server, with those files in its folder."""
    if request.param is ApacheServer:
        need(missing_apache())
    root = tmp_path_factory.mktemp("served") / "root"
    fill(root)
    with request.param(root) as running:
        running.forget()
        yield running


@pytest.fixture
def fault(tmp_path: Path) -> Iterator[FaultServer]:
    """Return a fault server with one file of ten bytes."""
    with FaultServer(tmp_path / "root") as running:
        (running.root / "a.bin").write_bytes(b"0123456789")
        yield running


def test_every_name_is_served_and_told_as_it_is(server: Server) -> None:
    """A test that finds a twin or a 404 has found it in the library, not in a server."""
    server.forget()
    bodies = [ask(server, "GET", f"/{name}").body.decode() for name in NAMES]
    assert bodies == [f"content of {name}" for name in NAMES]
    assert [(request.method, request.path) for request in server.requests()] == [("GET", f"/{n}") for n in NAMES]


def test_only_its_user_comes_in(server: Server) -> None:
    """Neither nobody nor a wrong password is let in."""
    wrong = type(server)(server.root, password="wrong")
    assert ask(server, "GET", "/a+b", "").status == 401
    assert ask(server, "GET", "/a+b", wrong.authorization).status == 401


def test_a_range_is_served_alone(server: Server) -> None:
    """Ranges work on every server, so that a resume can be tested on it."""
    reply = ask(server, "GET", "/a+b", Range="bytes=3-6")
    assert (reply.status, reply.body, reply.headers["content-range"]) == (206, b"tent", "bytes 3-6/14")
    rest = ask(server, "GET", "/a+b", Range="bytes=11-")
    assert (rest.status, rest.body, rest.headers["content-range"]) == (206, b"a+b", "bytes 11-13/14")


def test_another_version_is_served_whole(server: Server) -> None:
    """If-Range with another ETag gives 200 and all of it."""
    reply = ask(server, "GET", "/a+b", Range="bytes=3-6", If_Range='"another"')
    assert (reply.status, reply.body) == (200, b"content of a+b")


def test_a_depth_of_one_lists_the_folder(server: Server) -> None:
    """The listing holds the folder itself, its files and, with a slash, its folders."""
    reply = ask(server, "PROPFIND", "/", Depth="1")
    members = {name for name in NAMES if "/" not in name}
    assert reply.status == 207
    assert set(listed(reply)) >= {"/", "/sub/", *(f"/{name}" for name in members)}
    assert "/sub/deep/c.bin" not in listed(reply)


def test_a_depth_of_infinity_is_answered_as_the_server_is_known_to(server: Server) -> None:
    """Apache as it ships refuses; the others list everything."""
    reply = ask(server, "PROPFIND", "/", Depth="infinity")
    if isinstance(server, ApacheServer):
        assert reply.status == 403
    else:
        assert reply.status == 207
        assert "/sub/deep/c.bin" in listed(reply)


def test_what_is_put_into_the_folder_is_served_at_once(server: Server) -> None:
    """No server caches what a test changes behind its back."""
    (server.root / "late").write_bytes(b"1")
    assert "/late" in listed(ask(server, "PROPFIND", "/", Depth="1"))
    (server.root / "late").write_bytes(b"22")
    assert ask(server, "GET", "/late").body == b"22"
    (server.root / "late").unlink()
    assert ask(server, "GET", "/late").status == 404


def test_requests_are_told_with_what_the_server_logs(server: Server) -> None:
    """All but rclone tell the status and the headers, but for the credentials, which only ours tells."""
    server.forget()
    ask(server, "GET", "/hash#1", Range="bytes=0-1", If_Range='"other"')
    ask(server, "PROPFIND", "/sub/", Depth="0")
    get, propfind = server.requests()
    assert (get.method, get.path) == ("GET", "/hash#1")
    if isinstance(server, RcloneServer):
        assert (get.status, get.headers, propfind.path) == (0, {}, "/sub/")
    else:
        assert (get.status, get.headers["range"], get.headers["if-range"]) == (200, "bytes=0-1", '"other"')
        assert (propfind.status, propfind.path, propfind.headers["depth"]) == (207, "/sub/", "0")
        assert ("authorization" in get.headers) == isinstance(server, FaultServer)


def test_a_request_is_told_as_soon_as_it_is_answered(server: Server) -> None:
    """A test that counts requests never comes before the log, though some servers log after they answer."""
    (server.root / "larger").write_bytes(bytes(300_000))
    for count in range(1, 21):
        server.forget()
        for _ in range(count):
            ask(server, "GET", "/larger")
        assert [request.path for request in server.requests()] == ["/larger"] * count


def test_a_server_that_stopped_refuses_and_starts_again_where_it_was(server: Server) -> None:
    """The port stays, for the tests of a server that goes away for a while."""
    url = server.url
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "GET", "/a+b")
    server.start()
    assert server.url == url
    assert ask(server, "GET", "/a+b").body == b"content of a+b"


def test_apache_lists_everything_when_told_to(tmp_path: Path) -> None:
    """As in an installation that sets DavDepthInfinity."""
    need(missing_apache())
    fill(tmp_path / "root")
    with ApacheServer(tmp_path / "root", depth_infinity=True) as server:
        assert "/sub/deep/c.bin" in listed(ask(server, "PROPFIND", "/", Depth="infinity"))


def test_wsgidav_waits_as_long_as_it_is_told_to(tmp_path: Path) -> None:
    """The latency is that of each request, and many wait at the same time."""
    with WsgidavServer(tmp_path / "root", latency_s=0.1) as server:
        begin = time.monotonic()
        threads = [threading.Thread(target=ask, args=(server, "GET", "/none")) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.1 <= time.monotonic() - begin < 1.0


def test_the_embedded_server_serves_and_frees_its_port(tmp_path: Path) -> None:
    """In this process, as in the demo."""
    with EmbeddedServer(tmp_path / "root", user="alice", password="sesame") as server:
        (server.root / "a").write_bytes(b"1")
        assert ask(server, "GET", "/a", "Basic YWxpY2U6c2VzYW1l").body == b"1"
        assert ask(server, "GET", "/", "Basic YWxpY2U6c2VzYW1l").status == 403
    with pytest.raises(ConnectionRefusedError):
        ask(server, "GET", "/a")


def test_the_journal_of_the_embedded_server_has_no_credentials(tmp_path: Path) -> None:
    """It has each request by the time its answer arrives."""
    with WsgidavServer(tmp_path / "root") as server:
        (server.root / "a").write_bytes(b"1")
        assert ask(server, "GET", "/a").body == b"1"
        assert ask(server, "GET", "/").status == 403
        assert [(request.path, request.status) for request in server.requests()] == [("/a", 200), ("/", 403)]
        assert not any("authorization" in request.headers for request in server.requests())


def test_the_embedded_server_starts_again_though_somebody_was_connected(tmp_path: Path) -> None:
    """What is left of a connection does not hold its port."""
    with EmbeddedServer(tmp_path / "root", user="alice", password="sesame") as server:
        (server.root / "a").write_bytes(b"1")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.request("GET", "/a", headers={"Authorization": "Basic YWxpY2U6c2VzYW1l"})
            connection.getresponse().read()
            server.stop()
        server.start()
        assert ask(server, "GET", "/a", "Basic YWxpY2U6c2VzYW1l").body == b"1"


# The mount.


def test_the_mount_is_known_by_its_source_and_gone_at_the_end(tmp_path: Path) -> None:
    """What is written through it is on the server when the file is closed."""
    need(missing_fuse())
    with WsgidavServer(tmp_path / "root") as server:
        fill(server.root)
        with RcloneMount(server.url, server.user, server.password, tmp_path / "mount") as mount:
            assert (mount.source() or "").startswith("rshare")
            assert (mount.path / "cafe\u0301").read_text() == "content of cafe\u0301"
            (mount.path / "new").write_bytes(b"1")
            assert (server.root / "new").read_bytes() == b"1"
        assert mount.source() is None
        assert not any(mount.path.iterdir())


def test_a_mount_without_its_process_is_dead_and_goes_away_at_the_end(tmp_path: Path) -> None:
    """As when a sidecar is killed: errno 107, until somebody unmounts it."""
    need(missing_fuse())
    with WsgidavServer(tmp_path / "root") as server:
        fill(server.root)
        mount = RcloneMount(server.url, server.user, server.password, tmp_path / "mount", remote_path="sub")
        with mount:
            assert (mount.source() or "").endswith(":sub")
            mount.child.kill()
            with pytest.raises(OSError, match="not connected"):
                list(mount.path.iterdir())
        assert mount.source() is None


# What no healthy server answers.


@pytest.mark.parametrize(
    ("spoilt", "status", "headers", "body"),
    [
        (Fault(status=503, headers={"Retry-After": "2"}), 503, {"retry-after": "2"}, b""),
        (Fault(status=301, headers={"Location": "/b"}), 301, {"location": "/b"}, b""),
        (Fault(ignore_range=True), 200, {"content-range": None}, b"0123456789"),
        (Fault(headers={"Content-Range": "bytes 0-2/10"}), 206, {"content-range": "bytes 0-2/10"}, b"234"),
        (Fault(body=b""), 206, {"content-length": "0"}, b""),
        (LOGIN_PAGE, 200, {"content-type": "text/html; charset=utf-8", "etag": None}, LOGIN_PAGE.body),
        (Fault(headers={"ETag": None}), 206, {"etag": None}, b"234"),
        (Fault(headers={"ETag": 'W/"1"'}), 206, {"etag": 'W/"1"'}, b"234"),
        (Fault(chunked=True), 206, {"transfer-encoding": "chunked", "content-length": None}, b"234"),
    ],
)
def test_one_answer_is_spoilt_and_the_next_is_healthy(
    fault: FaultServer, spoilt: Fault, status: int, headers: dict[str, str | None], body: bytes
) -> None:
    """A script is used up, one fault for each request to its path."""
    fault.script("a.bin", spoilt)
    reply = ask(fault, "GET", "/a.bin", Range="bytes=2-4")
    assert (reply.status, reply.body) == (status, body)
    assert {name: reply.headers.get(name) for name in headers} == headers
    assert ask(fault, "GET", "/a.bin", Range="bytes=2-4").body == b"234"


@pytest.mark.parametrize(
    ("spoilt", "error"),
    [
        (Fault(cut_after_bytes=3), http.client.IncompleteRead),
        (Fault(cut_after_bytes=3, chunked=True), http.client.IncompleteRead),
        (Fault(cut_after_bytes=3, reset=True), ConnectionResetError),
        (Fault(drop=True), http.client.RemoteDisconnected),
        (Fault(drop=True, reset=True), ConnectionResetError),
    ],
)
def test_a_connection_breaks_as_the_script_says(fault: FaultServer, spoilt: Fault, error: type[Exception]) -> None:
    """An end and a reset are two things to a client."""
    fault.script("*", spoilt)
    with pytest.raises(error):
        ask(fault, "GET", "/a.bin")


def test_a_stall_lasts_as_long_as_it_says(fault: FaultServer) -> None:
    """Before the first byte, or after some of them."""
    fault.script("a.bin", Fault(stall_s=0.2), Fault(stall_s=0.2, stall_after_bytes=3))
    for _ in range(2):
        begin = time.monotonic()
        assert ask(fault, "GET", "/a.bin").body == b"0123456789"
        assert 0.2 <= time.monotonic() - begin < 1.0


def test_a_file_changes_between_two_requests(fault: FaultServer) -> None:
    """A resume that sends If-Range is told so, and gets the new version whole."""
    fault.script("a.bin", Fault(rewrite=b"9876543210"))
    before = ask(fault, "GET", "/a.bin")
    after = ask(fault, "GET", "/a.bin", Range="bytes=5-", If_Range=before.headers["etag"])
    assert (before.body, after.status, after.body) == (b"0123456789", 200, b"9876543210")


def test_a_listing_can_be_broken_hostile_or_clamped(fault: FaultServer) -> None:
    """Faults for PROPFIND have their own scripts, and habits stay until they change."""
    (fault.root / "sub").mkdir()
    (fault.root / "sub" / "b").touch()
    fault.script("", BROKEN_XML, HREFS_ELSEWHERE, method="PROPFIND")
    with pytest.raises(ET.ParseError):
        listed(ask(fault, "PROPFIND", "/", Depth="1"))
    assert "/../../etc/passwd" in listed(ask(fault, "PROPFIND", "/", Depth="1"))
    fault.change(depth_infinity="clamped")
    assert listed(ask(fault, "PROPFIND", "/", Depth="infinity")) == ["/", "/a.bin", "/sub/"]
    fault.change(depth_infinity="refused")
    assert ask(fault, "PROPFIND", "/", Depth="infinity").status == 403


def test_credentials_expire_and_come_back(fault: FaultServer) -> None:
    """And a fault that lasts is forgotten by healing."""
    fault.credentials_expire()
    assert [ask(fault, "GET", "/a.bin").status for _ in range(2)] == [401, 401]
    fault.heal()
    fault.always("a.bin", Fault(status=423))
    assert [ask(fault, "GET", "/a.bin").status for _ in range(2)] == [423, 423]
    fault.heal()
    assert ask(fault, "GET", "/a.bin").status == 200


def test_etags_are_of_the_kind_that_is_asked_for(fault: FaultServer) -> None:
    """Of whole seconds and size, as nginx's, is the kind that misses a rewrite."""
    tags = []
    for kind in ("strong", "weak", "none", "seconds"):
        fault.change(etags=kind)
        tags.append(ask(fault, "GET", "/a.bin").headers.get("etag"))
    assert tags[0] is not None
    assert tags[1] == f"W/{tags[0]}"
    assert tags[2] is None
    status = (fault.root / "a.bin").stat()
    (fault.root / "a.bin").write_bytes(b"9876543210")
    os.utime(fault.root / "a.bin", (status.st_atime, status.st_mtime))
    assert ask(fault, "GET", "/a.bin").headers["etag"] == tags[3]


def test_requests_and_connections_at_once_are_counted(fault: FaultServer) -> None:
    """So that a test can see how many a client really has."""
    fault.change(latency_s=0.2)
    threads = [threading.Thread(target=ask, args=(fault, "GET", "/a.bin")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (fault.connections(), fault.most_in_flight(), len(fault.requests())) == (8, 8, 8)


def test_a_certificate_is_as_good_as_it_is(tmp_path: Path) -> None:
    """Ours is valid for those who trust our authority; the expired one and another host's are not."""
    certificates = make_certificates(tmp_path)
    for certificate, problem in [
        (certificates.valid, None),
        (certificates.expired, "expired"),
        (certificates.of_another_host, "not valid for '127.0.0.1'"),
    ]:
        with FaultServer(tmp_path / "root", certificate=certificate) as server:
            assert server.url.startswith("https:")
            trusting = ssl.create_default_context(cafile=certificates.authority)
            with pytest.raises(ssl.SSLError, match=problem) if problem else contextlib.nullcontext():
                greet(server.port, trusting)
            with pytest.raises(ssl.SSLError, match="unable to get local issuer"):
                greet(server.port, ssl.create_default_context())


def greet(port: int, context: ssl.SSLContext) -> None:
    """Ask for something over TLS, without credentials."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as safe,
    ):
        safe.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert safe.recv(12) == b"HTTP/1.1 401"


# The proxy.


def test_a_distance_costs_round_trips_and_no_throughput(tmp_path: Path) -> None:
    """One round trip a request, one more a connection, and a large file as fast as ever."""
    with (
        WsgidavServer(tmp_path / "root") as server,
        ShapedProxy("127.0.0.1", server.port, rtt_s=0.05) as proxy,
    ):
        (server.root / "big").write_bytes(bytes(64 << 20))
        begin = time.monotonic()
        assert ask(proxy, "GET", "/none", server.authorization).status == 404
        assert 0.1 <= time.monotonic() - begin < 0.3
        begin = time.monotonic()
        assert len(ask(proxy, "GET", "/big", server.authorization).body) == 64 << 20
        assert time.monotonic() - begin < 2.0  # waiting for each piece of 64 KiB would take 50 s
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
        with contextlib.closing(connection):
            durations_s = [timed_get(connection, server.authorization) for _ in range(11)]
        assert 0.05 <= median(durations_s[1:]) < 0.08


def timed_get(connection: http.client.HTTPConnection, authorization: str) -> float:
    """Return how many seconds a small answer takes on an open connection."""
    begin = time.monotonic()
    connection.request("GET", "/none", headers={"Authorization": authorization})
    connection.getresponse().read()
    return time.monotonic() - begin


def test_all_connections_share_the_rate(tmp_path: Path) -> None:
    """Two of them at 80 Mbit/s carry 2 x 2 MB in some 0.4 s."""
    with (
        WsgidavServer(tmp_path / "root") as server,
        ShapedProxy("127.0.0.1", server.port, rate_bit_s=80e6) as proxy,
    ):
        (server.root / "big").write_bytes(bytes(2_000_000))
        threads = [threading.Thread(target=ask, args=(proxy, "GET", "/big", server.authorization)) for _ in range(2)]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.4 <= time.monotonic() - begin < 1.0


# What is missing.


def test_what_is_missing_skips_here_and_fails_where_all_has_to_be_there() -> None:
    """By its name either way."""
    need(None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install fuse3"):
        need("apt-get install fuse3", {})
    with pytest.raises(pytest.fail.Exception, match="apt-get install fuse3"):
        need("apt-get install fuse3", {"AI4OS_DATA_REQUIRE_SERVERS": "1"})


# The end.

_OWNER = """
import json, sys, threading
from contextlib import ExitStack
from pathlib import Path
from tests.support.servers import *

folder = Path(sys.argv[1])
with ExitStack() as stack:
    kinds = [WsgidavServer, FaultServer, RcloneServer] + [ApacheServer] * (missing_apache() is None)
    running = [stack.enter_context(kind(folder / "root")) for kind in kinds]
    ports = [server.port for server in running]
    ports.append(stack.enter_context(ShapedProxy("127.0.0.1", ports[0])).port)
    if missing_fuse() is None:
        first = running[0]
        stack.enter_context(RcloneMount(first.url, first.user, first.password, folder / "mount"))
    print(json.dumps(ports), flush=True)
    threading.Event().wait()
"""


def test_nothing_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed by SIGKILL it leaves no server, no mount, no process and no folder of theirs."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)},
    )
    assert owner.stdout is not None
    with owner.stdout:
        ports = json.loads(owner.stdout.readline())
    assert len(processes_about(tmp_path)) > len(ports)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (processes_about(tmp_path) or any(temporary.iterdir())):
        time.sleep(0.02)
    assert processes_about(tmp_path) == []
    assert not any(temporary.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)


def processes_about(folder: Path) -> list[str]:
    """Command lines of all processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_text(errors="replace")
            if str(folder) in command:
                found.append(command.replace("\0", " "))
    return found
