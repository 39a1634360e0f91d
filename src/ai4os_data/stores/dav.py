"""WebDAV verbs, sent through webdav4 and httpx: these two are imported here alone, and none of their values leave.

What comes out is a whole answer, or an error of ours; tries, pauses and refusals are those of the bytes.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import webdav4.client

from ai4os_data import errors, telemetry
from ai4os_data.http import (
    FLAPPING,
    LOCKED_TRIES,
    LONGEST_LOCK_PAUSE_S,
    LOOK_AT_DOUBT_S,
    LOOK_S,
    Patience,
    Transport,
    Wait,
    error_for_status,
    host_of,
    proxies,
    retry_after_s,
    shortened,
    status_meant,
    statuses,
    tls,
    wrong_credentials,
)
from ai4os_data.machine import descriptors
from ai4os_data.stores.httpx_logs import kept_quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ai4os_data.locations import Remote

_LISTING_DEADLINE_S = 300.0
_READING = frozenset({"PROPFIND", "DELETE"})
# Failures of a connection that do not pass by themselves.
_LASTING = (errors.OpenFilesError, errors.PermissionDeniedError, errors.ProtocolError)


class DavAnswer(NamedTuple):
    """A server's answer to a DAV verb.

    Attributes:
        status: 200 to 299.
        headers: their names in lower case.
        body: all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class FolderError(errors.NotFoundError):
    """There is a folder, where a file was looked for."""


class TornError(Exception):
    """The head of an answer to a PROPFIND came, and its body broke off."""


class DavClient:
    """Sends DAV verbs to one remote. Safe to use from many threads; each process has connections of its own.

    Args:
        transport: sends the bytes; its credentials, patience, counters and knowledge of the server are shared.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def remote(self) -> Remote:
        """The server, and the credentials as they are now."""
        return self.transport.remote

    @property
    def patience(self) -> Patience:
        """Deadlines and tries."""
        return self.transport.patience

    def send(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        *,
        tries: int | None = None,
        worked_bytes: int = 0,
        silence_s: float | None = None,
    ) -> DavAnswer:
        """Send a verb, and again where that may help.

        Args:
            method: the verb.
            url: percent-encoded.
            headers: more of them.
            content: the body.
            tries: the most tries, if it is not for this client to know how often it may be sent.
            worked_bytes: how many bytes the server reads or moves before it answers.
            silence_s: the longest silence before the answer.

        Raises:
            TornError: the answer to a PROPFIND is not whole.
            StorageError: the server refuses it, cannot do it, or does not answer.
        """
        asking = _Asking(self, method, url, tries, worked_bytes, silence_s=silence_s)
        row = self.transport.counters.row
        while True:
            asking.wait_for_turn()
            row[telemetry.REQUESTS_PROPFIND if method == "PROPFIND" else telemetry.REQUESTS_OTHER] += 1
            outcome = self._try(asking, method, url, headers, content)
            if isinstance(outcome, DavAnswer):
                return outcome
            if isinstance(outcome, errors.StorageError):
                try:
                    raise outcome
                finally:
                    del outcome, asking  # an error that its own traceback leads to would keep the connections open
            row[telemetry.RETRIES] += 1
            row[telemetry.WAITED_NS] += int(outcome * 1e9)
            asking.sleep(outcome)

    def _try(
        self, asking: _Asking, method: str, url: str, headers: dict[str, str] | None, content: bytes | None
    ) -> DavAnswer | errors.StorageError | float:
        """Send it once."""
        timeout = httpx.Timeout(_LISTING_DEADLINE_S, connect=self.patience.connect_s, read=asking.silence_s())
        heads = _Heads()
        try:
            client = self._client()
            with kept_quiet():
                response: httpx.Response = client.http.request(
                    method,
                    client.join_url(url),
                    headers=headers,
                    content=content,
                    timeout=timeout,
                    extensions={"trace": heads.note},
                )
        except httpx.RequestError as error:
            return asking.pause_after(error, has_head=heads.has_come)
        except UnicodeError as error:
            raise errors.LocationError(f"{asking.what}: this name cannot be sent") from error
        self.transport.counters.row[telemetry.BYTES_FROM_NETWORK] += len(response.content)
        return asking.judged(response)

    def _client(self) -> _Client:
        """This process's client of the DAV verbs."""
        client: _Client = self.transport.connections.client(partial(_new_client, self.remote, self.patience.connect_s))
        return client


def _failure_of(what: str, error: httpx.RequestError, remote: Remote) -> errors.StorageError:
    """The error that a connection which failed stands for."""
    if isinstance(error, httpx.DecodingError):
        return errors.ProtocolError(f"{what}: the body is not compressed as its head says ({error})")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return errors.TLSError(
                f"{what}: no trusted connection to {remote.origin} ({cause.reason or cause}). If it uses an "
                "authority of your "
                f"own, pass Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
            )
    if isinstance(error, httpx.TimeoutException):
        return errors.DeadlineError(f"{what}: no answer in time ({type(error).__name__})")
    way = proxies.through(remote.url, os.environ)
    # httpcore tells the status of a proxy that opens no connection in its message alone.
    if isinstance(error, httpx.ProxyError) and str(error)[:3].isdigit() and not str(error).startswith("5"):
        return errors.PermissionDeniedError(f"{what}: the proxy opens no connection ({error}){way}")
    return errors.ServerUnavailableError(
        f"{what}: {error}. Is {remote.origin} up, and reachable from this machine?{way}"
    )


