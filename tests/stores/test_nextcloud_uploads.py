"""A Nextcloud confirms a file by its own hash; a large one goes in chunks, and resumes after a break."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores.capabilities import ChunkLimits
from ai4os_data.stores.nextcloud import NextcloudStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import Request

MIB = 1024 * 1024
SMALL = random.Random(1).randbytes(100_000)
LARGE = random.Random(2).randbytes(12 * MIB + 1)
"""Three chunks of 5 MiB, the last one short."""
KEY = "run #1/data 100%.bin"


def sha256(data: bytes) -> str:
    """The sha256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class Cloud:
    """A folder of its own on the double; files over 6 MiB go in chunks of 5."""

    def __init__(self, server: NextcloudServer, patience: Patience) -> None:
        self.server = server
        self.patience = patience
        self.folder = f"place-{uuid.uuid4().hex}"
        self.before: set[Path] = set()  # upload folders that are none of its business

    def store(self, url: str | None = None) -> NextcloudStore:
        """The store, as a newly started process opens it."""
        remote = Remote(url or self.server.url, self.server.user, self.server.password, vendor="nextcloud")
        store = NextcloudStore(remote, self.folder, patience=self.patience)
        store.single_put_bytes = 6 * MIB
        store.chunk_bytes = 5 * MIB
        return store

    def files(self) -> dict[str, bytes]:
        """The files that are really there."""
        top = self.server.root / self.folder
        return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    def server_bytes(self) -> int:
        """What all tests so far have left on the server."""
        return sum(path.stat().st_size for path in self.server.root.rglob("*") if path.is_file())

    def requests(self, method: str, within: str = "") -> list[Request]:
        """The requests with a method."""
        return [one for one in self.server.requests() if one.method == method and within in one.path]

    def chunks(self) -> list[str]:
        """The names of the chunks that were sent, in their order."""
        return sorted(one.path.rpartition("/")[2] for one in self.requests("PUT", "/uploads/") if one.status == 201)

    def uploads(self) -> list[Path]:
        """The upload folders that are on the server."""
        return [path for path in (self.server._workspace / "uploads").iterdir() if path not in self.before]


@pytest.fixture
def cloud(nextcloud: NextcloudServer, patience: Patience) -> Iterator[Cloud]:
    """An empty folder on the double, with nothing asked yet, and nothing left behind."""
    cloud = Cloud(nextcloud, patience)
    nextcloud.forget()
    cloud.before = set(cloud.uploads())  # of other tests, which have left theirs for the next try
    yield cloud
    nextcloud.clear_faults()
    nextcloud.set_quota(None)
    for path in cloud.uploads():
        for chunk in path.iterdir():
            chunk.unlink()
        path.rmdir()


# --- in one piece


def test_a_small_file_is_one_put_that_the_server_hashes(cloud: Cloud) -> None:
    """The server's hash comes with the answer, and no byte is read back."""
    assert cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL)) == "confirmed"
    assert cloud.files() == {KEY: SMALL}
    (put,) = cloud.requests("PUT")
    assert put.headers["x-hash"] == "sha256"
    assert cloud.requests("GET") == cloud.requests("PATCH") == []


def test_what_is_there_is_hashed_by_the_server_and_not_sent(cloud: Cloud) -> None:
    """A PATCH asks for the hash of what is there."""
    cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL))
    cloud.server.forget()
    assert cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL)) == "confirmed"
    assert cloud.requests("PUT") == cloud.requests("GET") == []
    assert len(cloud.requests("PATCH")) == 1


def test_a_put_whose_answer_is_lost_is_not_sent_again(cloud: Cloud) -> None:
    """The file is there: the server is asked for its hash."""
    cloud.server.lose_next_answers(method="PUT")
    assert cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL)) == "confirmed"
    assert len(cloud.requests("PUT")) == 1
    assert len(cloud.requests("PATCH")) == 1


