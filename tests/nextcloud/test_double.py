"""What the double of Nextcloud does beyond the recordings: cookies, costs, throttle, and what is asked to go wrong."""

from __future__ import annotations

import io
import json
import re
import socket
import time
import warnings
import zipfile
from http.client import IncompleteRead
from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.nextcloud import NextcloudServer
from tests.nextcloud.replay import Answered, Client
from tests.nextcloud.table import FILES, UPLOADS, Ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nextcloud.settings import VersionName

_CONTENT = b"one tulip" * 100
_TO_TULIP = {"Destination": f"https://cloud.example{FILES}/tulip.bin"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NextcloudServer]:
    """A server for many tests."""
    with NextcloudServer(tmp_path_factory.mktemp("nextcloud") / "files") as server:
        yield server


@pytest.fixture
def server(shared: NextcloudServer) -> NextcloudServer:
    """A server with four small files, where nothing goes wrong."""
    shared.clear_faults()
    shared.set_costs(request_cost_s=0, member_cost_s=0, hashing_cost_s=0)
    shared.open_again()
    shared.forget()
    (shared.root / "sub").mkdir(exist_ok=True)
    for name in ("a.bin", "b.bin", "c.bin", "sub/d.bin"):
        (shared.root / name).write_bytes(_CONTENT)
    return shared


@pytest.fixture
def client(server: NextcloudServer) -> Client:
    """A client without cookies."""
    return Client(server)


# --- sessions and passwords


def test_a_session_is_begun_once_and_its_cookies_are_for_http_only(client: Client) -> None:
    """Who brings the cookies back gets no new ones."""
    first = client.send(Ask("GET", f"{FILES}/a.bin"))
    cookies = _cookies(first)
    assert {"oc_sessionPassphrase", "nc_sameSiteCookielax", "nc_sameSiteCookiestrict"} < cookies.keys()
    assert any(re.fullmatch("oc[0-9a-z]{10}", name) for name in cookies)
    assert all(morsel["httponly"] for morsel in cookies.values())
    again = client.send(Ask("GET", f"{FILES}/a.bin", {"Cookie": _cookie(first)}))
    assert "set-cookie" not in again.headers


def test_the_password_is_hashed_only_without_cookies(server: NextcloudServer, client: Client) -> None:
    """A client that loses its cookies pays for each request."""
    server.set_costs(hashing_cost_s=0.4)
    cookie = _cookie(client.send(Ask("GET", f"{FILES}/a.bin")))
    assert _seconds(client, Ask("GET", f"{FILES}/a.bin")) > 0.4
    assert _seconds(client, Ask("GET", f"{FILES}/a.bin", {"Cookie": cookie})) < 0.3


def test_eleven_wrong_passwords_shut_out_the_right_one_too(server: NextcloudServer, client: Client) -> None:
    """The answer is then 429 without Retry-After, and nothing on the way there says so."""
    cookie = _cookie(client.send(Ask("GET", f"{FILES}/a.bin")))
    wrong = [client.send(Ask("GET", f"{FILES}/a.bin", login="wrong")).status for _ in range(12)]
    assert wrong == [401] * 11 + [429]
    right = client.send(Ask("GET", f"{FILES}/a.bin"))
    assert right.status == 429
    assert "retry-after" not in right.headers
    assert client.send(Ask("GET", f"{FILES}/a.bin", {"Cookie": cookie})).status == 200
    server.open_again()
    assert client.send(Ask("GET", f"{FILES}/a.bin")).status == 200


def test_no_password_at_all_does_not_count_as_a_wrong_one(client: Client) -> None:
    """A client that waits to be asked for its password is shut out by nobody."""
    assert {client.send(Ask("GET", f"{FILES}/a.bin", login="none")).status for _ in range(12)} == {401}
    assert client.send(Ask("GET", f"{FILES}/a.bin")).status == 200


def test_credentials_expire_in_a_session_too(server: NextcloudServer, client: Client) -> None:
    """They are refused at once, and what they are changed to is right from then on."""
    cookie = {"Cookie": _cookie(client.send(Ask("GET", f"{FILES}/a.bin")))}
    server.credentials_expire()
    assert client.send(Ask("GET", f"{FILES}/a.bin", cookie)).status == 401
    server.change_password("another: ö€#")
    assert client.send(Ask("GET", f"{FILES}/a.bin", cookie)).status == 200


# --- costs


def test_an_archive_costs_by_the_member_and_a_get_by_the_request(server: NextcloudServer, client: Client) -> None:
    """As measured on a real server, many files in one archive are several times faster than one by one."""
    server.set_costs(request_cost_s=0.03, member_cost_s=0.003)
    names = ["a.bin", "b.bin", "c.bin", "sub/d.bin"] * 10
    alone_s = sum(_seconds(client, Ask("GET", f"{FILES}/{name}")) for name in names[:10]) * 4
    together_s = _seconds(client, _archive_of(names))
    assert together_s >= 0.03 + 40 * 0.003
    assert alone_s >= 40 * 0.03
    assert alone_s / together_s > 3


