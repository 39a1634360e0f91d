"""How often, how long and for how much in all we try a request again."""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass

RETRIED_STATUSES = frozenset({423, 429, 502, 503, 504})
UNCERTAIN_STATUSES = frozenset({502, 503, 504})  # from a gateway, behind which the server may have done it

_SERVER_BYTES_PER_S = 1024 * 1024


@dataclass(frozen=True)
class Patience:
    """The deadlines of a request, and the pauses between its tries.

    Args:
        tries: how many times a request is sent at most without any progress in between.
        first_pause_s: the longest first pause; it doubles with each try ("full jitter",
            https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        longest_pause_s: where the doubling ends. ``Retry-After`` is followed beyond it.
        connect_s: deadline for a connection.
        stall_s: deadline without a byte, before or in the middle of an answer; whole seconds.
        total_s: deadline for a request with all its tries.
        slowest_bytes_per_s: a body of known size may take this much longer than ``total_s``.
    """

    tries: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    connect_s: float = 10.0
    stall_s: int = 60
    total_s: float = 600.0
    slowest_bytes_per_s: int = 64 * 1024

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """How long to wait after so many failures in a row, or as long as the server asked for."""
        if retry_after_s is not None:
            return retry_after_s + random.uniform(0, self.first_pause_s)
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** (failures - 1))
        return random.uniform(longest / 2, longest)

    def silence_s(self, size_bytes: int) -> float:
        """How long a server may be silent while it works through what was sent to it."""
        return self.stall_s + size_bytes / _SERVER_BYTES_PER_S

    def deadline(self, size_bytes: int | None = None) -> float:
        """When a request that begins now must be over, on the monotonic clock."""
        return time.monotonic() + self.total_s + (size_bytes or 0) / self.slowest_bytes_per_s


def retry_after_s(value: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks for, given in seconds or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value)
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, then.timestamp() - time.time())