@pytest.mark.parametrize("status", [423, 429, 502, 503, 504])
def test_a_put_that_is_put_off_comes_later(cloud: Cloud, status: int) -> None:
    """Each answer that passes by itself leads to another try."""
    cloud.server.answer_next(2, status, method="PUT")
    assert cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL)) == "confirmed"
    assert cloud.files() == {KEY: SMALL}
    assert len(cloud.requests("PUT")) == 3


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "chunked"])
def test_a_bit_that_the_server_flips_is_found_and_the_file_removed(cloud: Cloud, data: bytes) -> None:
    """The next try succeeds."""
    cloud.server.corrupt_next_put()
    with pytest.raises(errors.IntegrityError, match="other bytes"):
        cloud.store().write_confirmed(KEY, data, sha256(data))
    assert cloud.files() == {}
    assert cloud.store().write_confirmed(KEY, data, sha256(data)) == "confirmed"
    assert cloud.files() == {KEY: data}


def test_a_server_that_hashes_nothing_is_read_back(cloud: Cloud) -> None:
    """A proxy that lets no PATCH through has the same effect."""
    cloud.server.lose_next_answers(method="PUT")
    cloud.server.answer_next(1, 501, method="PATCH")
    assert cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL)) == "confirmed"
    assert len(cloud.requests("GET")) == 1


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "chunked"])
def test_a_full_quota_is_out_of_space(cloud: Cloud, data: bytes) -> None:
    """The error says that the quota is full, and no file is left."""
    cloud.server.set_quota(1000)
    with pytest.raises(errors.OutOfSpaceError) as raised:
        cloud.store().write_confirmed(KEY, data, sha256(data))
    assert raised.value.errno == 28
    assert cloud.files() == {}
    assert cloud.uploads() == []


# --- in chunks


def test_a_large_file_goes_in_chunks(cloud: Cloud, tmp_path: Path) -> None:
    """The headers are those of the recordings, and the server hashes the result."""
    local = tmp_path / "local.bin"
    local.write_bytes(LARGE)
    sent: list[int] = []
    assert cloud.store().write_confirmed(KEY, local, sha256(LARGE), on_bytes=sent.append) == "confirmed"
    assert cloud.files() == {KEY: LARGE}
    assert cloud.chunks() == ["00001", "00002", "00003"]
    assert sum(sent) == len(LARGE)
    (move,) = cloud.requests("MOVE")
    # The double may note a refused chunk of the test before only now.
    chunks = [one for one in cloud.requests("PUT") if cloud.folder in one.headers["destination"]]
    assert len(chunks) == 3
    for request in (move, *chunks):
        assert request.headers["oc-total-length"] == str(len(LARGE))
        assert request.headers["destination"].endswith(f"/{cloud.folder}/run%20%231/data%20100%25.bin")
    assert len(cloud.requests("PATCH")) == 1
    assert cloud.uploads() == []


@pytest.mark.parametrize("version", ["34", "29"])
def test_chunks_work_at_the_older_endpoint_too(
    version: str, request: pytest.FixtureRequest, patience: Patience
) -> None:
    """The address of the uploads follows from the user's name."""
    server = request.getfixturevalue("nextcloud" if version == "34" else "nextcloud_29")
    server.forget()
    cloud = Cloud(server, patience)
    assert cloud.store(server.legacy_url).write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.files() == {KEY: LARGE}
    assert len(cloud.chunks()) == 3


