"""Which files go with a sample: learned from the first that were asked for, so that the next come in the same batch."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

_MOST_RULES = 8


class _Rule(NamedTuple):
    """How the key of a sibling follows from a key: another head and another tail around the same middle."""

    head: str
    tail: str
    new_head: str
    new_tail: str

    def apply(self, key: str) -> str | None:
        if not (key.startswith(self.head) and key.endswith(self.tail) and len(key) > len(self.head) + len(self.tail)):
            return None
        return self.new_head + key[len(self.head) : len(key) - len(self.tail)] + self.new_tail


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
    stem = posixpath.splitext(posixpath.basename(key))[0]
    folder, basename = posixpath.split(sibling)
    name, suffix = posixpath.splitext(basename)
    # At the end of the name before anywhere in it: the stem "a" in "mask_a.png".
    before, found, after = (name[: -len(stem)], stem, suffix) if name.endswith(stem) else basename.partition(stem)
    if not stem or not found:
        return None
    head, tail = key[: key.rfind(stem)], key[key.rfind(stem) + len(stem) :]
    new_head, new_tail = posixpath.join(folder, before), after
    if head == new_head:
        return _Rule("", tail, "", new_tail)
    # Folders before the stem that both share (a class's, say) belong to the middle.
    folders, new_folders = head.split("/"), new_head.split("/")
    while len(folders) > 1 and len(new_folders) > 1 and folders[-2:] == new_folders[-2:]:
        folders.pop(-2)
        new_folders.pop(-2)
    return _Rule("/".join(folders), tail, "/".join(new_folders), new_tail)
