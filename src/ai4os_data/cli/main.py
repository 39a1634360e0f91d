"""The command ``ai4os-data``: reads the command line and starts what it names."""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING

import click

from ai4os_data import errors
from ai4os_data.cli.commands import PROGRAM, commands
from ai4os_data.cli.kinds import Chosen
from ai4os_data.cli.output import logged, silence

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as a shell has it: 128 and the number of the signal
_FAILED = 1
_NOT_THERE, _NO_ROOM, _IN_THE_WAY, _NOT_NOW = 3, 4, 5, 6

# The first that fits counts; docs/command-line.md says what each is for.
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.NameRefusedError, _FAILED),
    (errors.TLSError, _FAILED),
    (errors.LocationError, _NOT_THERE),
    (errors.EmptyDatasetError, _NOT_THERE),
    (errors.NotFoundError, _NOT_THERE),
    (errors.OutOfSpaceError, _NO_ROOM),
    (errors.OverwriteError, _IN_THE_WAY),
    (errors.ServerUnavailableError, _NOT_NOW),
    (errors.DeadlineError, _NOT_NOW),
    (errors.ThrottledError, _NOT_NOW),
    (errors.LockedError, _NOT_NOW),
)

# How an argument that messages name is written here.
_WORDS = {
    "overwrite=True": "--overwrite",
    "pattern=": "--pattern",
    "prepare=shrink(…)": "--shrink",
    "and size_limit is": "and --size-limit is",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code.

    Raises:
        SystemExit: there is nothing to run: the help was asked for (0), or the command line is wrong (2).
    """
    debug = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names that are no UTF-8 go out as they are
    try:
        chosen = _chosen(arguments)
        debug = chosen.given.pop("debug")
        # Only here: the demo takes torch, and no other command should wait for that.
        command = import_module(f"ai4os_data.cli.{chosen.module}")
        with logged():
            return int(command.run(command.Options(**chosen.given)))
    except (errors.StorageError, ImportError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _PIPE_CLOSED
        if debug:
            traceback.print_exc()
        print(f"{PROGRAM}: {_said(error)}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), _FAILED)
    except click.UsageError as error:  # what only shows when the storage has been looked at
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    finally:
        _flush()


def _chosen(arguments: Sequence[str] | None) -> Chosen:
    """What is to run."""
    try:
        chosen = commands.main(None if arguments is None else [*arguments], PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    if not isinstance(chosen, Chosen):  # the help was shown, or the version
        raise SystemExit(chosen)
    return chosen


def _said(error: BaseException) -> str:
    """What an error says; one of the system alone says it by number, and not always where."""
    if isinstance(error, OSError) and not isinstance(error, errors.StorageError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    text = str(error)
    for said, typed in _WORDS.items():
        text = text.replace(said, typed)
    return text


def _flush() -> None:
    """Flush here, so that a closed pipe is found now: at its end Python would print an error of its own."""
    try:
        if sys.stdout is not None:  # closed by the shell, as by >&-
            sys.stdout.flush()
    except OSError:
        silence()
