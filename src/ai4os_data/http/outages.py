"""Whether a server is away, as all requests of this process have found, and how long each call waits for it.

While a server is away, one request at a time finds out whether it is back; all others wait for that answer. The log has
a line when the waiting begins, one each minute, and one when it ends.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors
from ai4os_data.http import statuses
from ai4os_data.http.retries import shortened
from ai4os_data.machine import PerProcess
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.http.retries import Patience

T = TypeVar("T")

LOOK_S = 0.25  # how often waiting calls check whether the outage is over

FLAPPING = 5  # times as many tries, if the server fails now and then

_IN_A_ROW = 3  # failures, of any requests, that make an outage
_SAID_AFTER_S = 3.0  # shorter outages are not logged
_LINE_EVERY_S = 60.0
_LONGEST_PAUSE_S = 3.0  # so that a restarted server is found soon
_LONGEST_ASKED_S = 15.0  # Nextcloud asks for 120 in each maintenance, however short; 429 means what it asks for
_QUESTION_LASTS_S = 15.0  # then another request may ask, since this one may hang on a dead connection
_FLAPS_S = 60.0
_DOUBT_LASTS_S = 10.0
_DOUBTED_401 = 2
_LAST_TRY_S = 0.5  # before the end of the waiting


class Outage:
    """Whether one server answers, as the requests of this process have found.

    Args:
        where: what messages call the server; no secrets.

    Attributes:
        has_answered: whether it ever did, in this process.
        progress_s: when it last did, on the monotonic clock.
        other_urls: two files; if a third one does not come, asking for these shows whether the server is away.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.has_answered = False
        self.progress_s = time.monotonic()
        self.other_urls: tuple[str, ...] = ()
        self.reason = ""
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._failures = 0
        self._next_question_s = 0.0
        self._asking_until_s = 0.0
        self._line_s: float | None = None  # when the last line was written
        self._healed_s = -_FLAPS_S
        self._doubted: dict[int, tuple[float, int]] = {}

    @property
    def is_on(self) -> bool:
        """Whether the server seems to be away."""
        return self._failures >= _IN_A_ROW

    @property
    def flaps(self) -> bool:
        """Whether the server fails now and then, whatever is asked for, and not at certain files only."""
        return time.monotonic() - self._healed_s < _FLAPS_S

    def answered(self, *, healed: bool = False) -> None:
        """Record that the server has answered, or sent some bytes.

        Args:
            healed: whether it was a request that had found it away.
        """
        self.has_answered = True
        self.progress_s = time.monotonic()
        if healed:
            self._healed_s = self.progress_s
        if self._since_s is not None:
            self._end()

    def came(self, url: str) -> None:
        """Record that a file has come."""
        if url not in self.other_urls:
            self.other_urls = (url, *self.other_urls[:1])

    def failed(self, since_s: float, pause_s: float, reason: str) -> None:
        """Record that a request found the server away.

        Args:
            since_s: when the request began.
            pause_s: for how long no other request should be sent.
            reason: what it found.
        """
        with self._lock:
            if self._since_s is None:
                self._since_s = max(since_s, self.progress_s)
            self._failures += 1
            self.reason = reason
            self._next_question_s = time.monotonic() + pause_s
            self._asking_until_s = 0.0

    def doubts(self, status: int) -> bool:
        """Whether an answer is not to be believed yet, since the server may not have recovered from an outage.

        A proxy answers 404 until its server is back, and the server answers 401 or 500 until its own parts are. It
        accepts only a few wrong passwords.
        """
        with self._lock:
            if not self.is_on or status not in statuses.DOUBTFUL:
                return False
            now_s = time.monotonic()
            since_s, times = self._doubted.get(status, (now_s, 0))
            self._doubted[status] = since_s, times + 1
            return now_s - since_s < _DOUBT_LASTS_S and (status != 401 or times < _DOUBTED_401)

    def may_ask(self) -> bool:
        """Whether the caller is the one to ask now whether the server is back."""
        with self._lock:
            now_s = time.monotonic()
            if now_s < max(self._next_question_s, self._asking_until_s):
                return False
            self._asking_until_s = now_s + _QUESTION_LASTS_S
            return True

    def asks_not(self) -> None:
        """Record that the caller, who was allowed to ask, has no request to send."""
        with self._lock:
            self._asking_until_s = 0.0

    def log_waiting(self, longest_s: float, *, at_once: bool = False) -> None:
        """Log that the server is waited for, when that begins and each minute.

        Args:
            longest_s: how long the caller waits at most, in all.
            at_once: whether it would have given up by now without waiting.
        """
        with self._lock:
            now_s = time.monotonic()
            if self._since_s is None or not self._is_line_due(now_s, at_once=at_once):
                return
            is_first, self._line_s = self._line_s is None, now_s
            lasted_s, reason = now_s - self._since_s, self.reason
        if is_first:
            log.warning(
                "%s does not answer (%s). Reading waits for it, for %s at most; files in the cache are still read",
                self.where,
                reason,
                _spoken(longest_s),
            )
        else:
            log.warning("%s has not answered for %s; still waiting (%s)", self.where, _spoken(lasted_s), reason)

    def _is_line_due(self, now_s: float, *, at_once: bool) -> bool:
        assert self._since_s is not None
        if self._line_s is None:
            return at_once or now_s - self._since_s >= _SAID_AFTER_S
        return now_s - self._line_s >= _LINE_EVERY_S

    def _end(self) -> None:
        with self._lock:
            if self._since_s is None:
                return
            lasted_s, was_logged = time.monotonic() - self._since_s, self._line_s is not None
            self._since_s, self._failures, self._line_s = None, 0, None
            self._doubted.clear()
            self._next_question_s = self._asking_until_s = 0.0
        if was_logged:
            log.warning("%s answers again, after %s; reading continues", self.where, _spoken(lasted_s))


