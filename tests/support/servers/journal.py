"""The requests that a server of ours answered, in a file that another process reads."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Request(NamedTuple):
    """One request that a server answered.

    ``path`` starts with a slash, is percent-decoded, and has no query. ``headers`` have lower-case
    names, and never the credentials.
    """

    method: str
    path: str
    headers: dict[str, str]
    status: int


class Journal:
    """Requests, one a line. What is noted before an answer leaves is there when the answer arrives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, request: Request) -> None:
        """Add one, in a single write, so that lines of different threads never mix."""
        os.write(self._descriptor, json.dumps(request).encode() + b"\n")


def read_journal(path: Path) -> list[Request]:
    """Return all that was noted, oldest first."""
    return [Request(*json.loads(line)) for line in path.read_text().splitlines()]
