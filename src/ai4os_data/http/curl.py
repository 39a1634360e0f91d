"""Bytes by libcurl: one thread's transfers over one multi handle, driven through epoll, with connections kept warm."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pycurl

from ai4os_data.http import proxies
from ai4os_data.http.connections import account
from ai4os_data.http.outcomes import Ending
from ai4os_data.http.tls import ca_file
from ai4os_data.machine import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http.requests import Request
    from ai4os_data.http.retries import Patience
    from ai4os_data.http.transfers import Transfer
    from ai4os_data.locations import Remote

_SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name
_PLAIN_HEADERS = [b"Accept-Encoding: identity", b"Expect:", b"Accept: */*"]
_BUFFER_BYTES = 256 * 1024
_STREAMED_BYTES = 32 * 1024  # curl takes a hundred buffers before it lets the caller take out what has come
_COMPLETE = Ending(0, "")
_OPTIONS = {
    pycurl.NOSIGNAL: 1,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.PATH_AS_IS: 1,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.UPLOAD_BUFFERSIZE: 2 * 1024 * 1024,
    pycurl.LOW_SPEED_LIMIT: 1,
    pycurl.MAXAGE_CONN: 55,  # servers close idle connections after 5 to 60 s
    pycurl.TCP_KEEPALIVE: 1,
    pycurl.USERAGENT: "ai4os-data",
    pycurl.NOPROXY: "",  # the variables are read by us alone, so that listings go the same way
}


def new_lane(remote: Remote) -> Lane:
    """A lane, if this process can open what it needs.

    Raises:
        OpenFilesError: it cannot.
    """
    try:
        return Lane(remote)
    except (OSError, pycurl.error) as error:
        if (out := descriptors.exhausted(error)) is not None:
            raise out from error
        raise


class Lane:
    """One thread's transfers.

    Args:
        remote: whose credentials are sent first.
    """

    def __init__(self, remote: Remote) -> None:
        self._owner = os.getpid()
        self._active: dict[pycurl.Curl, tuple[Transfer, _Handles]] = {}
        self._sockets = _Sockets()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._sockets.watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._sockets.set_timer)
        self._handles = _Handles(remote)

    @property
    def is_ours(self) -> bool:
        """Whether it is of this process, and not of one that this one was forked from."""
        return os.getpid() == self._owner

    @property
    def in_flight(self) -> int:
        """How many are on their way."""
        return len(self._active)

    @property
    def is_answered(self) -> bool:
        """Whether any of those on their way has brought bytes from our own server."""
        return any(transfer.is_answered for transfer, _ in self._active.values())

    def streams(self) -> list[Request]:
        """The requests on their way whose bodies are taken out part by part."""
        return [transfer.request for transfer, _ in self._active.values() if transfer.request.streams]

    def begin(self, transfer: Transfer, remote: Remote, patience: Patience) -> None:
        """Send a request."""
        if remote is not self._handles.remote:
            if account(remote) != self._handles.account:
                self._handles.close()
                self._handles = _Handles(remote)
            self._handles.remote = remote  # often another store's: compare only once
        transfer.begin(remote)
        handle = self._handles.take(transfer)
        _prepare(handle, transfer, patience)
        self._active[handle] = transfer, self._handles
        self._multi.add_handle(handle)
        self._sockets.timeout_s = 0.0
        if transfer.request.is_archive:  # send it now: the caller may spend long on the files of the last one
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def step(self, longest_s: float | None) -> None:
        """Wait until something happens on the network, and let curl do what is to be done."""
        sockets, act = self._sockets, self._multi.socket_action
        limits = [limit for limit in (longest_s, sockets.timeout_s) if limit is not None]
        timeout_s = max(0.0, min(limits)) if limits else 1.0
        if not self._active:
            time.sleep(timeout_s)
            return
        events = sockets.epoll.poll(timeout_s) if timeout_s or sockets.watched else []
        for descriptor, mask in events:
            act(descriptor, _selected(mask))
        if not events or sockets.timeout_s == 0:
            sockets.timeout_s = None
            act(pycurl.SOCKET_TIMEOUT, 0)

    def ended(self) -> Iterator[tuple[Transfer, Ending]]:
        """Each transfer that has ended, and how."""
        while True:
            queued, good, bad = self._multi.info_read()
            for handle in good:
                yield self._end(handle, 0, "")
            for handle, code, message in bad:
                yield self._end(handle, code, message)
            if not queued:
                return

    def _end(self, handle: pycurl.Curl, code: int, message: str) -> tuple[Transfer, Ending]:
        transfer, handles = self._active.pop(handle)
        self._multi.remove_handle(handle)
        transfer.end()
        ending = _COMPLETE
        if code:
            ending = Ending(code, message, handle.getinfo(pycurl.OS_ERRNO), handle.getinfo(pycurl.HTTP_CONNECTCODE))
        handles.give_back(handle, transfer, is_good=ending.proxy_status < 400)
        transfer.raise_again()
        return transfer, ending

    def abandon(self) -> None:
        """Stop what is still on its way, and close its connections."""
        for handle, (transfer, _) in self._active.items():
            self._multi.remove_handle(handle)
            handle.close()
            transfer.end()
        self._active.clear()


class _Handles:
    """The easy handles that send the same credentials, and share the cookies that came for them.

    Args:
        remote: the server and the credentials.

    Attributes:
        account: what remotes have in common whose requests they send.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.account = account(remote)
        self._idle: list[pycurl.Curl] | None = []
        self._share = pycurl.CurlShare()
        self._share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_COOKIE)  # a session cookie saves 250 ms a request
        self._headers = [*_PLAIN_HEADERS, *(f"{name}: {value}".encode() for name, value in remote.sent_headers())]

    def close(self) -> None:
        """Drop the handles: the credentials have changed."""
        for handle in self._idle or ():
            handle.close()
        self._idle = None

    def take(self, transfer: Transfer) -> pycurl.Curl:
        """One for a transfer, with its header lines."""
        if transfer.tries.is_foreign:
            handle, headers = self._new(transfer.url), [*_PLAIN_HEADERS]
        else:
            handle, headers = self._idle.pop() if self._idle else self._own(), [*self._headers]
        if transfer.request.asks_first:  # its body follows the server's consent, or a second without an answer
            headers[headers.index(b"Expect:")] = b"Expect: 100-continue"
        headers += [line.encode("latin-1", "replace") for line in transfer.request.headers]
        handle.setopt(pycurl.HTTPHEADER, headers + transfer.range_headers())
        return handle

    def give_back(self, handle: pycurl.Curl, transfer: Transfer, *, is_good: bool) -> None:
        """Keep one for the next transfer, if its options fit; its connection stays with the multi handle anyway."""
        is_plain = transfer.request.method == "GET" and not transfer.tries.is_foreign
        if is_good and is_plain and self._idle is not None:
            handle.setopt(pycurl.WRITEFUNCTION, len)  # keep nothing of the body until then
            self._idle.append(handle)
        else:
            handle.close()

    def _own(self) -> pycurl.Curl:
        """A new one for our server: with credentials, and the cookies of its sessions."""
        handle = self._new(self.remote.url)
        handle.setopt(pycurl.SHARE, self._share)
        handle.setopt(pycurl.COOKIEFILE, "")
        if self.remote.sends_password:
            handle.setopt(pycurl.HTTPAUTH, pycurl.HTTPAUTH_BASIC)
            handle.setopt(pycurl.USERNAME, (self.remote.user or "").encode())
            handle.setopt(pycurl.PASSWORD, (self.remote.password or "").encode())
        return handle

    def _new(self, url: str) -> pycurl.Curl:
        """A new one for the server of a URL, which holds no secret but the proxy's."""
        authorities = ca_file(self.remote.ca_file)
        proxy = proxies.proxy_for(url, os.environ)
        handle = pycurl.Curl()
        for option, value in _OPTIONS.items():
            handle.setopt(option, value)
        handle.setopt(pycurl.CAINFO, authorities)
        handle.setopt(pycurl.PROXY, "" if proxy is None else proxy.url)
        if proxy is not None:
            handle.setopt(_SUPPRESS_CONNECT_HEADERS, 1)  # its head is not the server's
            handle.setopt(pycurl.PROXY_CAINFO, authorities)
            handle.setopt(pycurl.PROXYUSERNAME, (proxy.user or "").encode())
            handle.setopt(pycurl.PROXYPASSWORD, (proxy.password or "").encode())
        return handle


