"""All WebDAV verbs except GET and PUT, sent by webdav4 and httpx, which are imported here alone.

What comes out is a whole answer or an error of ours, and no value of theirs. Tries, pauses and refusals follow the
same policy as GET and PUT.
"""

from __future__ import annotations

import math
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
    Patience,
    RequestTries,
    Transport,
    Verdict,
    error_for_status,
    failures,
    host_of,
    proxies,
    retry_after_s,
    status_meant,
    tls,
)
from ai4os_data.machine import descriptors
from ai4os_data.stores.httpx_logs import kept_quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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


class _Verb(NamedTuple):
    """What is sent."""

    method: str
    url: str
    headers: Mapping[str, str] | None
    content: bytes | None

    @property
    def what(self) -> str:
        """What messages call it."""
        return f"{self.method} {self.url}"


class FolderError(errors.NotFoundError):
    """There is a folder where a file was expected."""


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
        """Send a verb, and again if that may help.

        Args:
            method: the verb.
            url: percent-encoded.
            headers: more of them.
            content: the body.
            tries: the most tries, without waiting for an outage; by default those of the patience.
            worked_bytes: how many bytes the server reads or moves before it answers.
            silence_s: the longest silence before the answer.

        Raises:
            TornError: the answer to a PROPFIND is not whole.
            StorageError: the server refuses it, cannot do it, or does not answer.
        """
        verb = _Verb(method, url, headers, content)
        is_read = method == "PROPFIND"
        request = RequestTries(
            self.transport.policy(),
            most=tries,
            size_bytes=worked_bytes,
            waits=is_read and tries is None,
        )
        longest_s = max(1.0, min(self.patience.silence_s(worked_bytes), silence_s or math.inf))
        counted = telemetry.REQUESTS_PROPFIND if is_read else telemetry.REQUESTS_OTHER
        while True:
            request.wait_for_turn(verb.what)
            request.begin(remote := self.remote)
            self.transport.counters.row[counted] += 1
            silent_s = max(1.0, min(longest_s, request.deadline - time.monotonic()))
            outcome = self._try(request, verb, remote, silent_s)
            if isinstance(outcome, DavAnswer):
                return outcome
            if isinstance(outcome, errors.StorageError):
                try:
                    raise outcome
                finally:
                    del outcome, request  # an error that its own traceback refers to would keep the connections open
            request.sleep(outcome)

    def _try(self, request: RequestTries, verb: _Verb, remote: Remote, silence_s: float) -> DavAnswer | Verdict:
        """Send it once."""
        heads = _Heads()
        connections = self.transport.connections_with(remote)
        client: _Client = connections.client(partial(_new_client, remote, self.patience.connect_s))
        try:
            with kept_quiet():
                response = client.http.request(
                    verb.method,
                    client.join_url(verb.url),
                    headers=verb.headers,
                    content=verb.content,
                    timeout=httpx.Timeout(_LISTING_DEADLINE_S, connect=self.patience.connect_s, read=silence_s),
                    extensions={"trace": heads.note},
                )
        except httpx.RequestError as error:
            if heads.has_come and verb.method == "PROPFIND" and not isinstance(error, httpx.TimeoutException):
                raise TornError(_said(error)) from error
            return self._broken(request, verb.what, error, has_heard=heads.has_come)
        except UnicodeError as error:
            raise errors.LocationError(f"{verb.what}: this name cannot be sent") from error
        self.transport.counters.row[telemetry.BYTES_FROM_NETWORK] += len(response.content)
        return self._judged(request, verb.what, response)

    def _judged(self, request: RequestTries, what: str, response: httpx.Response) -> DavAnswer | Verdict:
        """The answer, the error that it stands for, or the pause before the next try."""
        status = status_meant(response.status_code, response.content)
        if request.doubts(status):
            return request.failed(_error_of(response, status, what, self.remote), is_away=True)
        request.answered(status)
        if status < 300:
            return DavAnswer(status, dict(response.headers), response.content)
        asked_s = retry_after_s(response.headers.get("retry-after"))
        return request.refused(status, _error_of(response, status, what, self.remote), asked_s)

    def _broken(self, request: RequestTries, what: str, cause: httpx.RequestError, *, has_heard: bool) -> Verdict:
        """The pause before the next try, after one without an answer; or the error if there is no next try."""
        causes = list(_causes(cause))
        error = descriptors.exhausted(cause) or _failure_of(what, cause, causes, self.remote)
        error.__cause__ = cause
        is_distrusted = any(isinstance(one, ssl.SSLCertVerificationError) for one in causes)
        return request.broken(
            error,
            is_lasting=is_distrusted or isinstance(error, _LASTING),
            has_heard=has_heard,
            is_unmet=any(isinstance(one, socket.gaierror) for one in causes),
        )


def _failure_of(
    what: str, error: httpx.RequestError, causes: Iterable[BaseException], remote: Remote
) -> errors.StorageError:
    """The error that a connection which failed stands for."""
    if isinstance(error, httpx.DecodingError):
        return errors.ProtocolError(f"{what}: the body is not compressed as its head says ({error})")
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return failures.untrusted(what, remote.url, cause.reason or str(cause))
    if isinstance(error, httpx.TimeoutException):
        return failures.late(what, remote.url, f"no answer in time ({type(error).__name__})")
    # httpcore gives the status of a proxy that opens no connection in its message only.
    if isinstance(error, httpx.ProxyError) and str(error)[:3].isdigit() and not str(error).startswith("5"):
        return errors.PermissionDeniedError(failures.no_way(what, remote.url, error))
    return failures.unreachable(what, remote.url, str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _Heads:
    """Notes whether the head of the server's answer has come (https://www.encode.io/httpcore/extensions/#trace).

    A proxy's answer to CONNECT does not count.
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


def _said(error: httpx.RequestError) -> str:
    """What httpx says of an answer, with an explanation if the words are zlib's."""
    return f"not compressed as its head says: {error}" if isinstance(error, httpx.DecodingError) else str(error)


class _Client(webdav4.client.Client):  # type: ignore[misc]  # webdav4 has no types
    """webdav4's client for URLs that are encoded already: webdav4's joining loses ``%``, ``#`` and a last slash."""

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
    """The proxy for a server, in the form that httpx takes."""
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
    """Close the connections of a client that is gone; in a forked child they belong to the parent."""
    if os.getpid() == owner:
        with kept_quiet():
            http.close()


def _leads_to_folder(response: httpx.Response) -> bool:
    """Whether a redirect only adds the slash at the end of a folder's name, as Apache does."""
    there = urlsplit(response.headers.get("location", ""))
    asked = response.request.url.raw_path.decode()
    return (
        response.is_redirect
        and there.path == f"{asked}/"
        and host_of(there.netloc) in {None, response.request.url.host}
    )


def _error_of(response: httpx.Response, status: int, what: str, remote: Remote) -> errors.StorageError:
    """The error that an answer stands for."""
    if _leads_to_folder(response):
        return FolderError(f"{what}: this is a folder, not a file ({status})")
    is_upload = response.request.method not in _READING
    return error_for_status(status, what, response.headers, remote, is_upload=is_upload, page=response.content)