def test_the_server_says_how_large_chunks_may_be(cloud: Cloud) -> None:
    """What it says is kept to, and asked for once."""
    body = '{"ocs":{"data":{"capabilities":{"files":{"chunked_upload":{"max_size":7340032,"max_parallel_count":1}}}}}}'
    cloud.server.answer_next(1, 200, body=body, within="capabilities")
    store = cloud.store()
    store.chunk_bytes = 50 * MIB
    store.write_confirmed("a.bin", LARGE, sha256(LARGE))
    assert sorted(int(put.headers["content-length"]) for put in cloud.requests("PUT")) == [5 * MIB + 1, 7 * MIB]
    store.write_confirmed("b.bin", LARGE, sha256(LARGE))
    assert len(cloud.requests("GET")) == 1


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_where_it_does_not_say_so_chunks_work_all_the_same(cloud: Cloud, status: int) -> None:
    """A proxy may pass only DAV requests, or show a page."""
    cloud.server.answer_next(1, status, body="<html>", within="capabilities")
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert len(cloud.chunks()) == 3


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_an_account_without_chunked_uploads_gets_a_single_put(cloud: Cloud, status: int) -> None:
    """Whoever signs in with another name than the account's cannot know the address of the uploads."""
    cloud.server.answer_next(1, status, method="MKCOL", within="/uploads/")
    store = cloud.store()
    assert store.write_confirmed("a.bin", LARGE, sha256(LARGE)) == "confirmed"
    assert store.write_confirmed("b.bin", LARGE, sha256(LARGE)) == "confirmed"
    assert len(cloud.requests("PUT")) == 2
    assert len(cloud.requests("MKCOL", "/uploads/")) == 1


def test_chunks_that_were_refused_once_are_tried_again_when_one_piece_fails(cloud: Cloud) -> None:
    """A proxy has refused chunks by mistake, and takes no large bodies."""
    store = cloud.store()
    cloud.server.answer_next(1, 403, method="MKCOL", within="/uploads/")
    cloud.server.answer_next(1, 422, method="PUT")
    with pytest.raises(errors.ServerError, match="422"):
        store.write_confirmed("a.bin", LARGE, sha256(LARGE))
    assert store.write_confirmed("a.bin", LARGE, sha256(LARGE)) == "confirmed"
    assert len(cloud.requests("MKCOL", "/uploads/")) == 2
    assert cloud.requests("MOVE")


class Deaf:
    """A proxy that hides the question whether a body may come, until the ``with`` ends."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Let connections in."""
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more connections, and close the open ones."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._open += [client, server]
                self._start(self._relay, client, server)
                self._start(self._relay, server, client)

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece.replace(b"Expect: 100", b"Hidden: 100"))
            sink.shutdown(socket.SHUT_WR)


def test_chunks_do_not_wait_for_consent_that_never_comes(cloud: Cloud) -> None:
    """A gateway that swallows the question costs one second once, and not per chunk."""
    with Deaf(cloud.server.port) as deaf:
        store = cloud.store(cloud.server.url.replace(str(cloud.server.port), str(deaf.port)))
        for key in ("a.bin", "b.bin"):
            _write_once_there_is_room(cloud, store, key)
            asked = [one for one in cloud.requests("PUT", "/uploads/") if "hidden" in one.headers]
            assert bool(asked) == (key == "a.bin")
    store = cloud.store()
    for key in ("c.bin", "d.bin"):
        _write_once_there_is_room(cloud, store, key)
        assert any("expect" in one.headers for one in cloud.requests("PUT", "/uploads/")), "it answers, and is asked"


def test_a_server_that_has_room_is_not_asked_before_each_chunk(cloud: Cloud) -> None:
    """The question would cost a round trip per chunk."""
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert not any("expect" in one.headers for one in cloud.requests("PUT"))


def _write_once_there_is_room(cloud: Cloud, store: NextcloudStore, key: str) -> None:
    """Write a large file to a server that is full at first; the requests of the second try stay recorded."""
    cloud.server.set_quota(cloud.server_bytes() + 10_000)
    with pytest.raises(errors.OutOfSpaceError):
        store.write_confirmed(key, LARGE, sha256(LARGE))
    cloud.server.set_quota(None)
    cloud.server.forget()
    assert store.write_confirmed(key, LARGE, sha256(LARGE)) == "confirmed"


