"""Which files go with a sample: learned from the first that were asked for, so that the next come in the same batch."""

from __future__ import annotations

import json
import posixpath
from typing import NamedTuple, Protocol

_MOST_RULES = 8


class _Rule(NamedTuple):
    """How the key of a sibling follows from a key: another folder for one of its folders, other ends of its name."""

    folders: tuple[str, ...]
    new_folders: tuple[str, ...]
    from_the_top: bool
    tail: str
    before: str
    after: str

    def apply(self, key: str) -> str | None:
        *above, name = key.split("/")
        stem = name[: len(name) - len(self.tail)]
        if not stem or not name.endswith(self.tail):
            return None
        place = 0 if self.from_the_top else len(above) - len(self.folders)
        end = place + len(self.folders)
        if place < 0 or tuple(above[place:end]) != self.folders:
            return None
        return "/".join([*above[:place], *self.new_folders, *above[end:], f"{self.before}{stem}{self.after}"])


class Board(Protocol):
    """Where the processes of one owner leave word for each other."""

    @property
    def noted_bytes(self) -> int:
        """How much there is on it."""

    def note(self, line: str) -> None:
        """Add a line."""

    def noted(self) -> list[str]:
        """All lines."""


class Siblings:
    """Rules from key to sibling, such as ``images/…/*.jpg`` to ``masks/…/*.png``.

    Args:
        board: tells what other processes have learned, and tells them; None keeps it to this one.
    """

    def __init__(self, board: Board | None = None) -> None:
        self._rules: dict[_Rule, None] = {}
        self._board = board
        self._noted_bytes = 0

    def learn(self, key: str, sibling: str) -> None:
        """Record that a sample asked for a sibling."""
        rule = _rule(key, sibling)
        if rule is not None and self.count < _MOST_RULES and rule not in self._rules:
            self._rules[rule] = None
            if self._board is not None:
                self._board.note(json.dumps(rule))

    @property
    def count(self) -> int:
        """How much has been learned."""
        if self._board is not None and self._noted_bytes != (noted := self._board.noted_bytes):
            self._noted_bytes = noted
            for line in self._board.noted():
                folders, new_folders, *others = json.loads(line)
                self._rules[_Rule(tuple(folders), tuple(new_folders), *others)] = None
        return len(self._rules)

    @property
    def any(self) -> bool:
        """Whether anything has been learned."""
        return self.count > 0

    def of(self, key: str) -> list[str]:
        """The keys that this sample will probably ask for."""
        return [sibling for rule in tuple(self._rules) if (sibling := rule.apply(key)) is not None]


def _rule(key: str, sibling: str) -> _Rule | None:
    """The rule that leads from one to the other; None where they share no stem."""
    *folders, name = key.split("/")
    *new_folders, new_name = sibling.split("/")
    stem, tail = posixpath.splitext(name)
    new_stem, suffix = posixpath.splitext(new_name)
    # At the end of the name before anywhere in it: the stem "a" in "mask_a.png".
    before, found, after = (
        (new_stem[: -len(stem)], stem, suffix) if new_stem.endswith(stem) else new_name.partition(stem)
    )
    if not found:
        return None
    # What both share, at the bottom (images/CLASS, masks/CLASS) or else at the top (CLASS/images, CLASS/masks), may be
    # another folder for another key.
    from_the_top = folders != new_folders and folders[-1:] == new_folders[-1:]
    end = -1 if from_the_top else 0
    while folders and new_folders and folders[end] == new_folders[end]:
        folders.pop(end)
        new_folders.pop(end)
    return _Rule(tuple(folders), tuple(new_folders), from_the_top, tail, before, after)
