"""Remembers that a server refused some credentials, for every process of this machine that holds them.

Nextcloud shuts an address out after a few wrong passwords, for the right one too. So after the first 401 no process
that held these credentials sends another request; one that starts later may try once. After some good answers a 401 is
odd: then the credentials are read anew, and one request of all these processes is tried once more. If that is refused
too, no more are sent for some time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ai4os_data.machine import ownership

if TYPE_CHECKING:
    from ai4os_data.locations import Remote

Turn = Literal["go", "first", "wait", "refused"]

LOOK_AT_DOUBT_S = 0.1  # how often waiting requests check whether the second try was answered

_SECOND_TRY_AFTER_S = 0.5
_DOUBT_LASTS_S = 90.0  # longer than a request without an answer; the process that had the second try may be gone
_STANDS_S = 30.0  # how long a refusal stands; twice as long after each further one
_MOST_DOUBLINGS = 7
_READ_EVERY_S = 5.0
_GO_LASTS_S = 0.005  # asking again takes two system calls, a tenth of our own cost of a small file
_ODD_AFTER = 4  # good answers; until then a 401 is believed


class Refusals:
    """The mark that one set of credentials was refused: a file with a byte for each, whose name reveals nothing."""

    def __init__(self, remote: Remote) -> None:
        self.held_since = time.time()
        self._mark = f"{_folder()}/{_fingerprint(remote)}"
        self._doubt = f"{self._mark}.doubt"

    def record(self) -> None:
        """Let everyone who holds these credentials know that they were refused."""
        with suppress(OSError):  # without the mark each process finds out by itself
            self._make_folder()
            _count(self._mark)
            now_ns = time.time_ns()
            os.utime(self._mark, ns=(now_ns, now_ns))  # the kernel's own stamp may be a tick older than held_since
        self.end_doubt()

    def accepted(self) -> None:
        """Let everyone know that the credentials are good after all."""
        with suppress(OSError):
            os.unlink(self._mark)
        self.end_doubt()

    def turn(self) -> Turn:
        """What a request with these credentials has to do.

        ``"go"``; ``"first"``: go as the only one, whose answer the others wait for; ``"wait"`` for such an answer; or
        be ``"refused"`` without being sent.
        """
        refusal = self._refusal()
        if refusal == "refused":
            return "refused"
        if self.in_doubt():
            return "wait"
        if refusal == "old":
            return "first" if self.claim_second_try() else "wait"
        return "go"

    def in_doubt(self) -> bool:
        """Whether some request is trying these credentials once more."""
        doubted = ownership.own_file(self._doubt)
        return doubted is not None and time.time() - doubted.st_mtime < _DOUBT_LASTS_S

    def claim_second_try(self) -> bool:
        """Whether the caller is the one, among all processes, to try these credentials once more."""
        try:
            self._make_folder()
            if not self.in_doubt():
                with suppress(FileNotFoundError):
                    os.unlink(self._doubt)
            os.close(os.open(self._doubt, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            with suppress(OSError):  # whoever tries once more learns that others were refused too
                _count(self._doubt)
            return False
        except OSError:  # there is no file by which to agree
            return True
        return True

    def is_confirmed(self) -> bool:
        """Whether others were refused while this one waits for its second try: then the 401 was no exception."""
        doubted = ownership.own_file(self._doubt)
        return doubted is not None and doubted.st_size > 0

    def end_doubt(self) -> None:
        """Let the other requests continue."""
        with suppress(OSError):
            os.unlink(self._doubt)

    def _refusal(self) -> Literal["none", "refused", "old"]:
        refused = ownership.own_file(self._mark)
        if refused is None or refused.st_mtime < self.held_since:
            return "none"
        stands_s = _STANDS_S * 2 ** min(max(0, refused.st_size - 1), _MOST_DOUBLINGS)
        return "refused" if time.time() - refused.st_mtime < stands_s else "old"

    def _make_folder(self) -> None:
        folder = os.path.dirname(self._mark)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if ownership.refusal(folder, is_fallback=True) is not None:
            raise PermissionError(errno.EACCES, "another user has made it", folder)


class Credentials:
    """A remote as its credentials are now: they are read anew if a server no longer accepts them.

    Attributes:
        remote: the server, and who we are there.
        refusals: what is known of refusals of these credentials.
        answers: how many answers they have got; counted up to the few that make a 401 odd.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote.authorized()
        self.refusals = Refusals(self.remote)
        self.answers = 0
        self._read_s = -_READ_EVERY_S
        self._go_until_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what is known of them: those refused since the original was made stay refused."""
        return {"remote": self.remote, "held_since": self.refusals.held_since, "answers": self.answers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it anew."""
        self.__init__(state["remote"])  # type: ignore[misc]
        self.refusals.held_since, self.answers = state["held_since"], state["answers"]

    def accepted(self, *, was_doubted: bool) -> None:
        """Record that the server answered a request with them.

        Args:
            was_doubted: whether the request was the one that others wait for.
        """
        if was_doubted or self.answers < _ODD_AFTER:
            if was_doubted or not self.answers:
                self.refusals.accepted()
            self.answers += 1

    def turn(self) -> Turn:
        """What a request has to do, as in `Refusals.turn`; refused credentials are read anew."""
        if time.monotonic() < self._go_until_s:
            return "go"
        turn = self.refusals.turn()
        if turn == "go":
            self._go_until_s = time.monotonic() + _GO_LASTS_S
        if turn == "first" or (turn == "refused" and time.monotonic() - self._read_s >= _READ_EVERY_S):
            before = self.refusals
            self._read_anew()
            return turn if self.refusals is before else self.refusals.turn()
        return turn

    def is_hopeless(self) -> bool:
        """Whether a second try is pointless, since others are refused too; then no more requests are sent."""
        if not self.refusals.is_confirmed():
            return False
        self.refusals.record()
        return True

    def refused(self, sent: Remote, tries: int, *, was_first: bool) -> tuple[bool, float] | None:
        """What becomes of a request that the server answered with 401.

        Args:
            sent: the remote that it was sent with.
            tries: how many 401 it got.
            was_first: whether the others waited for this answer.

        Returns:
            Whether it is now the one whose answer the others wait for, and the pause before it is sent again. None if
            it is not: no more requests are sent with these credentials.
        """
        self._go_until_s = 0.0
        if sent is not self.remote and tries <= 1:
            return False, 0.0
        before = self.refusals
        if tries <= 1 and self.answers < _ODD_AFTER and self.remote.token_command and self._read_anew():
            before.record()  # for those who still hold the token that has expired
            return False, 0.0
        if self.answers < _ODD_AFTER or tries > 1 or was_first:
            self.refusals.record()
            return None
        if not self.refusals.claim_second_try():
            return False, LOOK_AT_DOUBT_S
        self._read_anew()
        return sent is self.remote, _SECOND_TRY_AFTER_S

    def _read_anew(self) -> bool:
        """Find the remote again; credentials that are new begin with nothing known of them. Whether they are."""
        self._read_s = time.monotonic()
        found = self.remote.renewed()
        if found is None:
            return False
        self.refusals.end_doubt()
        self.remote, self.refusals, self.answers = found, Refusals(found), 0
        return True


def _count(mark: str) -> None:
    """Make a mark one byte longer."""
    with open(mark, "ab", buffering=0, opener=ownership.open_file) as file:
        file.write(b"-")


def _folder() -> str:
    # Memory is in no snapshot of the disk, and the folder in it is our own, mode 0700.
    shared = "/dev/shm"  # noqa: S108
    return f"{shared if os.access(shared, os.W_OK) else tempfile.gettempdir()}/ai4os-data-{os.getuid()}"


def _fingerprint(remote: Remote) -> str:
    """A name for the credentials, keyed by the running kernel so that guesses cannot be tried on it later."""
    try:
        key = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        key = b""
    secret = "\0".join(
        [remote.origin, remote.user or "", remote.password or "", remote.token or "", *map(repr, remote.headers)]
    )
    return hashlib.blake2b(secret.encode(), key=key[:64], digest_size=16).hexdigest()
