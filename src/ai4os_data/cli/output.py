"""What a command prints: if nobody reads the pipe any more it continues in silence, and the exit code says the rest."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = logging.getLogger("ai4os_data")  # by its name: what the room of the log imports takes a tenth of a second


def say(text: object = "") -> None:
    """Print a line at once.

    Raises:
        StorageError: it cannot be written, as on a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as of `ai4os-data doctor | head -1`
        silence()
    except OSError as error:
        silence()
        raise StorageError(f"the output cannot be written: {error.strerror}") from error


def silence() -> None:
    """Print nothing more, and let Python find nothing that it cannot print when it ends."""
    with suppress(OSError, ValueError):  # one that a test has put in its place is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def note(text: object) -> None:
    """Print a line beside the output, above a bar that is shown."""
    tqdm = sys.modules.get("tqdm")
    with suppress(OSError):  # nobody reads it
        if tqdm is None:
            print(text, file=sys.stderr, flush=True)
        else:
            tqdm.tqdm.write(str(text), file=sys.stderr)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"ai4os-data: {record.getMessage()}")


@contextmanager
def logged() -> Iterator[None]:
    """Show the warnings of the library beside the output; a command may ask the log for more."""
    notes, level = _Notes(), _LOG.level
    _LOG.addHandler(notes)
    try:
        yield
    finally:
        _LOG.removeHandler(notes)
        _LOG.setLevel(level)