def test_requests_wait_for_each_other_when_one_is_served_at_a_time(tmp_path: Path) -> None:
    """More connections are then no faster."""
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with NextcloudServer(tmp_path, request_cost_s=0.05, concurrency=1) as server:
        request = f"GET {FILES}/a.bin HTTP/1.1\r\nConnection: close\r\nAuthorization: {server.authorization}\r\n\r\n"
        started_s = time.monotonic()
        links = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        for link in links:
            link.sendall(request.encode())
        for link in links:
            with link, link.makefile("rb") as answer:
                assert answer.read().startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - started_s >= 4 * 0.05


# --- names, ETags, what is kept


@pytest.mark.parametrize("name", ["x.part", "x.FilePart"])
def test_partial_names_are_refused_since_30(server: NextcloudServer, client: Client, name: str) -> None:
    """Neither a PUT nor a MOVE nor a MKCOL makes them, so they are no names for temporary files."""
    moved = {"Destination": f"https://cloud.example{FILES}/{name}"}
    asks = [
        Ask("PUT", f"{FILES}/{name}", body=b"x"),
        Ask("MKCOL", f"{FILES}/{name}"),
        Ask("MOVE", f"{FILES}/a.bin", moved),
    ]
    assert [client.send(ask).status for ask in asks] == [400] * 3
    assert not (server.root / name).exists()


def test_partial_names_are_taken_by_29(tmp_path: Path) -> None:
    """Only ``.htaccess`` was refused then."""
    with NextcloudServer(tmp_path, version="29") as server:
        assert Client(server).send(Ask("PUT", f"{FILES}/x.part", body=b"x")).status == 201


@pytest.mark.parametrize("version", ["34", "29"])
@pytest.mark.parametrize("name", ["two\nlines", "n" * 251, "back\\slash"], ids=["newline", "251 bytes", "backslash"])
def test_names_that_the_database_cannot_hold_are_refused(tmp_path: Path, version: VersionName, name: str) -> None:
    """By each version, with a 400."""
    with NextcloudServer(tmp_path, version=version) as server:
        client = Client(server)
        path = f"{FILES}/{quote(name)}"
        assert [client.send(Ask(method, path, body=b"x")).status for method in ("PUT", "MKCOL")] == [400, 400]


def test_a_name_that_is_no_utf_8_is_read_as_latin_1(server: NextcloudServer, client: Client) -> None:
    """As sabre reads it; seen on a live 32 and 29."""
    assert client.send(Ask("PUT", f"{FILES}/Gr%F6n.txt", body=b"x")).status == 201
    assert (server.root / "Grön.txt").read_bytes() == b"x"


@pytest.mark.parametrize("depth", ["0", "1", "infinity"])
def test_what_is_missing_at_the_older_endpoint_is_a_207_with_an_error_since_33(
    client: Client, tmp_path: Path, depth: str
) -> None:
    """The answer is streamed: the status has left, and a multistatus was begun, before it is known."""
    ask = Ask("PROPFIND", "/remote.php/webdav/none", {"Depth": depth})
    answered = client.send(ask)
    assert answered.status == 207
    assert b"<s:exception>Sabre\\DAV\\Exception\\NotFound</s:exception>" in answered.body
    assert not answered.body.rstrip().endswith(b">")
    assert client.send(Ask("PROPFIND", f"{FILES}/none", {"Depth": depth})).status == 404
    with NextcloudServer(tmp_path, version="29") as older:
        assert Client(older).send(ask).status == 404


def test_a_folder_has_another_etag_when_anything_below_it_changes(server: NextcloudServer, client: Client) -> None:
    """Through the server or behind its back, in the folder or further below; and only then."""
    seen = [_etag(client, "")]
    client.send(Ask("PUT", f"{FILES}/sub/e.bin", body=b"x"))
    seen.append(_etag(client, ""))
    (server.root / "sub" / "e.bin").write_bytes(b"y")
    seen.append(_etag(client, ""))
    client.send(Ask("DELETE", f"{FILES}/sub/d.bin"))
    seen.append(_etag(client, ""))
    assert len(set(seen)) == 4
    assert _etag(client, "") == seen[-1]


def test_a_file_keeps_its_etag_through_a_move_and_a_restart(server: NextcloudServer, client: Client) -> None:
    """One that was put there by hand gets another when it is written again, even at the same size."""
    put = client.send(Ask("PUT", f"{FILES}/tulip.bin", body=_CONTENT)).headers["etag"]
    client.send(Ask("MOVE", f"{FILES}/tulip.bin", {"Destination": f"https://cloud.example{FILES}/sub/rose.bin"}))
    by_hand = _etag(client, "a.bin")
    server.stop()
    server.start()
    assert _etag(client, "sub/rose.bin") == put
    assert _etag(client, "a.bin") == by_hand
    (server.root / "a.bin").write_bytes(_CONTENT[::-1])
    assert _etag(client, "a.bin") != by_hand


