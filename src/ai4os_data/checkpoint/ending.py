"""The end of a process waits for the uploads that are on their way, within a bound, while threads still work.

The interpreter ends the pools of threads first, and then stops daemon threads wherever they are. So runs that nobody
has closed are waited for before that.
"""

from __future__ import annotations

import concurrent.futures.thread as pools  # its callback is registered before ours, to run after it
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint.signals import restore_all
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.checkpoint.staging import Staging
    from ai4os_data.checkpoint.uploads import Upload, Uploads

_endings: weakref.WeakSet[RunEnding] = weakref.WeakSet()
_users: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # threads that have made a run, or saved
_has_begun = threading.Event()
_has_ended = threading.Event()
_REST_S = 5.0  # after the last wait: if the process lives longer, it waits for the resting thread
_LOOK_S = 0.1


class RunEnding:
    """The uploads of a run that have to end when the process ends.

    Args:
        location: what messages call it.
        staging: of the run.
        uploads: of the run.
    """

    def __init__(self, location: str, staging: Staging, uploads: Uploads) -> None:
        self._location = location
        self._staging = staging
        self.uploads = uploads
        self._pid = os.getpid()
        self._is_over = False
        self._awaited: list[Upload] = []
        _endings.add(self)
        if _has_begun.is_set():  # a run that is made so late: nobody waits for it later, and each upload has its bound
            self.uploads.begin_exit()
            self.uploads.leave()
            self._is_over = True

    @property
    def is_open(self) -> bool:
        """Whether this process, and not the parent of a fork, still has to wait for it."""
        return self._pid == os.getpid() and not self._is_over

    def close(self) -> None:
        """Record that the run is closed: nothing is being sent."""
        self._is_over = True

    def begin(self) -> list[Upload]:
        """Limit what is waited for. Returns the uploads on their way, once everything is in the spool."""
        self._staging.wait_until_free(None)
        on_the_way = self.uploads.begin_exit()
        self._awaited = self.uploads.unsent()  # without what a thread saves from now on
        return on_the_way

    def wait(self) -> None:
        """Wait until all is sent, has failed, or has made no progress for too long."""
        self.uploads.wait_for(self._awaited)

    def give_up(self, why: str) -> None:
        """Stop waiting; log once what is not on the storage, and where it is.

        Args:
            why: what has ended the wait, if nothing has failed.
        """
        self._is_over = True
        left, error = self.uploads.leave()
        if not left:
            return
        left.sort(key=lambda upload: (upload.spooled.name.order, upload.spooled.name))
        plural, are, them = ("s", "are", "them") if len(left) > 1 else ("", "is", "it")
        log.error(
            f"%s: step{plural} %s {are} not on the storage (%s). The next start of the run on this machine sends "
            f"{them} from the spool: %s",
            self._location,
            ", ".join(str(upload.spooled.name.step) for upload in left),
            error or why,
            ", ".join(str(upload.spooled.folder) for upload in left),
        )


def finish_runs() -> None:
    """End every run of this process. Ctrl-C ends the wait."""
    try:
        _wait_for_threads()
    except KeyboardInterrupt:
        log.warning("interrupted: the threads of this process are not waited for, and what they save comes too late")
    _has_begun.set()
    if endings := _open_ones():
        restore_all()
        try:
            why = _wait_for(endings)
        except KeyboardInterrupt:
            why = "interrupted"
        for ending in endings:
            ending.give_up(why)
    _has_ended.set()


def daemons() -> bool:
    """Whether new threads of ours are daemons: uploads are waited for here, and nowhere after this."""
    return not _has_begun.is_set()


def is_late() -> bool:
    """Whether the functions of `atexit` are running: nothing waits for threads that they start."""
    return _has_ended.is_set() and threading.current_thread() is threading.main_thread()


def note_thread() -> None:
    """Record that this thread uses runs: unless it is a daemon, the end of the process waits for it."""
    _users.add(threading.current_thread())


def rest_if_ending() -> None:
    """Keep a daemon thread from saving once the process ends.

    The interpreter is about to stop the thread wherever it is, and inside torch that aborts the process.

    Raises:
        CheckpointError: the process waits for the thread, as a function of `atexit` may.
    """
    if _has_begun.is_set() and threading.current_thread().daemon:
        _has_ended.wait()
        time.sleep(_REST_S)
        raise errors.CheckpointError(
            "the process ends, and this thread is a daemon, which could be cut off in the middle of a save: save in a "
            "thread that is no daemon, or stop and join this one before the end of the script"
        )


def _open_ones() -> list[RunEnding]:
    return [ending for ending in list(_endings) if ending.is_open]


def _wait_for_threads() -> None:
    """Wait for threads that may train, as the interpreter does right after this, while pools still work.

    Threads that have used a run are waited for as long as it takes. Other threads may still use one while a run is
    open, or never will: their wait has a bound.
    """
    until = time.monotonic() + max((ending.uploads.closing_s for ending in _open_ones()), default=0.0)
    logged: set[threading.Thread] = set()
    while threads := [thread for thread in threading.enumerate() if _is_waited_for(thread)]:
        known = [thread for thread in threads if thread in _users]
        if not known and time.monotonic() >= until:
            return
        thread = (known or threads)[0]
        if thread not in logged:
            logged.add(thread)
            log.info("the script has ended: waiting for the thread %s, which may still save", thread.name)
        thread.join(_LOOK_S)


def _is_waited_for(thread: threading.Thread) -> bool:
    """Whether the interpreter will wait for a thread, and the thread may end by itself."""
    if thread.daemon or thread in {threading.current_thread(), threading.main_thread()}:
        return False
    return not (_is_of_a_pool(thread) or _waits_for_the_end(thread))


def _is_of_a_pool(thread: threading.Thread) -> bool:
    """Whether a thread is of a pool, whose module ends it later in the same way."""
    ends_pools = {getattr(call.func, "__module__", None) for call in threading._threading_atexits}  # type: ignore[attr-defined]  # noqa: SLF001  there is no public name for it
    target = getattr(thread, "_target", None)
    made_by = {type(thread).__module__, getattr(target, "__module__", None)}
    is_of_pool = thread in pools._threads_queues or type(thread).__module__.startswith("concurrent.")  # noqa: SLF001  nor for this
    return is_of_pool or not made_by.isdisjoint(ends_pools)


def _waits_for_the_end(thread: threading.Thread) -> bool:
    """Whether a thread waits for the end of the main thread, which comes after this."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001  the documented name
    while frame is not None:
        if frame.f_code is threading.Thread.join.__code__ and frame.f_locals.get("self") is threading.main_thread():
            return True
        frame = frame.f_back
    return False


def _wait_for(endings: Sequence[RunEnding]) -> str:
    """Wait for what is being sent. Returns what has ended the wait."""
    on_their_way = [upload for ending in endings for upload in ending.begin()]
    patience_s = max(ending.uploads.closing_s for ending in endings)
    if on_their_way:
        log.warning(
            "the process ends with %d checkpoint%s on the way to the storage: waiting up to %g s after the last "
            "progress; Ctrl-C ends the wait. A with block, or close(), waits before the end and raises what fails",
            len(on_their_way),
            "" if len(on_their_way) == 1 else "s",
            patience_s,
        )
    for ending in endings:
        ending.wait()
    return f"no progress for {patience_s:g} s"


with suppress(RuntimeError):  # imported while the interpreter ends
    # Not atexit: that comes after threads and pools have ended.
    threading._register_atexit(finish_runs)  # type: ignore[attr-defined]  # noqa: SLF001  as concurrent.futures does
