"""The log shows no lines of httpx about our own requests; those about the user's stay.

httpx logs a line for each request at INFO, with the whole URL, and httpcore the headers at DEBUG, session cookies
among them. Both have one logger for all clients of the process. So a filter on those loggers drops what a thread of
ours logs while it asks.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))


class _Ours(logging.Filter):
    """Drops what is logged in a thread while it sends a request of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.asking = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept: a warning always is."""
        return record.levelno >= logging.WARNING or not getattr(self.asking, "is_ours", False)


_ours = _Ours()
for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_ours)


@contextmanager
def kept_quiet() -> Iterator[None]:
    """Log nothing of the requests that this thread sends during a block."""
    before = getattr(_ours.asking, "is_ours", False)
    _ours.asking.is_ours = True
    try:
        yield
    finally:
        _ours.asking.is_ours = before
