"""A client that sends requests just as they are written, one after the other."""

from __future__ import annotations

import base64
import contextlib
import http.client
from typing import TYPE_CHECKING, NamedTuple

from tests.nextcloud.table import Ask, Row, Switch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.nextcloud.double import NextcloudServer


class Answered(NamedTuple):
    """What came back; the headers by their lower-case names, those that came several times one a line."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Sends what it is told to a server, with no header of its own but the login."""

    def __init__(self, server: NextcloudServer) -> None:
        self._server = server

    def send(self, ask: Ask, *, headers: Mapping[str, str] | None = None) -> Answered:
        """Send a request, with these headers instead of its own, and read the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(ask.method, ask.path, skip_accept_encoding=True)
            for name, value in (ask.headers if headers is None else headers).items():
                connection.putheader(name, value)
            if ask.login != "none":
                password = self._server.password if ask.login == "right" else "not this one"
                pair = base64.b64encode(f"{self._server.user}:{password}".encode())
                connection.putheader("Authorization", b"Basic " + pair)
            body = ask.body * ask.times
            if body or ask.method == "PUT":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            with connection.getresponse() as response:
                fields = {name.lower(): "\n".join(response.headers.get_all(name, [])) for name in response.headers}
                return Answered(response.status, response.reason, fields, response.read())

    def prepare(self, steps: Iterable[Ask | Switch]) -> None:
        """Do what comes before a row."""
        for step in steps:
            if isinstance(step, Ask):
                filled = fill(step.headers, host=f"127.0.0.1:{self._server.port}")
                assert self.send(step, headers=filled).status == 201, step
            elif step.what == "quota_bytes":
                self._server.set_quota(step.to)
            else:
                self._server.set_maintenance(bool(step.to))

    def replay(self, rows: Iterable[Row]) -> list[Answered]:
        """Send the requests of rows, each after what comes before it."""
        etags: dict[str, str] = {}
        answers = []
        for row in rows:
            self.prepare(row.before)
            ask = row.ask
            etag = etags.get(ask.path, "")
            answered = self.send(ask, headers=fill(ask.headers, f"127.0.0.1:{self._server.port}", etag))
            etags[ask.path] = answered.headers.get("etag", etag)
            answers.append(answered)
        return answers


def fill(headers: Mapping[str, str], host: str, etag: str = "") -> dict[str, str]:
    """Return the headers of a row for a server, and for an ETag that it has told."""
    return {name: value.replace("{host}", host).replace("{etag}", etag) for name, value in headers.items()}