class _Asking:
    """One request by a DAV verb: its tries, its pauses, and what its answers mean for the next one."""

    def __init__(
        self,
        dav: DavClient,
        method: str,
        url: str,
        tries: int | None,
        worked_bytes: int,
        *,
        silence_s: float | None,
    ) -> None:
        self.what = f"{method} {url}"
        patience = dav.patience
        self._dav = dav
        self._patience = patience
        self._tries = tries or patience.tries
        self._waits = method == "PROPFIND" and tries is None and patience.outage_s > 0
        self._is_read = method == "PROPFIND"
        longest_s = max(patience.silence_s(worked_bytes), 1)
        self._silence_s = longest_s if silence_s is None else min(longest_s, silence_s)
        self._deadline = patience.deadline(worked_bytes)
        self._wait = Wait(dav.transport.connections.outage, patience)
        self._credentials = dav.transport.credentials
        self._failures = self._refused = self._away = 0
        self._failed_s = self._began_s = 0.0
        self._is_first = False
        self._last: errors.StorageError | None = None

    def silence_s(self) -> float:
        """How long this try may be without an answer."""
        return max(1.0, min(self._silence_s, self._deadline - time.monotonic()))

    def wait_for_turn(self) -> None:
        """Wait until the request may be sent.

        Raises:
            AuthenticationError: the credentials were refused; nobody asks any more.
            StorageError: the server is away for too long.
        """
        if self._is_first and self._refused and self._credentials.is_hopeless():
            raise errors.AuthenticationError(wrong_credentials(self._dav.transport.remote))
        while not self._is_first and (turn := self._credentials.turn()) != "go":
            if turn == "refused":
                raise errors.AuthenticationError(wrong_credentials(self._dav.transport.remote))
            self._is_first = turn == "first"
            if not self._is_first:
                time.sleep(LOOK_AT_DOUBT_S)
        while self._waits and self._wait.is_held and not self._wait.outage.may_ask():
            self._wait.hold()
            if self._wait.is_over:
                raise self._wait.error(self.what) if self._last is None else self._wait.gave_up(self._last)
            time.sleep(LOOK_S)
        self._began_s, self._sent_with = time.monotonic(), self._credentials.remote

    def sleep(self, pause_s: float) -> None:
        """Wait before the next try; where the server is away, until somebody finds it back."""
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._away and self._wait.outage.progress_s > self._failed_s:
                return
            time.sleep(min(LOOK_S, left_s))
            if self._away:
                self._wait.outage.tell(self._patience.outage_s)

    def judged(self, response: httpx.Response) -> DavAnswer | errors.StorageError | float:
        """The answer, the error that it stands for, or the pause before the next try."""
        status = status_meant(response.status_code, response.content)
        if self._waits and self._wait.outage.doubts(status):
            return self._pause(
                _error_of(response, self.what, self._dav.transport.remote), None, is_away=True, tries=self._tries
            )
        if status not in statuses.AWAY:
            self._wait.outage.answered()
            if status != 401:
                self._credentials.accepted(was_doubted=self._is_first)
                self._is_first = False
        if status < 300:
            return DavAnswer(status, dict(response.headers), response.content)
        failure = _error_of(response, self.what, self._dav.transport.remote)
        if status == 401:
            self._refused += 1
            again = self._credentials.refused(self._sent_with, self._refused, was_first=self._is_first)
            if again is None:
                return failure
            self._is_first, pause_s = again
            return pause_s
        if status not in statuses.RETRIED:
            return failure
        asked_s = retry_after_s(response.headers.get("retry-after"))
        tries = self._tries
        if status == 423 and self._is_read:
            tries, asked_s = min(tries, LOCKED_TRIES), shortened(asked_s, LONGEST_LOCK_PAUSE_S)
        return self._pause(failure, asked_s, is_away=status in statuses.AWAY, tries=tries)

    def pause_after(self, cause: httpx.RequestError, *, has_head: bool = False) -> errors.StorageError | float:
        """The pause before the next try after one without an answer, or the error where there is none.

        Raises:
            TornError: the head of an answer came, so the server is there, but the answer is not whole.
        """
        if has_head and self._is_read and not isinstance(cause, httpx.TimeoutException):
            raise TornError(_told(cause)) from cause
        causes = list(_causes(cause))
        failure: errors.StorageError | None = descriptors.exhausted(cause)
        has_answered = self._credentials.answers > 0 or self._wait.outage.has_answered
        is_distrusted = any(isinstance(one, ssl.SSLCertVerificationError) for one in causes)
        if failure is None:
            failure = _failure_of(self.what, cause, self._dav.transport.remote)
        failure.__cause__ = cause
        if isinstance(failure, _LASTING) or (
            isinstance(failure, errors.TLSError) and (is_distrusted or not has_answered)
        ):
            return failure
        is_away = has_answered or not any(isinstance(one, socket.gaierror) for one in causes)
        return self._pause(failure, None, is_away=is_away, tries=self._tries)

    def _pause(
        self, failure: errors.StorageError, asked_s: float | None, *, is_away: bool, tries: int
    ) -> errors.StorageError | float:
        if is_away and self._waits:
            return self._wait_out(failure, asked_s)
        self._failures += 1
        pause_s = self._patience.pause_s(self._failures, asked_s)
        return failure if self._failures >= tries or time.monotonic() + pause_s > self._deadline else pause_s

    def _wait_out(self, failure: errors.StorageError, asked_s: float | None) -> errors.StorageError | float:
        """The pause where the server seems to be away; while others get answers, tries count."""
        if self._away == 0 or self._wait.outage.progress_s > self._failed_s:
            self._failures += 1
        self._failed_s = time.monotonic()
        self._away += 1
        self._last = failure
        if self._failures >= max(2, self._tries) * (FLAPPING if self._wait.outage.flaps else 1):
            return failure
        pause_s = self._wait.failed(self._began_s, failure, asked_s=asked_s, failures=self._away)
        if pause_s is None:
            return self._wait.gave_up(failure)
        self._deadline = max(self._deadline, self._patience.deadline() + pause_s)
        return pause_s


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _Heads:
    """Notes whether the head of the server's answer has come (https://www.encode.io/httpcore/extensions/#trace).

    A proxy's answer to CONNECT is none of the server's.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_of_proxy = False

    def note(self, event: str, info: dict[str, Any]) -> None:
        """Note an event of a connection."""
        if event.endswith("receive_response_headers.started"):
            self._is_of_proxy = info["request"].method == b"CONNECT"
        elif event.endswith("receive_response_headers.complete"):
            self.has_come = not self._is_of_proxy


def _told(error: httpx.RequestError) -> str:
    """What httpx says of an answer, with what it means where it says no more than zlib does."""
    return f"not compressed as its head says: {error}" if isinstance(error, httpx.DecodingError) else str(error)


class _Client(webdav4.client.Client):  # type: ignore[misc]  # webdav4 has no types
    """webdav4's client for URLs that are encoded already: its own joining loses ``%``, ``#`` and the last slash."""

    def join_url(self, path: str, *_: object) -> httpx.URL:
        parts = urlsplit(path)
        url: httpx.URL = self.base_url.copy_with(raw_path=parts.path.encode())
        return url


