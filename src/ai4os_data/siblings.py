"""Which files go with a sample: learned from the first that were asked for, so that the next come in the same batch."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

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


class Siblings:
    """Rules from key to sibling, such as ``images/…/*.jpg`` to ``masks/…/*.png``."""

    def __init__(self) -> None:
        self._rules: dict[_Rule, None] = {}

    def learn(self, key: str, sibling: str) -> None:
        """Take in that a sample asked for a sibling."""
        rule = _rule(key, sibling)
        if rule is not None and len(self._rules) < _MOST_RULES:
            self._rules[rule] = None

    @property
    def any(self) -> bool:
        """Whether anything has been learned."""
        return bool(self._rules)

    def of(self, key: str) -> list[str]:
        """The keys that this sample will probably ask for."""
        return [sibling for rule in self._rules if (sibling := rule.apply(key)) is not None]


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
