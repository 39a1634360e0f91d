"""A WebDAV server that answers well, until it is told to answer as no healthy server would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from multiprocessing.connection import Client
from typing import TYPE_CHECKING, Any, Literal

from tests.support.servers.base import PASSWORD, USER, Server
from tests.support.servers.children import serve_in_python
from tests.support.servers.journal import Request, read_journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.servers.children import Child


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One wrong answer: the healthy answer to the request, with what is given here changed.

    Attributes:
        status: The status. One of 300 or more drops the healthy body.
        headers: Added to or put in the place of the headers; None takes one out. A Content-Length may lie.
        body: Put in the place of the body.
        ignore_range: The whole file with 200, whatever range was asked for.
        gzip: The body compressed, though nobody asked for it.
        chunked: The body in chunks, without its length.
        cut_after_bytes: The connection is closed after so many bytes of the body.
        drop: The connection is closed before any answer.
        reset: It is closed with RST, not with FIN.
        close: It is closed after the answer, without a word about it.
        stall_s: How long nothing comes, before the first byte or after ``stall_after_bytes`` of the body.
        stall_after_bytes: Where the stall is; None for before the first byte.
        rewrite: What the file holds from the next answer on.
        unanswered: The request is carried out, and the connection is closed before any answer.
        kept_bytes: Of what a ``PUT`` brings, no more is stored.
        flipped: One bit of what a ``PUT`` brings is stored the other way round.
        hrefs: More files, of 5 bytes, that a ``PROPFIND`` lists under just these addresses.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    ignore_range: bool = False
    gzip: bool = False
    chunked: bool = False
    cut_after_bytes: int | None = None
    drop: bool = False
    reset: bool = False
    close: bool = False
    stall_s: float = 0.0
    stall_after_bytes: int | None = None
    rewrite: bytes | None = None
    unanswered: bool = False
    kept_bytes: int | None = None
    flipped: bool = False
    hrefs: tuple[str, ...] = ()


LOGIN_PAGE = Fault(
    status=200,
    headers={"Content-Type": "text/html; charset=utf-8", "ETag": None},
    body=b"<!DOCTYPE html><html><body><form action='/login'>Log in</form></body></html>",
)
BROKEN_XML = Fault(body=b'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:"><d:response><d:href>/a.b')
HREFS_ELSEWHERE = Fault(
    hrefs=(
        "/../../etc/passwd",
        "../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/a/..%2f..%2fetc/passwd",
        "http://elsewhere.example/stolen.bin",
        "//elsewhere.example/stolen.bin",
        "file:///etc/passwd",
    )
)
"""What a ``PROPFIND`` of a hostile server lists."""


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What a server does with every request.

    Attributes:
        depth_infinity: Listed, refused with 403, or taken for 1 without a word.
        etags: Strong ones of the content, weak ones, those of whole seconds and size (which a rewrite of
            the same size within a second does not change), or none.
        absolute_hrefs: Whether listings name host and port.
        latency_s: How long each request waits before it is answered.
        expired: Whether every request is answered 401.
        public: Whether whoever asks is let in, as on the host that a signed address leads to.
        authorization: The ``Authorization`` that alone is accepted, in the place of those from the start.
    """

    depth_infinity: Literal["listed", "refused", "clamped"] = "listed"
    etags: Literal["strong", "weak", "seconds", "none"] = "strong"
    absolute_hrefs: bool = False
    latency_s: float = 0.0
    expired: bool = False
    public: bool = False
    authorization: str | None = None


class FaultServer(Server):
    """A small server of ours, with faults by script. Its requests show the credentials that came.

    Args:
        root: The folder that it serves; made if it is absent.
        user: The only user that may come in, by basic authentication, or by the token as a bearer.
        password: Its password.
        token: Its token, if it has one.
        certificate: The files of a certificate and its key, to be asked by ``https``.
        habits: The fields of ``Habits``.
    """

    name = "fault"

    def __init__(
        self,
        root: Path,
        *,
        user: str = USER,
        password: str = PASSWORD,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        **habits: Any,
    ) -> None:
        super().__init__(root, user=user, password=password)
        self.token = token
        self._certificate = certificate
        self._habits = Habits(**habits)

    @property
    def url(self) -> str:
        """The root of what is served, with a slash at its end."""
        return super().url.replace("http:", "https:") if self._certificate else super().url

    def script(self, path: str, *faults: Fault, method: str = "GET") -> None:
        """Answer the next requests to a path with these faults, one each; then be healthy again.

        Args:
            path: Without a slash at its begin or end; ``"*"`` is any path that has no script of its own.
            faults: In the order of the answers.
            method: The method they are for; ``"*"`` for any.
        """
        self._tell("script", method, path.strip("/"), faults)

    def always(self, path: str, fault: Fault, method: str = "GET") -> None:
        """Answer every request to a path with this fault, when its script has run out, until ``heal``."""
        self._tell("always", method, path.strip("/"), fault)

    def heal(self) -> None:
        """Forget every fault, and let the user in again."""
        self._tell("heal")
        self.change(expired=False)

    def change(self, **habits: Any) -> None:
        """Have other habits from now on."""
        self._habits = replace(self._habits, **habits)
        self._tell("change", self._habits)

    def credentials_expire(self) -> None:
        """Answer everything with 401 from now on."""
        self.change(expired=True)

    def connections(self) -> int:
        """Return how many connections were opened since the start."""
        count: int = self._tell("connections")
        return count

    def most_in_flight(self) -> int:
        """Return the highest number of requests that were answered at the same time since the start."""
        count: int = self._tell("most_in_flight")
        return count

    def _tell(self, *words: object) -> Any:
        with Client(control_address(self._workspace)) as control:
            control.send(words)
            return control.recv()

    def _launch(self) -> Child:
        order = {
            "root": str(self.root.resolve()),
            "port": self.port,
            "accepted": [self.authorization, *([f"Bearer {self.token}"] if self.token else [])],
            "certificate": [str(path) for path in self._certificate] if self._certificate else None,
        }
        child, self.port = serve_in_python("tests.support.servers.fault_process", order, self._workspace)
        self.change()
        return child

    def _all_requests(self) -> list[Request]:
        return read_journal(self._workspace / "requests.jsonl")


def control_address(workspace: Path) -> str:
    """Return where the process is told what to do: no path, which could be too long for a socket."""
    return f"\0{workspace.name}"