_outages: PerProcess[dict[str, Outage]] = PerProcess(dict)


def outage_of(where: str) -> Outage:
    """Whether a storage answers, as this process knows it.

    Args:
        where: what messages call it; no secrets.
    """
    return _outages.get().setdefault(where, Outage(where))


class Wait:
    """How long one call, of one request or of many, still waits for a server that is away.

    Args:
        outage: what is known of the server.
        patience: how long it waits.
    """

    def __init__(self, outage: Outage, patience: Patience) -> None:
        self.outage = outage
        self.outage_s = patience.outage_s
        self._patience = patience
        self._since_s: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether the call has to hold its requests back."""
        return self.outage_s > 0 and self.outage.is_on

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough, or is an orphan, and the server is still away."""
        return self.has_begun and (self._left_s(self._since_s or 0.0) <= 0 or _is_orphan())

    @property
    def has_begun(self) -> bool:
        """Whether the server made no progress since a request of the call failed, or was held back."""
        return self._since_s is not None and self._since_s >= self.outage.progress_s

    def hold(self) -> None:
        """Record that the call waits for others to find the server back."""
        self._begin(time.monotonic())
        self.outage.log_waiting(self.outage_s)

    def failed(
        self, began_s: float, error: errors.StorageError, *, asked_s: float | None, failures: int
    ) -> float | None:
        """The pause after a request of the call found the server away; None if it waits no longer.

        Args:
            began_s: when the request was sent.
            error: what it found.
            asked_s: the pause that the server asked for.
            failures: how often it failed so far.
        """
        left_s = self._left_s(self._begin(began_s))
        is_throttled = isinstance(error, errors.ThrottledError)
        pause_s = self._patience.pause_s(failures, asked_s if is_throttled else shortened(asked_s, _LONGEST_ASKED_S))
        if asked_s is None and not is_throttled:
            pause_s = min(pause_s, _LONGEST_PAUSE_S)
        pause_s = max(0.0, min(pause_s, left_s - _LAST_TRY_S)) if left_s > _LAST_TRY_S else max(0.0, left_s)
        self.outage.failed(began_s, pause_s, str(error))
        if left_s <= 0 or _is_orphan():
            return None
        is_news = failures >= self._patience.tries or pause_s > _SAID_AFTER_S
        self.outage.log_waiting(self.outage_s, at_once=is_news)
        return pause_s

    def gave_up(self, error: errors.StorageError) -> errors.StorageError:
        """What to raise when it waits no more."""
        waited = f"{error} Reading waited {_spoken(self.outage_s)} for it (outage_s={self.outage_s:g})"
        return type(error)(waited)

    def error(self, what: str) -> errors.StorageError:
        """What to raise for a request that was never sent."""
        return self.gave_up(errors.ServerUnavailableError(f"{what}: {self.outage.where} is away: {self.outage.reason}"))

    def _begin(self, began_s: float) -> float:
        if self._since_s is None or self._since_s < self.outage.progress_s:
            self._since_s = max(began_s, self.outage.progress_s)
        return self._since_s

    def _left_s(self, since_s: float) -> float:
        return since_s + self.outage_s - time.monotonic()


def waited_out(work: Callable[[], T], passes: Callable[[errors.StorageError], bool], wait: Wait) -> T:
    """The result of some work, which is repeated while it fails because its storage is away.

    Args:
        work: it may be repeated.
        passes: whether an error may pass.
        wait: how long to try.

    Raises:
        StorageError: it did not pass, or not in time.
    """
    failures = 0
    while True:
        began_s = time.monotonic()
        try:
            result = work()
        except errors.StorageError as error:
            if wait.outage_s <= 0 or not passes(error):
                raise
            failures += 1
            pause_s = wait.failed(began_s, error, asked_s=None, failures=failures)
            if pause_s is None:
                raise wait.gave_up(error) from error
            time.sleep(pause_s)
        else:
            wait.outage.answered()
            return result


def _is_orphan() -> bool:
    """Whether this is a worker whose trainer was killed: what it reads is not used."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