def _new_client(remote: Remote, connect_s: float) -> _Client:
    authentication = None
    headers = httpx.Headers({"Accept-Encoding": "identity", "User-Agent": "ai4os-data"})
    headers.update([(name.encode(), value.encode()) for name, value in remote.sent_headers()])
    if remote.sends_password:
        authentication = httpx.BasicAuth((remote.user or "").encode(), (remote.password or "").encode())
    client = _Client(
        remote.url,
        auth=authentication,
        retry=False,
        headers=headers,
        verify=tls.context(remote.ca_file),
        limits=httpx.Limits(max_keepalive_connections=None),
        proxy=_proxy(remote, connect_s),
        trust_env=False,  # the variables are read by us alone, so that bytes go the same way
    )
    weakref.finalize(client, _close, client.http, os.getpid())
    return client


def _proxy(remote: Remote, connect_s: float) -> httpx.Proxy | None:
    """The way to a server as httpx takes it."""
    proxy = proxies.proxy_for(remote.url, os.environ)
    if proxy is None:
        return None
    if proxy.url.startswith("socks"):
        proxies.check_socks(proxy, connect_s)
    credentials = None if proxy.user is None else (proxy.user, proxy.password or "")
    context = tls.context(remote.ca_file) if proxy.url.startswith("https") else None
    url = proxy.url.replace("socks5h:", "socks5:", 1)  # as every version of httpx spells it
    return httpx.Proxy(url, auth=credentials, ssl_context=context)


def _close(http: httpx.Client, owner: int) -> None:
    """Close the connections of a client that is gone; in a child they are its parent's."""
    if os.getpid() == owner:
        with kept_quiet():
            http.close()


def _leads_to_folder(response: httpx.Response) -> bool:
    """Whether a redirect says no more than that the name of a folder ends with a slash, as Apache has it."""
    place = urlsplit(response.headers.get("location", ""))
    asked = response.request.url.raw_path.decode()
    return (
        response.is_redirect
        and place.path == f"{asked}/"
        and host_of(place.netloc) in {None, response.request.url.host}
    )


def _error_of(response: httpx.Response, what: str, remote: Remote) -> errors.StorageError:
    """The error that an answer stands for."""
    if _leads_to_folder(response):
        return FolderError(f"{what}: this is a folder, not a file ({response.status_code})")
    status = status_meant(response.status_code, response.content)
    is_upload = response.request.method not in _READING
    return error_for_status(status, what, dict(response.headers), remote, is_upload=is_upload, page=response.content)