def _upload_and_die(cloud: Cloud) -> None:
    """Upload, in a process that ends after the second chunk has arrived."""
    store = cloud.store()
    seen = 0

    def count(size_bytes: int) -> None:
        nonlocal seen
        seen += size_bytes
        if seen > 10 * MIB:
            os._exit(9)

    store._server.chunk_limits = ChunkLimits(parallel=1)
    store.write_confirmed(KEY, LARGE, sha256(LARGE), on_bytes=count)


def test_a_killed_upload_goes_on_where_it_stopped(cloud: Cloud) -> None:
    """A new process finds the chunks that have arrived."""
    process = multiprocessing.get_context("fork").Process(target=_upload_and_die, args=(cloud,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert cloud.chunks() == ["00001", "00002"]
    cloud.server.forget()
    sent: list[int] = []
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE), on_bytes=sent.append) == "confirmed"
    assert cloud.chunks() == ["00003"]
    assert sum(sent) == 2 * MIB + 1
    assert cloud.files() == {KEY: LARGE}
    assert cloud.uploads() == []


def test_another_content_does_not_go_on_with_these_chunks(cloud: Cloud) -> None:
    """The name of an upload depends on the content too."""
    _fail_at(cloud, "/00002")
    other = LARGE[::-1]
    cloud.server.forget()
    cloud.store().write_confirmed(KEY, other, sha256(other))
    assert cloud.files() == {KEY: other}
    assert len(cloud.chunks()) == 3


@pytest.mark.parametrize("failed", ["/00003", "/.file"])
def test_smaller_chunks_of_an_earlier_try_are_not_joined_to_larger_ones(cloud: Cloud, failed: str) -> None:
    """After the server allows larger ones: those that are left are of another size, or one too many."""
    _fail_at(cloud, failed)
    store = cloud.store()
    store.chunk_bytes = 10 * MIB
    assert store.write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.files() == {KEY: LARGE}


@pytest.mark.parametrize("size", ["many", "-1", "9" * 5000, ""])
def test_chunks_of_no_size_are_sent_again(cloud: Cloud, size: str) -> None:
    """A listed size that is no number counts as missing."""
    _fail_at(cloud, "/00002")
    body = (
        '<?xml version="1.0"?><d:multistatus xmlns:d="DAV:"><d:response><d:href>/remote.php/dav/uploads/x/y/00001'
        f"</d:href><d:propstat><d:prop><d:getcontentlength>{size}</d:getcontentlength><d:resourcetype/></d:prop>"
        "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"
    )
    cloud.server.answer_next(1, 207, method="PROPFIND", within="/uploads/", body=body)
    cloud.server.forget()
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.files() == {KEY: LARGE}
    assert cloud.chunks() == ["00001", "00002", "00003"]


def _fail_at(cloud: Cloud, name: str) -> None:
    cloud.server.answer_next(1, 500, within=name)
    store = cloud.store()
    store._server.chunk_limits = ChunkLimits(parallel=1)  # else the server may still be at another chunk
    with pytest.raises(errors.ServerError):
        store.write_confirmed(KEY, LARGE, sha256(LARGE))
    cloud.server.clear_faults()
    assert len(cloud.uploads()) == 1, "what was sent waits for the next try"


@pytest.mark.parametrize("status", [423, 429, 502, 503, 504])
def test_a_chunk_that_is_put_off_comes_later(cloud: Cloud, status: int) -> None:
    """The other chunks are not sent again."""
    cloud.server.answer_next(1, status, method="PUT", within="/00002")
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.chunks() == ["00001", "00002", "00003"]


def test_a_chunk_whose_answer_is_lost_is_sent_again_alone(cloud: Cloud) -> None:
    """A lost answer costs one chunk, and not the upload."""
    cloud.server.lose_next_answers(method="PUT", within="/00002")
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.chunks() == ["00001", "00002", "00002", "00003"]


