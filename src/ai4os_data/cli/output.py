"""What a command prints: if nobody reads the pipe any more it continues in silence, and the exit code says the rest."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ai4os_data.errors import StorageError


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
