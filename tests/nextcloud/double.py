"""The double of Nextcloud, as a test holds it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.nextcloud.settings import Settings, VersionName
from tests.support.servers.base import PASSWORD, USER, Server
from tests.support.servers.children import serve_in_python
from tests.support.servers.journal import Request, read_journal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers.children import Child


class NextcloudServer(Server):
    """A server that answers as Nextcloud does, in a process of its own.

    The query of a request stands in its ``headers`` as ``:query``. What is set on it, by the methods below,
    holds through a ``stop`` and ``start``; what was asked to go wrong does not, and its sessions end.

    Args:
        root: The folder of the user's files; made if it is absent. Tests may change it directly.
        user: The only user that may come in.
        password: Its password, which does as a bearer token too.
        version: The version that it answers like: 34.0.1 or 29.0.1.
        request_cost_s: What each request takes.
        member_cost_s: What each member of an archive takes, on top of it.
        hashing_cost_s: What a request takes that brings the password but not the cookies.
        concurrency: How many requests it works on at a time; None for all.
        quota_bytes: What the user's files may take; None for all there is.
    """

    name = "nextcloud"

    def __init__(
        self,
        root: Path,
        *,
        user: str = USER,
        password: str = PASSWORD,
        version: VersionName = "34",
        request_cost_s: float = 0.0,
        member_cost_s: float = 0.0,
        hashing_cost_s: float = 0.0,
        concurrency: int | None = None,
        quota_bytes: int | None = None,
    ) -> None:
        super().__init__(root, user=user, password=password)
        self.settings = Settings(
            user=user,
            password=password,
            version=version,
            request_cost_s=request_cost_s,
            member_cost_s=member_cost_s,
            hashing_cost_s=hashing_cost_s,
            concurrency=concurrency,
            quota_bytes=quota_bytes,
        )
        self._control = f"/control/{secrets.token_hex(16)}"

    @property
    def origin(self) -> str:
        """The server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The user's files, with a slash at its end."""
        return f"{self.origin}/remote.php/dav/files/{quote(self.user)}/"

    @property
    def legacy_url(self) -> str:
        """The user's files at the older endpoint."""
        return f"{self.origin}/remote.php/webdav/"

    @property
    def uploads_url(self) -> str:
        """The user's chunked uploads."""
        return f"{self.origin}/remote.php/dav/uploads/{quote(self.user)}/"

    # --- what an administrator does

    def set_costs(
        self,
        *,
        request_cost_s: float | None = None,
        member_cost_s: float | None = None,
        hashing_cost_s: float | None = None,
    ) -> None:
        """Change what things take; None leaves it as it is."""
        costs = {"request_cost_s": request_cost_s, "member_cost_s": member_cost_s, "hashing_cost_s": hashing_cost_s}
        self._set(**{name: value for name, value in costs.items() if value is not None})

    def set_quota(self, quota_bytes: int | None) -> None:
        """Change what the user's files may take; what is there already stays."""
        self._set(quota_bytes=quota_bytes)

    def set_maintenance(self, on: bool) -> None:  # noqa: FBT001  it is the whole sentence
        """Begin or end the maintenance mode: 503 for all."""
        self._set(maintenance=on)

    def change_password(self, password: str) -> None:
        """Accept only this one from now on; sessions end."""
        self.password = password
        self._set(password=password, expired=False)
        self.end_sessions()

    def credentials_expire(self) -> None:
        """Accept no password from now on, until it is changed; sessions end."""
        self._set(expired=True)
        self.end_sessions()

    def end_sessions(self) -> None:
        """Know no cookie any more."""
        self._order({"end_sessions": True})

    def open_again(self) -> None:
        """End the time in which wrong passwords shut out everybody."""
        self._order({"open_again": True})

    # --- what goes wrong

    def answer_next(
        self,
        count: int,
        status: int,
        *,
        headers: dict[str, str] | None = None,
        body: str = "",
        method: str | None = None,
        within: str = "",
    ) -> None:
        """Answer the next requests like this, before anyone looks at them.

        Args:
            count: How many.
            status: With which status.
            headers: With which headers.
            body: With which body.
            method: Only those with this method.
            within: Only those with this in their path, percent-decoded.
        """
        self._fault(
            "answer", count=count, status=status, headers=headers or {}, body=body, method=method, within=within
        )

    def lose_next_answers(self, count: int = 1, *, method: str | None = None, within: str = "") -> None:
        """Do what the next requests ask for, and hang up instead of answering.

        Args:
            count: How many.
            method: Only those with this method.
            within: Only those with this in their path, percent-decoded.
        """
        self._fault("silence", count=count, method=method, within=within)

    def truncate_next_archive(self, after_bytes: int, *, hangs_up: bool = False) -> None:
        """Let the next archive end early, with a 200.

        Args:
            after_bytes: What comes of it.
            hangs_up: Whether the connection closes instead of the chunks coming to their regular end.
        """
        self._fault("tear", after_bytes=after_bytes, hangs_up=hangs_up)

    def corrupt_member(self, name: str, *, count: int = 1) -> None:
        """Flip a bit of a member in the next archives that have it; its CRC-32 stays right."""
        self._fault("corrupt", name=name, count=count)

    def drop_member(self, name: str, *, count: int = 1) -> None:
        """Leave a member out of the next archives that should have it."""
        self._fault("drop", name=name, count=count)

    def lock_member(self, name: str, *, count: int = 1) -> None:
        """End the next archives that should have a member before it, with an error in a 200; by itself it comes."""
        self._fault("lock", name=name, count=count)

    def corrupt_next_put(self, *, count: int = 1) -> None:
        """Store the next PUTs, and what chunks are joined to, with a bit flipped; hashes are of what is stored."""
        self._fault("put", count=count)

    def fail_next_final_move(self, status: int, *, completes_after_s: float | None = 0.0) -> None:
        """Answer the next MOVE that ends a chunked upload with an error.

        Args:
            status: 504 as a proxy that lost patience does, or 423.
            completes_after_s: When it succeeds all the same. Until then others like it get a 423. None for never.
        """
        self._fault("move", status=status, completes_after_s=completes_after_s)

    def clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        self._order({"clear_faults": True})

    def _set(self, **changes: object) -> None:
        self.settings = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]  # by their names
        self._order({"settings": changes})

    def _fault(self, kind: str, **details: object) -> None:
        self._order({"faults": [{"kind": kind, **details}]})

    def _order(self, order: dict[str, object]) -> None:
        if self._child is None:  # it takes the settings along when it starts
            assert "faults" not in order, f"{self.name} is not running"
            return
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("POST", self._control, json.dumps(order))
            answer = connection.getresponse()
            assert answer.status == 204, answer.read().decode()

    def _launch(self) -> Child:
        order = {
            "root": str(self.root),
            "port": self.port,
            "control": self._control,
            "settings": dataclasses.asdict(self.settings),
        }
        child, self.port = serve_in_python("tests.nextcloud.service", order, self._workspace)
        return child

    def _all_requests(self) -> list[Request]:
        return read_journal(self._workspace / "requests.jsonl")