def _prepare(handle: pycurl.Curl, transfer: Transfer, patience: Patience) -> None:
    """Set what differs from transfer to transfer."""
    request = transfer.request
    remaining_s = max(1.0, transfer.tries.deadline - time.monotonic())
    silence_s = patience.hears_within_s
    handle.setopt(pycurl.URL, transfer.url)
    handle.setopt(pycurl.HEADERFUNCTION, transfer.head_lines.append)
    handle.setopt(pycurl.WRITEFUNCTION, transfer.writer())
    handle.setopt(pycurl.BUFFERSIZE, _STREAMED_BYTES if request.streams else _BUFFER_BYTES)
    handle.setopt(pycurl.TIMEOUT_MS, int(remaining_s * 1000))
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(patience.connect_s * 1000))
    if request.source is not None:
        handle.setopt(pycurl.UPLOAD, 1)
        handle.setopt(pycurl.INFILESIZE_LARGE, request.source.size_bytes)
        handle.setopt(pycurl.READFUNCTION, transfer.reader(pycurl.READFUNC_ABORT))
        silence_s = max(1, int(min(remaining_s, patience.silence_s(request.source.size_bytes))))
    elif request.method == "HEAD":
        handle.setopt(pycurl.NOBODY, 1)
    handle.setopt(pycurl.LOW_SPEED_TIME, silence_s)


def _selected(mask: int) -> int:
    """What epoll has found, in curl's terms."""
    selected = pycurl.CSELECT_IN if mask & (select.EPOLLIN | select.EPOLLHUP) else 0
    selected |= pycurl.CSELECT_OUT if mask & select.EPOLLOUT else 0
    return selected | (pycurl.CSELECT_ERR if mask & select.EPOLLERR else 0)


class _Sockets:
    """The sockets and the timer that libcurl asks to be watched. It does not refer to its lane."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.watched: set[int] = set()
        self.timeout_s: float | None = None

    def watch(self, event: int, descriptor: int, _multi: object, _data: object) -> None:
        """Watch a socket from now on, or no more."""
        if event == pycurl.POLL_REMOVE:
            if descriptor in self.watched:
                self.watched.discard(descriptor)
                with suppress(OSError):  # closing the socket may have taken it out
                    self.epoll.unregister(descriptor)
            return
        mask = (select.EPOLLIN if event & pycurl.POLL_IN else 0) | (select.EPOLLOUT if event & pycurl.POLL_OUT else 0)
        if descriptor in self.watched:
            with suppress(FileNotFoundError):  # a new socket under an old number
                self.epoll.modify(descriptor, mask)
                return
        self.watched.add(descriptor)
        self.epoll.register(descriptor, mask)

    def set_timer(self, timeout_ms: int) -> None:
        """Wait no longer than this."""
        self.timeout_s = None if timeout_ms < 0 else timeout_ms / 1000