def test_an_upload_that_the_server_cleared_away_begins_anew(cloud: Cloud) -> None:
    """Nextcloud removes chunks after a day."""
    cloud.server.answer_next(1, 404, method="PUT", within="/00002")
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.files() == {KEY: LARGE}


@pytest.mark.parametrize("status", [504, 423])
@pytest.mark.parametrize("completes_after_s", [0.0, 0.3, None], ids=["done", "done-later", "never"])
def test_a_final_move_without_an_answer_is_looked_at(
    cloud: Cloud, status: int, completes_after_s: float | None
) -> None:
    """No chunk is sent again, whether it has succeeded, succeeds later, or has to be asked for once more."""
    cloud.server.fail_next_final_move(status, completes_after_s=completes_after_s)
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.files() == {KEY: LARGE}
    assert cloud.chunks() == ["00001", "00002", "00003"]
    if completes_after_s == 0.0:
        assert len(cloud.requests("MOVE")) == 1


def test_a_final_move_whose_answer_is_lost_is_looked_at(cloud: Cloud) -> None:
    """The destination has the file, so no chunk is sent again."""
    cloud.server.lose_next_answers(method="MOVE")
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert len(cloud.requests("MOVE")) == 1
    assert len(cloud.chunks()) == 3


def test_a_process_that_died_at_the_final_move_sends_nothing_again(cloud: Cloud) -> None:
    """Its successor finds the file, and has it hashed."""
    cloud.server.fail_next_final_move(504, completes_after_s=None)
    cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE))
    cloud.server.forget()
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.requests("PUT") == cloud.requests("MOVE") == []


def test_a_folder_that_is_gone_at_the_final_move_is_made_again(cloud: Cloud) -> None:
    """Somebody else has removed the folder during the upload."""
    store = cloud.store()
    store.make_folder("run #1")
    (cloud.server.root / cloud.folder / "run #1").rmdir()
    assert store.write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.files() == {KEY: LARGE}


@pytest.mark.parametrize("status", [400, 403])
def test_an_upload_without_hope_is_cleared_away(cloud: Cloud, status: int) -> None:
    """What does not pass by itself leaves no chunks behind."""
    cloud.server.answer_next(1, status, method="MOVE")
    with pytest.raises((errors.ProtocolError, errors.PermissionDeniedError)):
        cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE))
    assert cloud.uploads() == []
    assert cloud.files() == {}


def test_refused_credentials_are_one_request(cloud: Cloud) -> None:
    """One request per chunk would shut the address out."""
    remote = Remote(cloud.server.url, cloud.server.user, "wrong", vendor="nextcloud")
    store = NextcloudStore(remote, cloud.folder, patience=cloud.patience)
    store.single_put_bytes = 6 * MIB
    with pytest.raises(errors.AuthenticationError):
        store.write_confirmed(KEY, LARGE, sha256(LARGE))
    cloud.server.open_again()
    assert [one.status for one in cloud.server.requests()] == [401]


# --- a full server, and one that takes less at a time


def test_chunks_that_arrived_stay_while_the_server_is_full(cloud: Cloud) -> None:
    """The next try sends the rest alone."""
    store = cloud.store()
    store._server.chunk_limits = ChunkLimits(parallel=1)
    cloud.server.answer_next(1, 507, method="PUT", within="/00003")
    with pytest.raises(errors.OutOfSpaceError):
        store.write_confirmed(KEY, LARGE, sha256(LARGE))
    assert cloud.chunks() == ["00001", "00002"]
    cloud.server.forget()
    assert cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.chunks() == ["00003"]
    assert cloud.files() == {KEY: LARGE}
    assert cloud.uploads() == []


