"""When a file last changed, as numbers: stores spell it as HTTP dates, ISO dates and seconds."""

from __future__ import annotations

import email.utils
from datetime import datetime, timezone


def nanoseconds(text: str | None) -> int | None:
    """A moment in nanoseconds since the epoch; None if the text is not understood.

    Args:
        text: seconds, an HTTP date (RFC 9110, 5.6.7) or an ISO 8601 date; without a time zone it is UTC.
    """
    if not text:
        return None
    try:
        return _of_seconds(float(text))
    except ValueError:
        pass
    try:
        return None if (moment := date_of(text)) is None else _of_seconds(moment.timestamp())
    except OverflowError:  # for the years 1 and 9999, in some time zones
        return None


def date_of(text: str) -> datetime | None:
    """A moment from an HTTP date or an ISO 8601 date; None if the text is neither."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        except ValueError:
            return None
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment


def _of_seconds(seconds: float) -> int | None:
    """Seconds as nanoseconds, to the microsecond, if a file can have them."""
    return round(seconds * 1e6) * 1000 if -(1 << 31) <= seconds < 1 << 33 else None
