"""Who may come in: the password, the session cookies that make it cheap, the throttle that shuts out."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from typing import TYPE_CHECKING

from tests.nextcloud.answers import RefusalError
from tests.nextcloud.versions import VERSIONS

if TYPE_CHECKING:
    from tests.nextcloud.settings import Settings

INSTANCE = "oc" + secrets.token_hex(5)
_WRONG_TRIES = 11
_SHUT_OUT_S = 600.0
_SESSIONS = 10_000
_PASSPHRASE = "oc_sessionPassphrase"
_SAME_SITE = "nc_sameSiteCookie{0}=true; path=/; httponly;expires=Fri, 31-Dec-2100 23:59:59 GMT; SameSite={0}"
_NO_BEARER = (
    "No 'Authorization: Bearer' header found. Either the client didn't send one, or the server is mis-configured"
)
_NO_BASIC = "No 'Authorization: Basic' header found. Either the client didn't send one, or the server is misconfigured"
_WRONG = "Username or password was incorrect"


class Session:
    """What PHP remembers of a client between its requests."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(13)
        self.passphrase = secrets.token_urlsafe(96)
        self.user: str | None = None

    def cookies(self) -> str:
        """Return the values of Set-Cookie, one a line."""
        return "\n".join(
            [
                f"{_PASSPHRASE}={self.passphrase}; path=/; HttpOnly; SameSite=Lax",
                f"{INSTANCE}={self.name}; path=/; HttpOnly; SameSite=Lax",
                _SAME_SITE.format("lax"),
                _SAME_SITE.format("strict"),
            ]
        )


class Gate:
    """Lets one user in.

    All clients share an address here, so all of them are shut out together; a session that was let in
    before stays in, as its password is not asked again. Unlike the real one, the gate wants the right
    password with every request of a session too, and it does not slow down wrong ones.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._wrong_tries = 0
        self._shut_until_s = 0.0

    def session(self, cookie_header: str) -> Session | None:
        """Return the session that a request belongs to."""
        if not cookie_header:
            return None
        pairs = (pair.strip().partition("=") for pair in cookie_header.split(";"))
        cookies = {name: value for name, _, value in pairs}
        session = self._sessions.get(cookies.get(INSTANCE, ""))
        return session if session is not None and session.passphrase == cookies.get(_PASSPHRASE) else None

    def new_session(self) -> Session:
        """Begin one."""
        session = Session()
        with self._lock:
            self._sessions[session.name] = session
            if len(self._sessions) > _SESSIONS:
                del self._sessions[next(iter(self._sessions))]  # the oldest: its client did not keep the cookies
        return session

    def admit(self, authorization: str, session: Session) -> None:
        """Let the user in, or refuse with 401 or 429."""
        if not authorization:
            raise self._refusal(_NO_BASIC)
        right = authorization in self._right_headers() and not self._settings.expired
        if right and session.user == self._settings.user:
            return
        with self._lock:
            if time.monotonic() < self._shut_until_s:
                raise RefusalError(
                    429,
                    r"OCA\DAV\Connector\Sabre\Exception\TooManyRequests",
                    more='\n  <o:hint xmlns:o="o:">too many requests</o:hint>',
                )
        time.sleep(self._settings.hashing_cost_s)
        with self._lock:
            if right:
                self._wrong_tries = 0
                session.user = self._settings.user
                return
            self._wrong_tries += 1
            if self._wrong_tries >= _WRONG_TRIES:
                self._shut_until_s = time.monotonic() + _SHUT_OUT_S
        raise self._refusal(_WRONG)

    def open_again(self) -> None:
        """End the time in which the address is shut out."""
        with self._lock:
            self._wrong_tries = 0
            self._shut_until_s = 0.0

    def end_sessions(self) -> None:
        """Know no cookie any more."""
        with self._lock:
            self._sessions.clear()

    def _right_headers(self) -> tuple[str, str]:
        pair = f"{self._settings.user}:{self._settings.password}".encode()
        return "Basic " + base64.b64encode(pair).decode(), f"Bearer {self._settings.password}"

    def _refusal(self, basic: str) -> RefusalError:
        others = VERSIONS[self._settings.version].other_logins
        message = f"No public access to this resource., {others}{basic}, {_NO_BEARER}, {basic}"
        return RefusalError(
            401,
            r"Sabre\DAV\Exception\NotAuthenticated",
            message,
            headers={"WWW-Authenticate": 'Basic realm="Nextcloud", charset="UTF-8"'},
        )