def test_a_full_server_is_asked_with_one_chunk(cloud: Cloud) -> None:
    """Once it was full: the others wait for the answer to the first one."""
    store = cloud.store()
    cloud.server.set_quota(cloud.server_bytes() + 10_000)
    sent: list[int] = []
    with pytest.raises(errors.OutOfSpaceError):
        store.write_confirmed(KEY, LARGE, sha256(LARGE))
    for _ in range(4):
        time.sleep(0.2)  # for what is in flight, and is given up
        cloud.server.forget()
        with pytest.raises(errors.OutOfSpaceError):
            store.write_confirmed(KEY, LARGE, sha256(LARGE), on_bytes=sent.append)
        assert len(cloud.requests("PUT")) == 1
    assert sent == [], "the server refuses the head, so that no byte follows"
    cloud.server.set_quota(None)
    assert store.write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"


def test_the_server_says_how_much_is_lacking(cloud: Cloud) -> None:
    """Its own words stand in the error, and no advice to empty a trash bin that does not count."""
    cloud.server.set_quota(cloud.server_bytes() + 10_000)
    with pytest.raises(errors.OutOfSpaceError, match=r"The server says: Insufficient space in /place-") as raised:
        cloud.store().write_confirmed(KEY, SMALL, sha256(SMALL))
    assert "trash bin does not count against the quota" in str(raised.value)


@pytest.mark.parametrize("version", ["34", "29"])
def test_a_folder_that_a_full_account_cannot_have_is_out_of_space(
    version: str, request: pytest.FixtureRequest, patience: Patience
) -> None:
    """Version 29 says 403, as to whoever may not write: then the quota is asked for."""
    server = request.getfixturevalue("nextcloud" if version == "34" else "nextcloud_29")
    cloud = Cloud(server, patience)
    store = cloud.store()
    store.write("first", b"1")
    server.set_quota(1)
    try:
        with pytest.raises(errors.OutOfSpaceError, match="quota is used up"):
            store.write_confirmed(KEY, SMALL, sha256(SMALL))
        server.set_quota(None)
        server.answer_next(1, 403, method="MKCOL")
        with pytest.raises(errors.PermissionDeniedError):
            store.write_confirmed(KEY, SMALL, sha256(SMALL))
    finally:
        server.set_quota(None)


def test_an_upload_that_is_given_up_leaves_nothing(cloud: Cloud) -> None:
    """Whoever knows that it will not be resumed says so."""
    store = cloud.store()
    store._server.chunk_limits = ChunkLimits(parallel=1)
    cloud.server.answer_next(1, 507, method="PUT", within="/00002")
    with pytest.raises(errors.OutOfSpaceError):
        store.write_confirmed(KEY, LARGE, sha256(LARGE))
    assert len(cloud.uploads()) == 1
    store.abandon(KEY, len(LARGE), sha256(LARGE))
    assert cloud.uploads() == []
    store.abandon(KEY, len(LARGE), sha256(LARGE))  # there is nothing more, and nothing is said


def test_a_proxy_that_limits_bodies_gets_smaller_ones(cloud: Cloud) -> None:
    """A single PUT becomes chunks, and chunks become smaller, once for all files."""
    store = cloud.store()
    store.single_put_bytes, store.chunk_bytes = 64 * MIB, 32 * MIB
    cloud.server.answer_next(1, 413, method="PUT")
    assert store.write_confirmed(KEY, LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.chunks() == ["00001", "00002", "00003"]
    cloud.server.forget()
    assert store.write_confirmed("b.bin", LARGE, sha256(LARGE)) == "confirmed"
    assert cloud.chunks() == ["00001", "00002", "00003"]
    assert cloud.files() == {KEY: LARGE, "b.bin": LARGE}


def test_a_body_that_cannot_be_smaller_is_refused(cloud: Cloud) -> None:
    """The error names what limits the size."""
    cloud.server.answer_next(9, 413, method="PUT")
    with pytest.raises(errors.ServerError, match=r"\(413\): it limits the body of a request \(client_max_body_size"):
        cloud.store().write_confirmed(KEY, LARGE, sha256(LARGE))
