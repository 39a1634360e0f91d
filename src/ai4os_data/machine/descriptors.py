"""Open files and connections of this process: the error that says there may be no more of them, and what to do."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

from ai4os_data import errors

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})


def exhausted(error: BaseException | None = None, error_number: int = 0) -> errors.OpenFilesError | None:
    """The error to raise if this process can open nothing more; None if something else is wrong.

    Args:
        error: what went wrong; what caused it counts too.
        error_number: that of the operating system, if a library reports no exception.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error_number = error_number or (error.errno or 0 if isinstance(error, OSError) else 0)
        if error_number in _EXHAUSTED:
            break
        error_number, error = 0, error.__cause__ or error.__context__
    if error_number not in _EXHAUSTED and not _is_full():
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = "as many"
    with suppress(OSError):  # listing takes a descriptor too
        count = f"{len(os.listdir('/proc/self/fd')):,}"
    return errors.OpenFilesError(
        f"this process may have {limit:,} files and connections open (`ulimit -n`), and has {count}. Raise the limit "
        "before it starts (`ulimit -n 65536`), or close what is not needed. PyTorch takes a file for each tensor that "
        "comes from a worker, unless torch.multiprocessing.set_sharing_strategy('file_system') is set"
    )


def _is_full() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _EXHAUSTED
    return False
