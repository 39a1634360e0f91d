"""The double of Nextcloud answers as our table says, and the table says what a real Nextcloud answered."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.nextcloud import NextcloudServer
from tests.nextcloud.recordings import (
    HOST,
    Exchange,
    around_resources,
    missing_recordings,
    normalised,
    read_exchanges,
    resources,
)
from tests.nextcloud.replay import Answered, Client, fill
from tests.nextcloud.shapes import Seen
from tests.nextcloud.table import ROWS, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.nextcloud.settings import VersionName

_VERSIONS: list[VersionName] = ["34", "29"]
_ROW_IDS = [f"{place:02}-{row.name}" for place, row in enumerate(ROWS)]
_WRITTEN_BYTES = 5_303_108  # by the recorded requests, below the root


@pytest.fixture(scope="module", params=_VERSIONS)
def version(request: pytest.FixtureRequest) -> VersionName:
    """A version that there are recordings of."""
    name: VersionName = request.param
    return name


@pytest.fixture(scope="module")
def answers(version: VersionName, tmp_path_factory: pytest.TempPathFactory) -> list[Answered]:
    """What the double answers to the requests of the table, in order."""
    with NextcloudServer(tmp_path_factory.mktemp("table"), version=version) as server:
        return Client(server).replay(ROWS)


@pytest.fixture(scope="module")
def exchanges(version: VersionName) -> list[Exchange]:
    """What was recorded, where it is at hand."""
    if (missing := missing_recordings()) is not None:
        # They are no package that could be installed; who names their folder wants them compared.
        (pytest.fail if os.environ.get("AI4OS_DATA_NEXTCLOUD_RECORDINGS") else pytest.skip)(missing)
    return read_exchanges(version)


@pytest.fixture(scope="module")
def replayed(
    version: VersionName, exchanges: list[Exchange], tmp_path_factory: pytest.TempPathFactory
) -> list[Answered]:
    """What the double answers to the recorded requests, in order, when it holds what the real one held."""
    root = tmp_path_factory.mktemp("recordings")
    bodies = [exchange.response["body"] for exchange in exchanges if exchange.name == "user-quota"]
    used = re.search(r"<d:quota-used-bytes>(\d+)<", bodies[0])
    assert used is not None
    with (root / "already there.bin").open("wb") as file:
        file.truncate(int(used[1]) - _WRITTEN_BYTES)
    with NextcloudServer(root, version=version) as server:
        return list(_replay(server, exchanges))


@pytest.mark.parametrize("place", range(len(ROWS)), ids=_ROW_IDS)
def test_double_answers_as_the_table_says(version: VersionName, answers: list[Answered], place: int) -> None:
    """Status, reason, headers and the shape of the body are those of the row."""
    reply = ROWS[place].reply_of(version)
    answered = answers[place]
    headers = dict(reply.headers)
    if reply.streamed:
        del headers["content-length"]
        headers["transfer-encoding"] = "chunked"
    _check_head(reply, headers, answered.status, answered.reason, answered.headers)
    reply.body.check(_seen(answered))


def test_table_covers_every_recorded_exchange(exchanges: list[Exchange]) -> None:
    """No exchange is without its row, no row without its exchange, and the order is the same."""
    assert [row.name for row in ROWS] == [exchange.name for exchange in exchanges]


@pytest.mark.parametrize("place", range(len(ROWS)), ids=_ROW_IDS)
def test_table_agrees_with_the_recordings(version: VersionName, exchanges: list[Exchange], place: int) -> None:
    """A row asks what was asked, and says what was answered: no more headers, no fewer."""
    row, exchange = ROWS[place], exchanges[place]
    request = exchange.request
    before = [each.response["headers"] for each in exchanges[:place] if each.request["path"] == request["path"]]
    etag = next((headers["etag"] for headers in reversed(before) if "etag" in headers), "")
    assert request["method"] == row.ask.method
    assert request["path"] == row.ask.path
    assert request["headers"] == fill(row.ask.headers, HOST, etag)
    assert (
        Seen.recorded({"body": request["body"] or ""}).sha256
        == hashlib.sha256(row.ask.body * row.ask.times).hexdigest()
    )
    reply, response = row.reply_of(version), exchange.response
    _check_head(reply, reply.headers, response["status"], response["reason"], response["headers"])
    assert reply.headers.keys() == response["headers"].keys()
    reply.body.check(Seen.recorded(response))


@pytest.mark.parametrize("place", range(len(ROWS)), ids=_ROW_IDS)
def test_double_answers_as_the_real_one_did(exchanges: list[Exchange], replayed: list[Answered], place: int) -> None:
    """Replayed in order, every answer is the recorded one but for ids, times and ETags."""
    name, response, answered = exchanges[place].name, exchanges[place].response, replayed[place]
    assert (answered.status, answered.reason) == (response["status"], response["reason"])
    streamed = answered.headers.get("transfer-encoding") == "chunked"
    compressed = answered.status == 207  # the recorder let it be, so what it counted is smaller
    for header, value in response["headers"].items():
        if header == "content-length" and (streamed or compressed or name == "capabilities"):
            continue
        assert normalised(answered.headers[header]) == normalised(value), header
    seen = Seen.recorded(response)
    live = _seen(answered)
    if name == "capabilities":
        return  # the recording has parts of it, and the double others; the table has what matters
    if seen.text is not None and live.text is not None and answered.status == 207:
        assert around_resources(live.text).strip() == around_resources(seen.text).strip()
        assert resources(live.text) >= resources(seen.text)
        assert seen.partial or resources(live.text) == resources(seen.text)
    elif seen.text is not None:
        assert normalised(live.text or "") == normalised(seen.text)
    elif name == "get-multi-range":
        ours, theirs = (headers["content-type"][-16:].encode() for headers in (answered.headers, response["headers"]))
        assert hashlib.sha256(answered.body.replace(ours, theirs)).hexdigest() == seen.sha256
    else:
        assert live.size_bytes == seen.size_bytes
        if seen.entries is not None:
            assert live.entries == seen.entries
        elif not streamed:
            assert live.sha256 == seen.sha256


def _replay(server: NextcloudServer, exchanges: list[Exchange]) -> Iterator[Answered]:
    """Send what was recorded; bodies, logins and what came in between are from the table."""
    client = Client(server)
    ours = {HOST: f"127.0.0.1:{server.port}"}  # what stands for what is the real server's
    for row, exchange in zip(ROWS, exchanges, strict=True):
        client.prepare(row.before)
        request = exchange.request
        headers = {name: _translated(value, ours) for name, value in request["headers"].items()}
        answered = client.send(replace(row.ask, method=request["method"], path=request["path"]), headers=headers)
        for name in {"etag", "oc-etag"} & exchange.response["headers"].keys() & answered.headers.keys():
            ours[exchange.response["headers"][name]] = answered.headers[name]
        yield answered


def _translated(value: str, words: dict[str, str]) -> str:
    for word, translation in words.items():
        value = value.replace(word, translation)
    return value


def _seen(answered: Answered) -> Seen:
    return Seen.live(answered.body, answered.headers.get("content-type", ""))


def _check_head(reply: Reply, headers: Mapping[str, str], status: int, reason: str, seen: Mapping[str, str]) -> None:
    assert (status, reason) == (reply.status, reply.reason)
    for name, pattern in headers.items():
        assert re.fullmatch(pattern, seen[name]), f"{name}: {seen[name]}"