def test_an_upload_that_breaks_off_leaves_the_old_file(server: NextcloudServer, client: Client) -> None:
    """And nothing of the new one, under whatever name."""
    before = sorted(path.name for path in server.root.iterdir())
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        head = f"PUT {FILES}/a.bin HTTP/1.1\r\nAuthorization: {server.authorization}\r\nContent-Length: 1000000\r\n\r\n"
        link.sendall(head.encode() + b"x" * 1000)
    assert client.send(Ask("GET", f"{FILES}/a.bin")).body == _CONTENT
    deadline_s = time.monotonic() + 5
    while sorted(path.name for path in server.root.iterdir()) != before:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_names_do_not_leave_the_folder(server: NextcloudServer, client: Client) -> None:
    """What lies beside the folder is not found."""
    (server.root.parent / "secret.bin").write_bytes(b"secret")
    assert client.send(Ask("GET", f"{FILES}/../secret.bin")).status == 404
    assert client.send(Ask("GET", f"{FILES}/sub/%2e%2e/%2e%2e/secret.bin")).status == 404
    assert client.send(_archive_of(["../secret.bin"])).status == 404


def test_requests_are_told_with_what_they_asked_for(server: NextcloudServer, client: Client) -> None:
    """The query of an archive is told too, and the password is not."""
    client.send(_archive_of(["a.bin"]))
    (request,) = server.requests()
    assert (request.method, request.path, request.status) == ("GET", f"{FILES}/", 200)
    assert request.headers[":query"] == "accept=zip&files=%5B%22a.bin%22%5D"
    assert "authorization" not in request.headers


def test_listings_are_compressed_for_those_who_take_it(client: Client) -> None:
    """So the length of an answer is not the length of the listing."""
    depth = {"Depth": "1", "Accept-Encoding": "gzip"}
    answered = client.send(Ask("PROPFIND", f"{FILES}/", depth))
    assert answered.headers["content-encoding"] == "gzip"
    assert answered.body.startswith(b"\x1f\x8b")


@pytest.mark.parametrize("asked", ["tree?accept=zip&files=%5B%22d%22%5D", "tree/d?accept=zip"])
def test_an_archive_of_a_folder_has_the_members_of_a_real_one(
    server: NextcloudServer, client: Client, asked: str
) -> None:
    """As 32.0.1 answered: each folder before what is in it, and some names with the folder's path taken out."""
    for name in ("b.txt", "a.txt", "zero.bin", "b\u00fc.txt", f"{server.user}/files/tree/b.txt", "empty/gone"):
        path = server.root / "tree" / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "zero.bin" else b"hello")
    (server.root / "tree" / "d" / "empty" / "gone").unlink()
    answered = client.send(Ask("GET", f"{FILES}/{asked}"))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(io.BytesIO(answered.body)) as archive:
        found = [(member.filename, member.flag_bits, member.file_size) for member in archive.infolist()]
        assert archive.testzip() is None
    above = f"d/{server.user}/"
    folders = [("d/", 0, 0), ("d/a.txt", 8, 5), (above, 0, 0), (f"{above}files/", 0, 0), ("d/", 0, 0)]
    files = [
        ("d/b.txt", 8, 5),
        ("d/b.txt", 8, 5),
        ("d/b\u00fc.txt", 0x808, 5),
        ("d/empty/", 0, 0),
        ("d/zero.bin", 8, 0),
    ]
    assert found == folders + files


# --- what goes wrong when it is asked to


def test_an_archive_is_cut_off_and_still_a_200(server: NextcloudServer, client: Client) -> None:
    """Its chunks come to their regular end, or the connection breaks; the next one is whole."""
    server.truncate_next_archive(1000)
    cut = client.send(_archive_of(["a.bin", "b.bin"]))
    assert (cut.status, len(cut.body)) == (200, 1000)
    server.truncate_next_archive(1000, hangs_up=True)
    with pytest.raises(IncompleteRead):
        client.send(_archive_of(["a.bin", "b.bin"]))
    assert _unzipped(client.send(_archive_of(["a.bin", "b.bin"]))) == {"a.bin": _CONTENT, "b.bin": _CONTENT}


