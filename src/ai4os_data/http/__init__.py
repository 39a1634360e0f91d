"""Bytes over HTTP: whole or not at all, of one version, with one policy for tries, pauses and refusals."""

from __future__ import annotations

from ai4os_data.http import proxies, retries, statuses, tls
from ai4os_data.http.answers import NO_ANSWER, error_for_status, host_of, plain_etag, status_meant, wrong_credentials
from ai4os_data.http.bodies import (
    Body,
    CappedBody,
    Content,
    FileBody,
    HashBody,
    LargeBody,
    MemoryBody,
    NoBody,
    Source,
    write_all_at,
    write_whole,
)
from ai4os_data.http.outages import FLAPPING, LOOK_S, Wait, outage_of, waited_out
from ai4os_data.http.proxies import proxy_for
from ai4os_data.http.refusals import LOOK_AT_DOUBT_S
from ai4os_data.http.retries import (
    LOCKED_TRIES,
    LONGEST_LOCK_PAUSE_S,
    OPENING_S,
    OUTAGE_S,
    Patience,
    checked_outage_s,
    retry_after_s,
    shortened,
)
from ai4os_data.http.statuses import PASSING, Place, passes, place_of, status_of
from ai4os_data.http.transport import Request, Response, Transport, compressed

__all__ = [
    "FLAPPING",
    "LOCKED_TRIES",
    "LONGEST_LOCK_PAUSE_S",
    "LOOK_AT_DOUBT_S",
    "LOOK_S",
    "NO_ANSWER",
    "OPENING_S",
    "OUTAGE_S",
    "PASSING",
    "Body",
    "CappedBody",
    "Content",
    "FileBody",
    "HashBody",
    "LargeBody",
    "MemoryBody",
    "NoBody",
    "Patience",
    "Place",
    "Request",
    "Response",
    "Source",
    "Transport",
    "Wait",
    "checked_outage_s",
    "compressed",
    "error_for_status",
    "host_of",
    "outage_of",
    "passes",
    "place_of",
    "plain_etag",
    "proxies",
    "proxy_for",
    "retries",
    "retry_after_s",
    "shortened",
    "status_meant",
    "status_of",
    "statuses",
    "tls",
    "waited_out",
    "write_all_at",
    "write_whole",
    "wrong_credentials",
]
