"""How often a request is tried, how long a try and a pause last, and when the last try must be over."""

from __future__ import annotations

import email.utils
import math
import random
import time
from dataclasses import dataclass, replace

OUTAGE_S = 600.0
"""How long the reads of a dataset or a file system wait for a server that is away, unless the user says otherwise."""

OPENING_S = 30.0
"""How long opening something waits for a server that is away: then the kept index serves, or the error is raised."""

LOCKED_TRIES = 3  # of a read: a lock is short, or lasts for an hour
LONGEST_LOCK_PAUSE_S = 3.0  # whatever pause is asked for: who waits longer waits for one file

_SHORTEST_SILENCE_S = 10  # a server that works may take as long
_SERVER_BYTES_PER_S = 1024 * 1024
_MOST_DOUBLINGS = 30


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
        outage_s: how long a read waits for a server that is away, whatever the number of tries, from the first failure
            without any progress of that server. 0: a read ends with its tries, as a write always does.

    Raises:
        ValueError: ``outage_s`` is no number of seconds.
    """

    tries: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    connect_s: float = 10.0
    stall_s: int = 60
    total_s: float = 600.0
    slowest_bytes_per_s: int = 64 * 1024
    outage_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no number of seconds."""
        checked_outage_s(self.outage_s)

    def hurried(self, limit_s: float, *, waits: bool) -> Patience:
        """The same for a request that nobody waits for longer than ``limit_s``.

        Args:
            limit_s: the longest time until there is an answer.
            waits: whether nothing can take the place of the answer, so that an outage is waited for up to that time.
        """
        if waits:
            return replace(self, outage_s=min(self.outage_s, limit_s))
        return replace(
            self,
            outage_s=0.0,
            total_s=min(self.total_s, limit_s),
            connect_s=min(self.connect_s, limit_s),
            stall_s=min(self.stall_s, max(1, int(limit_s))),
        )

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """The pause after this many failures in a row, or the one that the server asked for."""
        if retry_after_s is not None:
            return retry_after_s + random.uniform(0, self.first_pause_s)
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** min(failures - 1, _MOST_DOUBLINGS))
        return random.uniform(longest / 2, longest)

    @property
    def hears_within_s(self) -> int:
        """The longest silence in an answer; less if the caller waits less than that for a server that is away."""
        return int(min(self.stall_s, max(_SHORTEST_SILENCE_S, self.outage_s))) if self.outage_s else self.stall_s

    def silence_s(self, size_bytes: int) -> float:
        """How long a server may be silent while it works through what was sent to it."""
        return self.stall_s + size_bytes / _SERVER_BYTES_PER_S

    def deadline(self, size_bytes: int | None = None) -> float:
        """When a request that begins now must be over, on the monotonic clock."""
        return time.monotonic() + self.total_s + (size_bytes or 0) / self.slowest_bytes_per_s


def checked_outage_s(outage_s: float) -> float:
    """A number of seconds to wait for a server that is away.

    Raises:
        ValueError: it is none.
    """
    given: object = outage_s
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or math.isnan(outage_s) or outage_s < 0:
        raise ValueError(
            f"outage_s is a number of seconds, 0 or more, that reads wait for a server that is away, not {outage_s!r}"
        )
    return outage_s


def shortened(asked_s: float | None, longest_s: float) -> float | None:
    """A pause that the server asks for, or none, with a limit."""
    return None if asked_s is None else min(asked_s, longest_s)


def retry_after_s(value: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks for, given in seconds or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value)
    try:
        then_s = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):  # the latter of the years 1 and 9999, in some time zones
        return None
    return max(0.0, then_s - time.time())
