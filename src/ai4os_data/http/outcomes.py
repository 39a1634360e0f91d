"""What the end of a try means: whole bytes of one version, an error, or another try."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors, telemetry
from ai4os_data.http import failures, proxies, redirects, statuses
from ai4os_data.http.answers import (
    compression,
    content_length,
    content_range,
    parse_head,
    status_meant,
)
from ai4os_data.http.requests import Response
from ai4os_data.http.retries import retry_after_s
from ai4os_data.locations import origin_of
from ai4os_data.machine import descriptors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.http.policy import Verdict
    from ai4os_data.http.transfers import Transfer

_TLS_CODES = frozenset({35, 51, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91})
_TLS_DISTRUST = frozenset({51, 60, 77, 82, 83, 90, 91})
_TIMED_OUT = 28
_ABORTED_BY_US = 23
_MAYBE_UNMET = frozenset({5, 6, 35, 97})  # names that do not resolve; TLS that fails; a proxy that is not understood
_CONTINUE = re.compile(rb"HTTP/\S+ +100\b")


class Ending(NamedTuple):
    """How curl says that a try ended.

    Attributes:
        code: 0 if the answer is complete (https://curl.se/libcurl/c/libcurl-errors.html).
        message: what curl says of it.
        error_number: of the operating system, if the connection failed.
        proxy_status: what a proxy answered to CONNECT; 0 without one.
    """

    code: int
    message: str
    error_number: int = 0
    proxy_status: int = 0


def outcome_of(transfer: Transfer, ending: Ending) -> Response | Verdict:
    """The answer, the error to raise, or the pause before the next try."""
    outcome = _of(transfer, ending)
    if isinstance(outcome, errors.StorageError) and not _is_of_use(transfer, ending):
        transfer.body.restart()
    return outcome


def _of(transfer: Transfer, ending: Ending) -> Response | Verdict:
    code = ending.code
    if code and ending.proxy_status >= 400:
        return _refused_by_proxy(transfer, ending.proxy_status)
    if code and not transfer.head_lines:
        exhausted = descriptors.exhausted(error_number=ending.error_number)
        if exhausted is not None:
            return _again(transfer, exhausted)
    status, headers = parse_head(transfer.head_lines)
    if status == 503:
        status = status_meant(status, transfer.said)
    verdict = _as_news(transfer, code, status, headers)
    if verdict is not None:
        return verdict
    if not code and 200 <= status < 300:
        return _complete(transfer, status, headers)
    if code and status < 400:  # an error counts even if its page breaks off
        return _cut_off(transfer, ending, status, headers)
    if status in redirects.STATUSES and transfer.request.method != "PUT":
        return _redirected(transfer, headers)
    return _refused(transfer, status, headers)


def _as_news(transfer: Transfer, code: int, status: int, headers: Mapping[str, str]) -> Verdict | None:
    """Record what an answer says about the server; the verdict if it is of no other use."""
    tries = transfer.tries
    if not code and tries.doubts(status):
        transfer.offset = 0
        if transfer.is_probe:
            return 0.0
        return _again(transfer, _error(transfer, status, headers), is_away=True)
    if not tries.is_foreign and (not code or status >= 400 or transfer.has_heard):
        tries.answered(status)
    return 0.0 if transfer.is_probe else None


def _again(transfer: Transfer, error: errors.StorageError, *, is_away: bool = False) -> Verdict:
    verdict = transfer.tries.failed(error, is_away=is_away)
    transfer.start_over()
    return verdict


def _complete(transfer: Transfer, status: int, headers: Mapping[str, str]) -> Response | Verdict:
    """An answer that ended well: its body, if it is what was asked for, and all of it."""
    request = transfer.request
    received = transfer.body.length
    transfer.policy.counters.row[telemetry.BYTES_FROM_NETWORK] += received
    total = content_length(headers)
    is_foreign = transfer.tries.is_foreign
    if request.method != "GET":
        request.was_let = any(_CONTINUE.match(line) for line in transfer.head_lines)
        return Response(status, headers, total, received, is_foreign)
    if status == 206:
        if not transfer.continues(headers):
            return _other_range(transfer, headers)
        _, total = content_range(headers) or (0, None)
    if request.start is None:
        promised = total
    elif status == 206 and request.stop is not None and total is not None:
        promised = min(request.stop, total) - request.start
    else:
        promised = None
    if promised is not None and received != promised:
        if (kind := compression(headers)) is not None:
            return errors.ProtocolError(f"{transfer.what}: {failures.compressed(kind)}")
        transfer.offset = 0
        came = f"{received:,} bytes came where {promised:,} were promised"
        return _again(transfer, errors.IntegrityError(f"{transfer.what}: {came}"))
    if not (is_foreign or request.is_archive):
        transfer.policy.wait.outage.came(request.url)
    return Response(status, headers, received if request.start is None else total, received, is_foreign)


def _redirected(transfer: Transfer, headers: Mapping[str, str]) -> Verdict:
    """Ask where the server says that the file is: at once, since nothing has failed."""
    try:
        there = redirects.target(transfer.url, headers.get("location", ""), transfer.what)
        proxies.proxy_for(there, os.environ)
    except errors.StorageError as error:
        return error
    transfer.hops += 1
    if transfer.hops > redirects.MOST_HOPS:
        return errors.ProtocolError(f"{transfer.what}: redirected more than {redirects.MOST_HOPS} times")
    transfer.url = there
    transfer.tries.is_foreign = origin_of(there) != transfer.policy.credentials.remote.origin
    return 0.0


def _refused(transfer: Transfer, status: int, headers: Mapping[str, str]) -> Verdict:
    """What an answer that is an error means."""
    if transfer.tries.is_foreign and status in {401, 403}:
        return errors.PermissionDeniedError(
            f"{transfer.what}: refused there ({status}). No credentials are sent to another host than "
            f"{transfer.policy.credentials.remote.origin}"
        )
    if status == 416 and transfer.resumed:
        transfer.offset = 0
        return _again(transfer, errors.ChangedError(f"{transfer.what} changed while it was read"))
    error = _error(transfer, status, headers)
    transfer.restart()
    verdict = transfer.tries.refused(status, error, retry_after_s(headers.get("retry-after")))
    transfer.start_over()
    return verdict


def _refused_by_proxy(transfer: Transfer, status: int) -> Verdict:
    """What it means that a proxy opens no way to the server."""
    what = failures.no_way(transfer.what, transfer.url, status)
    if status in statuses.RETRIED:
        return _again(transfer, errors.ServerUnavailableError(what))
    if status == 407:
        return _error(transfer, status, {})
    return errors.PermissionDeniedError(what)


def _other_range(transfer: Transfer, headers: Mapping[str, str]) -> Verdict:
    transfer.offset = 0
    error = errors.ProtocolError(
        f"{transfer.what}: the server answered another range than the one asked for: {headers.get('content-range')!r}"
    )
    return _again(transfer, error)


def _error(transfer: Transfer, status: int, headers: Mapping[str, str]) -> errors.StorageError:
    is_upload = transfer.request.method == "PUT"
    return failures.error_for_status(
        status, transfer.what, headers, transfer.policy.credentials.remote, is_upload=is_upload, page=transfer.said
    )


def _cut_off(transfer: Transfer, ending: Ending, status: int, headers: Mapping[str, str]) -> Response | Verdict:
    """A try that broke off: keep what came of it if it can be continued, and try again if that may help."""
    request, code = transfer.request, ending.code
    if code == _ABORTED_BY_US and status == 206:
        return _other_range(transfer, headers)
    if code == _ABORTED_BY_US and status == 200 and request.start is not None:
        # The wanted range was cut out of the whole.
        total = content_length(headers)
        return Response(status, headers, total, transfer.body.length, transfer.tries.is_foreign)
    has_heard = transfer.has_heard
    if _keep(transfer, status, headers):
        transfer.tries.progressed()
    message = ending.message or f"the connection fails (curl {code})"
    error: errors.StorageError
    if code in _TLS_CODES:
        error = failures.untrusted(transfer.what, transfer.url, message)
        has_heard = False
    elif code == _TIMED_OUT:
        error = failures.late(transfer.what, transfer.url, message)
    else:
        error = failures.unreachable(transfer.what, transfer.url, message)
    if _is_of_use(transfer, ending):
        return error
    is_lasting = code in _TLS_DISTRUST
    verdict = transfer.tries.broken(error, is_lasting=is_lasting, has_heard=has_heard, is_unmet=code in _MAYBE_UNMET)
    transfer.start_over()
    return verdict


def _is_of_use(transfer: Transfer, ending: Ending) -> bool:
    """Whether what has come of an archive before it broke off is kept."""
    return bool(ending.code and transfer.request.is_archive and transfer.body.length)


def _keep(transfer: Transfer, status: int, headers: Mapping[str, str]) -> bool:
    """Keep what came before a try broke off, if the next one can continue it; whether that is more than before."""
    request = transfer.request
    if request.start is not None:
        transfer.restart()
        return False
    if status not in {200, 206}:
        transfer.offset = transfer.offset if status == 0 else 0
        return False
    etag = headers.get("etag", "")
    if not (
        etag.startswith('"')
        and headers.get("accept-ranges") != "none"
        and _is_plain(transfer, status, headers)
        and (transfer.continues(headers) if status == 206 else not transfer.resumed)
    ):
        transfer.offset = 0
        return False
    had, transfer.etag, transfer.offset = transfer.offset, etag, transfer.body.length
    return transfer.offset > had


def _is_plain(transfer: Transfer, status: int, headers: Mapping[str, str]) -> bool:
    """Whether offsets in the body are offsets in the file: no compression, or one that the file itself has."""
    if compression(headers) is None:
        return True
    total = (content_range(headers) or (0, None))[1] if status == 206 else content_length(headers)
    return total is not None and total == transfer.request.expected_bytes
