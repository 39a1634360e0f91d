"""Bearer tokens that a command prints, as rclone's ``bearer_token_command`` has it: run once a process, then kept."""

from __future__ import annotations

import csv
import subprocess
import threading

from ai4os_data.errors import RemoteError
from ai4os_data.machine import PerProcess

_DEADLINE_S = 60.0
_SHOWN_CHARACTERS = 300

_printed: dict[tuple[str, ...], str] = {}
_running: PerProcess[threading.Lock] = PerProcess(threading.Lock)  # a parent's may be held for ever in a child


def command_of(text: str) -> tuple[str, ...]:
    """The words of a command: between spaces, ``"`` around a word that has some, as rclone reads it."""
    return tuple(next(csv.reader([text], delimiter=" "), []))


def token_of(command: tuple[str, ...], whose: str, refused: str | None = None) -> str:
    """The token that a command prints.

    Args:
        command: its words; no shell sees them.
        whose: whose it is, for messages.
        refused: a token that is no longer accepted. The command is run again if this is the one that was kept.

    Raises:
        RemoteError: the command cannot be run, fails, or prints no token.
    """
    with _running.get():
        token = _printed.get(command)
        if token is None or token == refused:
            token = _printed[command] = _run(command, whose)
        return token


def _run(command: tuple[str, ...], whose: str) -> str:
    what = f"the bearer_token_command of {whose} ({command[0]!r})"
    try:
        done = subprocess.run(  # noqa: S603  what the user has configured to be run
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        failure = f"{what} has printed no token after {_DEADLINE_S:.0f} s"
    except (OSError, ValueError) as error:
        failure = f"{what} cannot be run ({getattr(error, 'strerror', None) or error}): is it installed, and on PATH?"
    else:
        token = done.stdout.decode("ascii", "replace").strip()
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[:_SHOWN_CHARACTERS]
            failure = f"{what} ended with {done.returncode}: {said or 'it said nothing on stderr'}"
        elif not token or not all("!" <= character <= "~" for character in token):
            failure = f"{what} printed no token, but {'nothing' if not token else 'several words or lines'}"
        else:
            return token
    raise RemoteError(failure)  # outside, so that no context shows what was printed
