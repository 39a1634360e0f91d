"""A finding of the doctor: how something stands, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

_SIGNS = {"good": "  ok", "fair": "note", "bad": "FAIL"}


class Finding(NamedTuple):
    """One line: how it stands, with what, and what to do about it."""

    state: Literal["good", "fair", "bad"]
    what: str
    told: str
    advice: str = ""

    @classmethod
    def fine(cls, what: str, told: str, note: str = "") -> Finding:
        """A good finding; a fair one if there is something to note."""
        return cls("fair" if note else "good", what, told, note)

    def __str__(self) -> str:
        """As it is printed."""
        line = f"{_SIGNS[self.state]}  {self.what:<12}{self.told}"
        return f"{line}\n      {'':<12}-> {self.advice}" if self.advice else line
