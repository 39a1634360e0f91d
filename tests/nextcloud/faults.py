"""What a test has asked to go wrong next."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tests.nextcloud.answers import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nextcloud.wire import Incoming


@dataclass
class AnswerFault:
    """An answer instead of the right one, some times over."""

    count: int
    status: int
    headers: dict[str, str]
    body: str
    method: str | None
    within: str

    def concerns(self, incoming: Incoming) -> bool:
        """Whether a request gets it."""
        return self.method in {None, incoming.method} and self.within in incoming.path


@dataclass
class ArchiveFaults:
    """What goes wrong in one archive."""

    stop_after_bytes: int | None = None
    hangs_up: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    corrupted: Counter[str] = field(default_factory=Counter)
    locked: Counter[str] = field(default_factory=Counter)

    def drops(self, name: str) -> bool:
        """Whether a member is left out."""
        return _taken(self.dropped, name)

    def breaks_at(self, name: str) -> bool:
        """Whether the archive ends at this member, which cannot be opened."""
        return _taken(self.locked, name)

    def damaged(self, name: str, piece: bytes) -> bytes:
        """Return a piece of a member as it is sent."""
        return _flipped(piece) if piece and _taken(self.corrupted, name) else piece


@dataclass
class MoveFault:
    """What the MOVE that ends a chunked upload answers, and when it succeeds all the same."""

    status: int
    completes_after_s: float | None


class Faults:
    """All that is still to go wrong. Each happens as often as it was asked for, and is gone then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: list[AnswerFault] = []
        self._silences: list[AnswerFault] = []
        self._tears: list[tuple[int, bool]] = []
        self._moves: list[MoveFault] = []
        self._archives = ArchiveFaults()
        self._damaged_puts = 0

    def add(self, kind: str, **details: Any) -> None:
        """Take an order of the test."""
        with self._lock:
            if kind == "answer":
                self._answers.append(AnswerFault(**details))
            elif kind == "silence":
                self._silences.append(AnswerFault(status=0, headers={}, body="", **details))
            elif kind == "tear":
                self._tears.append((details["after_bytes"], details["hangs_up"]))
            elif kind == "corrupt":
                self._archives.corrupted[details["name"]] += details["count"]
            elif kind == "drop":
                self._archives.dropped[details["name"]] += details["count"]
            elif kind == "lock":
                self._archives.locked[details["name"]] += details["count"]
            elif kind == "move":
                self._moves.append(MoveFault(**details))
            elif kind == "put":
                self._damaged_puts += details["count"]
            else:
                raise ValueError(kind)

    def clear(self) -> None:
        """Forget all of it."""
        with self._lock:
            self._answers.clear()
            self._silences.clear()
            self._tears.clear()
            self._moves.clear()
            self._archives = ArchiveFaults()
            self._damaged_puts = 0

    def answer_to(self, incoming: Incoming) -> Answer | None:
        """Return the wrong answer to a request, if it gets one."""
        fault = self._next(self._answers, incoming)
        return Answer(fault.status, dict(fault.headers), fault.body.encode()) if fault is not None else None

    def loses_answer_to(self, incoming: Incoming) -> bool:
        """Whether the answer to a request gets lost on its way."""
        return self._next(self._silences, incoming) is not None

    def _next(self, faults: list[AnswerFault], incoming: Incoming) -> AnswerFault | None:
        with self._lock:
            fault = next((fault for fault in faults if fault.concerns(incoming)), None)
            if fault is not None:
                fault.count -= 1
                if fault.count <= 0:
                    faults.remove(fault)
            return fault

    def of_an_archive(self) -> ArchiveFaults:
        """Return what goes wrong in the next archive."""
        with self._lock:
            after_bytes, hangs_up = self._tears.pop(0) if self._tears else (None, False)
            return replace(self._archives, stop_after_bytes=after_bytes, hangs_up=hangs_up)

    def of_a_move(self) -> MoveFault | None:
        """Return what goes wrong at the end of the next chunked upload."""
        with self._lock:
            return self._moves.pop(0) if self._moves else None

    def damaged_put(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Return what is stored of a PUT."""
        with self._lock:
            damaged = self._damaged_puts > 0
            self._damaged_puts -= damaged
        for piece in pieces:
            yield _flipped(piece) if damaged else piece
            damaged = False


def _taken(counts: Counter[str], name: str) -> bool:
    if counts[name] <= 0:
        return False
    counts[name] -= 1
    return True


def _flipped(piece: bytes) -> bytes:
    middle = len(piece) // 2
    return piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