def test_a_member_is_damaged_or_absent(server: NextcloudServer, client: Client) -> None:
    """The CRC tells of the one, only the names of the other; both only as often as asked for."""
    server.corrupt_member("b.bin")
    with zipfile.ZipFile(io.BytesIO(client.send(_archive_of(["a.bin", "b.bin"])).body)) as archive:
        assert archive.testzip() == "b.bin"
    server.drop_member("b.bin")
    assert _unzipped(client.send(_archive_of(["a.bin", "b.bin"]))) == {"a.bin": _CONTENT}
    assert _unzipped(client.send(_archive_of(["a.bin", "b.bin"]))) == {"a.bin": _CONTENT, "b.bin": _CONTENT}


def test_the_next_requests_are_answered_as_the_test_wants(server: NextcloudServer, client: Client) -> None:
    """Only those that it means, and only so many."""
    server.answer_next(2, 503, headers={"Retry-After": "1"}, body="busy", method="GET", within="b.bin")
    statuses = [client.send(Ask("GET", f"{FILES}/{name}")).status for name in ("a.bin", "b.bin", "b.bin", "b.bin")]
    assert statuses == [200, 503, 503, 200]


def test_a_stored_file_is_damaged_and_its_hash_shows_it(server: NextcloudServer, client: Client) -> None:
    """The hash is of what was stored, not of what was sent."""
    sound = client.send(Ask("PUT", f"{FILES}/tulip.bin", {"X-Hash": "sha256"}, _CONTENT)).headers["x-hash-sha256"]
    server.corrupt_next_put()
    damaged = client.send(Ask("PUT", f"{FILES}/tulip.bin", {"X-Hash": "sha256"}, _CONTENT)).headers["x-hash-sha256"]
    assert damaged != sound
    assert (server.root / "tulip.bin").read_bytes() != _CONTENT


def test_the_final_move_fails_although_it_succeeds(server: NextcloudServer, client: Client) -> None:
    """A 504, and the file is there: who asks again finds no upload any more."""
    _upload(client)
    server.fail_next_final_move(504)
    assert client.send(_FINAL_MOVE).status == 504
    assert (server.root / "tulip.bin").read_bytes() == _CONTENT
    assert client.send(_FINAL_MOVE).status == 404


def test_the_final_move_goes_on_behind_a_timeout(server: NextcloudServer, client: Client) -> None:
    """Until it is through, the upload is locked."""
    _upload(client)
    (server.root / "tulip.bin").unlink(missing_ok=True)
    server.fail_next_final_move(504, completes_after_s=0.3)
    assert client.send(_FINAL_MOVE).status == 504
    assert not (server.root / "tulip.bin").exists()
    assert client.send(_FINAL_MOVE).status == 423
    deadline_s = time.monotonic() + 5
    while client.send(Ask("HEAD", f"{FILES}/tulip.bin")).status != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert (server.root / "tulip.bin").read_bytes() == _CONTENT


def test_the_final_move_is_refused_and_can_be_asked_for_again(server: NextcloudServer, client: Client) -> None:
    """A 423 that changed nothing."""
    _upload(client)
    server.fail_next_final_move(423, completes_after_s=None)
    assert [client.send(_FINAL_MOVE).status for _ in range(2)] == [
        423,
        204 if (server.root / "tulip.bin").exists() else 201,
    ]


_FINAL_MOVE = Ask("MOVE", f"{UPLOADS}/t/.file", {**_TO_TULIP, "OC-Total-Length": str(len(_CONTENT))})


def _upload(client: Client) -> None:
    for ask in (
        Ask("MKCOL", f"{UPLOADS}/t", _TO_TULIP),
        Ask("PUT", f"{UPLOADS}/t/10", _TO_TULIP, _CONTENT[500:]),
        Ask("PUT", f"{UPLOADS}/t/2", _TO_TULIP, _CONTENT[:500]),
    ):
        assert client.send(ask).status == 201


def _archive_of(names: list[str]) -> Ask:
    return Ask("GET", f"{FILES}/?accept=zip&files={quote(json.dumps(names), safe='')}")


def _unzipped(answered: Answered) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(answered.body)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _cookies(answered: Answered) -> dict[str, Morsel[str]]:
    lines = answered.headers["set-cookie"].splitlines()
    return {name: morsel for line in lines for name, morsel in SimpleCookie(line).items()}


def _cookie(answered: Answered) -> str:
    return "; ".join(f"{name}={morsel.value}" for name, morsel in _cookies(answered).items())


def _etag(client: Client, key: str) -> str:
    body = b'<d:propfind xmlns:d="DAV:"><d:prop><d:getetag/></d:prop></d:propfind>'
    answered = client.send(Ask("PROPFIND", f"{FILES}/{key}", {"Depth": "0"}, body))
    found = re.search("<d:getetag>&quot;([0-9a-f]+)&quot;<", answered.body.decode())
    assert found is not None
    return f'"{found[1]}"'


def _seconds(client: Client, ask: Ask) -> float:
    started_s = time.monotonic()
    assert client.send(ask).status == 200
    return time.monotonic() - started_s
