"""Bytes of files over HTTP, both ways: whole or not at all, of one version, by one policy for tries and refusals."""

from __future__ import annotations

from ai4os_data.http import failures, proxies, retries, statuses, tls
from ai4os_data.http.answers import host_of, plain_etag, status_meant
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
)
from ai4os_data.http.failures import NO_ANSWER, SILENT, compressed, error_for_status
from ai4os_data.http.outages import Wait, outage_of, waited_out
from ai4os_data.http.policy import RequestTries, Verdict
from ai4os_data.http.proxies import proxy_for
from ai4os_data.http.refusals import Credentials
from ai4os_data.http.requests import PART, Request, Response
from ai4os_data.http.retries import OPENING_S, OUTAGE_S, Patience, checked_outage_s, retry_after_s
from ai4os_data.http.statuses import PASSING, Standing, passes, standing_of, status_of
from ai4os_data.http.transport import Transport

__all__ = [
    "NO_ANSWER",
    "OPENING_S",
    "OUTAGE_S",
    "PART",
    "PASSING",
    "SILENT",
    "Body",
    "CappedBody",
    "Content",
    "Credentials",
    "FileBody",
    "HashBody",
    "LargeBody",
    "MemoryBody",
    "NoBody",
    "Patience",
    "Request",
    "RequestTries",
    "Response",
    "Source",
    "Standing",
    "Transport",
    "Verdict",
    "Wait",
    "checked_outage_s",
    "compressed",
    "error_for_status",
    "failures",
    "host_of",
    "outage_of",
    "passes",
    "plain_etag",
    "proxies",
    "proxy_for",
    "retries",
    "retry_after_s",
    "standing_of",
    "status_meant",
    "status_of",
    "statuses",
    "tls",
    "waited_out",
    "write_all_at",
]
