"""The end of a process: what is on its way arrives while threads and clients still work, within a bound.

The interpreter ends the pools of threads first, and then daemon threads in the middle of whatever they do. So runs that
nobody has closed are waited for before that.
"""

from __future__ import annotations

import concurrent.futures.thread as pools  # its own callback is to come after ours, and so is registered before
import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.checkpoint.preemption import end_guards
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.checkpoint.staging import Staging
    from ai4os_data.checkpoint.uploads import Upload, Uploads

_endings: weakref.WeakSet[Ending] = weakref.WeakSet()
_has_begun = threading.Event()


class Ending:
    """What a run has to bring to its end when the process ends.

    Args:
        location: what messages call it.
        staging: of the run.
        uploads: of the run.
    """

    def __init__(self, location: str, staging: Staging, uploads: Uploads) -> None:
        self._location = location
        self._staging = staging
        self._uploads = uploads
        self._pid = os.getpid()
        self._is_over = False
        self._awaited: list[Upload] = []
        _endings.add(self)
        if _has_begun.is_set():  # made by what runs on: nobody comes back to it, and each upload has its bound
            self._uploads.begin_exit()
            self._uploads.leave()
            self._is_over = True

    @property
    def is_open(self) -> bool:
        """Whether it has still to be waited for, by this process and not by the parent of a fork."""
        return self._pid == os.getpid() and not self._is_over

    def begin(self) -> list[Upload]:
        """Let nothing more be waited for than needs be; what is on its way, once all is in the spool."""
        self._staging.wait_until_free(None)
        on_the_way = self._uploads.begin_exit()
        self._awaited = self._uploads.unsent()  # and not what a thread goes on saving
        return on_the_way

    @property
    def patience_s(self) -> float:
        """How long it is waited after the last progress."""
        return self._uploads.closing_s

    def wait(self) -> None:
        """Wait until all is sent, has failed, or has made no progress for too long."""
        self._uploads.wait_for(self._awaited)

    def tell(self, why: str) -> None:
        """Wait no more; what is not on the storage is logged, once, with where it is.

        Args:
            why: what has ended the wait, where nothing has failed.
        """
        self._is_over = True
        left, error = self._uploads.leave()
        if not left:
            return
        steps = ", ".join(str(upload.spooled.name.step) for upload in sorted(left, key=_order))
        log.error(
            "%s: step%s %s %s not on the storage (%s). The next start of the run on this machine sends %s from the "
            "spool: %s",
            self._location,
            "s" if len(left) > 1 else "",
            steps,
            "are" if len(left) > 1 else "is",
            error or why,
            "them" if len(left) > 1 else "it",
            ", ".join(str(upload.spooled.folder) for upload in sorted(left, key=_order)),
        )


def _order(upload: Upload) -> tuple[object, ...]:
    return (upload.spooled.name.order, upload.spooled.name)


def finish_runs() -> None:
    """Bring every run of this process to its end. Ctrl-C ends the wait."""
    try:
        _wait_for_threads()
    except KeyboardInterrupt:
        log.warning("interrupted: the threads of this process are not waited for, and what they save comes too late")
    _has_begun.set()
    endings = _open_ones()
    if not endings:
        return
    end_guards()
    try:
        why = _wait_for(endings)
    except KeyboardInterrupt:
        why = "interrupted"
    for ending in endings:
        ending.tell(why)


def daemons() -> bool:
    """Whether a new thread of ours is to be a daemon: what is on its way is waited for here, and later by nobody."""
    return not _has_begun.is_set()


def rest_if_ending() -> None:
    """Let a thread that is a daemon save no more once the process ends, and never return.

    The interpreter is about to end it wherever it is, and inside of torch that aborts the process.
    """
    if _has_begun.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


def _open_ones() -> list[Ending]:
    return [ending for ending in list(_endings) if ending.is_open]


def _wait_for_threads() -> None:
    """Wait for threads that may train, as the interpreter does right after this, while pools still work."""
    while threads := [thread for thread in threading.enumerate() if _is_waited_for(thread)]:
        log.info("the script has ended: waiting for the thread %s, which may still save", threads[0].name)
        threads[0].join()


def _is_waited_for(thread: threading.Thread) -> bool:
    """Whether the interpreter will wait until a thread ends by itself; those of pools end when they are told, later."""
    is_of_pool = thread in pools._threads_queues or type(thread).__module__.startswith("concurrent.")  # noqa: SLF001  there is no public name for it
    return not (thread.daemon or is_of_pool or thread in {threading.current_thread(), threading.main_thread()})


def _wait_for(endings: Sequence[Ending]) -> str:
    """Wait for what is on its way; what has ended the wait."""
    on_their_way = [upload for ending in endings for upload in ending.begin()]
    patience_s = max(ending.patience_s for ending in endings)
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
