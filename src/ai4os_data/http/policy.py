"""One policy for every request, of bytes and of DAV verbs: raise this error, or wait so long and try again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors, telemetry
from ai4os_data.http import statuses
from ai4os_data.http.failures import wrong_credentials
from ai4os_data.http.outages import FLAPPING, LOOK_S
from ai4os_data.http.refusals import LOOK_AT_DOUBT_S
from ai4os_data.http.retries import LOCKED_TRIES, LONGEST_LOCK_PAUSE_S, shortened

if TYPE_CHECKING:
    from ai4os_data.http.outages import Wait
    from ai4os_data.http.refusals import Credentials
    from ai4os_data.http.retries import Patience
    from ai4os_data.locations import Remote

_STUCK_AFTER = 2  # failures

Verdict = errors.StorageError | float
"""The error to raise, or the pause in seconds before the next try."""


class CallPolicy(NamedTuple):
    """What the requests of one call have in common.

    Attributes:
        credentials: what they are sent with.
        patience: deadlines, tries and pauses.
        counters: where retries and waited time are counted.
        wait: how long the call still waits for a server that is away.
    """

    credentials: Credentials
    patience: Patience
    counters: telemetry.Counters
    wait: Wait


class RequestTries:
    """The tries of one request: when the next one may be sent, and what each outcome means for it.

    Args:
        policy: that of the call.
        most: how many tries without any progress in between; by default as many as the patience has.
        most_locked: how many of a read, with short pauses, if the file is locked (423).
        size_bytes: how much is sent or received; it sets the deadline.
        waits: whether it is a read: one that waits for a server that is away.
        repeats: whether it may be sent again after an answer that leaves open whether the server has done it.

    Attributes:
        deadline: when it must be over, on the monotonic clock.
        is_first: whether others wait for the answer to it, since the credentials are in doubt.
        sent_with: the remote that the last try was sent with.
        is_foreign: whether another host is asked, to which the server had redirected: it is never waited for.
        fails_alone: whether it failed as it does if the server is away, while the server answered others.
    """

    def __init__(
        self,
        policy: CallPolicy,
        *,
        most: int | None = None,
        most_locked: int = LOCKED_TRIES,
        size_bytes: int | None = None,
        waits: bool = False,
        repeats: bool = True,
    ) -> None:
        self._policy = policy
        self._most = most or policy.patience.tries
        self._most_locked = most_locked if waits else None
        self._size_bytes = size_bytes
        self._waits = waits and policy.patience.outage_s > 0
        self._repeats = repeats
        self.deadline = policy.patience.deadline(size_bytes)
        self.is_first = self.is_foreign = self.fails_alone = False
        self.sent_with: Remote | None = None
        self._failures = 0
        self._away = 0  # tries that found the server away
        self._refused = 0  # tries that were answered with 401
        self._failed_s = self._began_s = 0.0
        self._last_error: errors.StorageError | None = None

    # --- before a try

    def turn(self, what: str, *, is_last: bool = False) -> Verdict | None:
        """The error if the request must not be sent, or the seconds until the next look; None if it may be sent now.

        Args:
            what: what messages call the request.
            is_last: whether it is sent once more when the wait for the server is over.
        """
        credentials, wait = self._policy.credentials, self._policy.wait
        turn = "go" if self.is_first else credentials.turn()
        if turn == "refused" or (self.is_first and self._refused and credentials.is_hopeless()):
            return errors.AuthenticationError(wrong_credentials(credentials.remote))
        if turn == "wait":
            return LOOK_AT_DOUBT_S
        if wait.is_over and not is_last:
            return self._gave_up(what)
        self.is_first = self.is_first or turn == "first"
        return None

    def wait_for_turn(self, what: str) -> None:
        """Wait until the request may be sent.

        Raises:
            AuthenticationError: the credentials were refused; no more requests are sent with them.
            StorageError: the server is away for too long.
        """
        wait = self._policy.wait
        while True:
            verdict = self.turn(what, is_last=True)
            if isinstance(verdict, errors.StorageError):
                raise verdict
            if verdict is None:
                if not (self._waits and wait.is_held) or wait.outage.may_ask():
                    return
                wait.hold()
                if wait.is_over:
                    raise self._gave_up(what)
                verdict = LOOK_S
            time.sleep(verdict)

    def begin(self, remote: Remote) -> None:
        """Record that a try is sent now, with the credentials of a remote: a 401 is about these and no others."""
        self._began_s = time.monotonic()
        self.sent_with = remote

    @property
    def found_away(self) -> bool:
        """Whether the last try found the server away."""
        return self._away > 0

    @property
    def is_stuck(self) -> bool:
        """Whether it has found the server away so often that another file should be asked for, to compare."""
        return self._away + self._failures > _STUCK_AFTER and self._away > 0

    # --- after a try

    def doubts(self, status: int) -> bool:
        """Whether an answer is not yet believed, right after an outage: then it is as if the server were away."""
        return self._waits and not self.is_foreign and self._policy.wait.outage.doubts(status)

    def answered(self, status: int) -> None:
        """Record that the server is there, and whether it takes the credentials."""
        if status in statuses.AWAY:
            return
        self._policy.wait.outage.answered(healed=bool(self._away) and status < 300)
        if status != 401:
            self._policy.credentials.accepted(was_doubted=self.is_first)
            self.is_first = False

    def refused(self, status: int, error: errors.StorageError, asked_s: float | None) -> Verdict:
        """What follows from an answer that is an error.

        Args:
            status: of the answer.
            error: that it stands for.
            asked_s: the pause that the server asked for.
        """
        if status == 401:
            return self._after_401(error)
        if status in statuses.UNCERTAIN and not self._repeats:
            error.retry_after_s = asked_s  # type: ignore[attr-defined]  # these three are ServerUnavailableError
            return error
        if status == 423 and self._most_locked is not None:
            # A lock concerns one file, and lasts for a moment or for an hour: a few tries show which.
            if self._failures + 1 >= self._most_locked:
                return error
            asked_s = shortened(asked_s, LONGEST_LOCK_PAUSE_S)
        if status in statuses.RETRIED:
            return self.failed(error, asked_s, is_away=status in statuses.AWAY)
        return error

    def broken(
        self, error: errors.StorageError, *, is_lasting: bool = False, has_heard: bool = False, is_unmet: bool = False
    ) -> Verdict:
        """What follows from a connection that failed.

        Args:
            error: what it stands for.
            is_lasting: whether it will fail so each time: a certificate that is not trusted.
            has_heard: whether something of the file came: then the server is not away.
            is_unmet: whether there may be no such server at all: a name that does not resolve, TLS that fails.
        """
        # Once the server has answered, its name and its certificate are right.
        has_answered = self._policy.credentials.answers > 0 or self._policy.wait.outage.has_answered
        is_of_tls = isinstance(error, errors.TLSError)  # nothing was sent
        if is_lasting or (not has_answered if is_of_tls else not self._repeats):
            return error
        # A server that has sent something is there; and after the deadline of all tries, silence proves nothing.
        is_away = not has_heard and time.monotonic() < self.deadline and (has_answered or not is_unmet)
        return self.failed(error, is_away=is_away)

    def progressed(self) -> None:
        """Record that the last try has brought a part that the next one resumes from."""
        self._failures = 0

    def failed(self, error: errors.StorageError, asked_s: float | None = None, *, is_away: bool = False) -> Verdict:
        """The pause before the next try, or the error if there is none.

        Args:
            error: how the last one failed.
            asked_s: the pause that the server asked for.
            is_away: whether it may be that the server is away.
        """
        if is_away and self._waits and not self.is_foreign:
            return self._counted(self._wait_out(error, asked_s))
        self._failures += 1
        pause_s = self._policy.patience.pause_s(self._failures, asked_s)
        is_over = self._failures >= self._most or time.monotonic() + pause_s > self.deadline
        return error if is_over else self._counted(pause_s)

    def sleep(self, pause_s: float) -> None:
        """Wait before the next try; if the server is away, until somebody finds it back."""
        wait = self._policy.wait
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._away and wait.outage.progress_s > self._failed_s:
                return
            time.sleep(min(LOOK_S, left_s))
            if self._away:
                wait.outage.log_waiting(wait.outage_s)

    def _gave_up(self, what: str) -> errors.StorageError:
        wait = self._policy.wait
        return wait.error(what) if self._last_error is None else wait.gave_up(self._last_error)

    def _after_401(self, error: errors.StorageError) -> Verdict:
        assert self.sent_with is not None
        self._refused += 1
        again = self._policy.credentials.refused(self.sent_with, self._refused, was_first=self.is_first)
        if again is None:
            return error
        self.is_first, pause_s = again
        return self._counted(pause_s)

    def _wait_out(self, error: errors.StorageError, asked_s: float | None) -> Verdict:
        """The pause after a try that found the server away; its tries are limited while other requests are answered."""
        patience, wait = self._policy.patience, self._policy.wait
        if self._away == 0 or wait.outage.progress_s > self._failed_s:
            self._failures += 1
            self._away = 0
        self._failed_s = time.monotonic()
        self._away += 1
        self._last_error = error
        if self._failures >= max(2, self._most) * (FLAPPING if wait.outage.flaps else 1):
            self.fails_alone = True
            return error
        failures = max(self._away, self._failures)
        pause_s = wait.failed(self._began_s, error, asked_s=asked_s, failures=failures)
        if pause_s is None:
            return wait.gave_up(error)
        # What is waited for does not count against the time that the request itself may take.
        self.deadline = max(self.deadline, patience.deadline(self._size_bytes) + pause_s)
        return pause_s

    def _counted(self, verdict: Verdict) -> Verdict:
        if isinstance(verdict, float):
            row = self._policy.counters.row
            row[telemetry.RETRIES] += 1
            row[telemetry.WAITED_NS] += int(verdict * 1e9)
        return verdict
