"""How often an upload is tried, and the pauses in between: both follow from the server's answers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import Standing, standing_of

if TYPE_CHECKING:
    from ai4os_data.http import Patience

REFUSED_TRIES = 3
"""How often an upload is tried if the server refuses it: the first refusal may be a proxy's mistake."""

_BACK_FOR_S = 30.0  # for so long after an outage a proxy may still refuse requests
_FULL_TIMES = 5  # longer pauses: a full server gets room after minutes, if at all
_FULL_LONGEST_TIMES = 10


class Tries:
    """The tries of the uploads of one run: those of the upload under way, and whether the server is full.

    Args:
        patience: the pauses between tries.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._full = 0  # how often in a row the server was full, over all uploads
        self._full_until_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Count the tries of another upload."""
        self.failures = 0
        self._refused = 0  # in a row
        self._away_s = -_BACK_FOR_S

    def arrived(self) -> None:
        """Record that an upload has arrived: the server has room."""
        self._full, self._full_until_s = 0, 0.0

    @property
    def full_for_s(self) -> float:
        """How long nothing should be sent, since the server was full."""
        return max(0.0, self._full_until_s - time.monotonic())

    def failed(self, error: errors.StorageError) -> float | None:
        """The pause before the next try; None if there is no other try, since the error will not pass.

        Args:
            error: what this try failed with.
        """
        self.failures += 1
        standing = standing_of(error)
        if standing is Standing.PASSING:
            return self._passing(error)
        if standing is Standing.CREDENTIALS or error.status is None:
            return None
        self._refused += 1
        if self._refused >= REFUSED_TRIES and time.monotonic() - self._away_s >= _BACK_FOR_S:
            return None
        return self.patience.pause_s(self._refused)

    def _passing(self, error: errors.StorageError) -> float:
        self._refused = 0
        if not isinstance(error, errors.OutOfSpaceError):
            self._away_s = time.monotonic()
            return self.patience.pause_s(self.failures)
        self._full += 1
        slower = replace(
            self.patience,
            first_pause_s=_FULL_TIMES * self.patience.first_pause_s,
            longest_pause_s=_FULL_LONGEST_TIMES * self.patience.longest_pause_s,
        )
        pause_s = slower.pause_s(self._full)
        self._full_until_s = time.monotonic() + pause_s
        return pause_s
