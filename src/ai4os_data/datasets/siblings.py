"""Files that go with a sample, such as masks: learned from the first samples, and fetched with the later ones."""

from __future__ import annotations

import json
import posixpath
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data import errors
from ai4os_data.cache import WantedFile
from ai4os_data.machine import Grouped
from ai4os_data.stores import ByKey, PackedEntries, in_its_form, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.stores import Entry
    from ai4os_data.telemetry import Counters

_MOST_RULES = 8


class _Rule(NamedTuple):
    """How the key of a sibling follows from a key: one folder is replaced, and the ends of the name are."""

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
        begin = 0 if self.from_the_top else len(above) - len(self.folders)
        end = begin + len(self.folders)
        if begin < 0 or tuple(above[begin:end]) != self.folders:
            return None
        return "/".join([*above[:begin], *self.new_folders, *above[end:], f"{self.before}{stem}{self.after}"])


class Siblings:
    """Rules from key to sibling, such as ``images/…/*.jpg`` to ``masks/…/*.png``.

    Args:
        board: where the processes of a dataset note for each other what they have learned.
    """

    def __init__(self, board: Counters) -> None:
        self._rules: dict[_Rule, None] = {}
        self._board = board
        self._noted_bytes = 0

    def learn(self, key: str, sibling: str) -> None:
        """Record that a sample asked for a sibling."""
        rule = _rule(key, sibling)
        if rule is not None and self.learned() < _MOST_RULES and rule not in self._rules:
            self._rules[rule] = None
            self._board.note(json.dumps(rule))

    def learned(self) -> int:
        """Read what other processes have noted. Returns how many rules are known now."""
        if self._noted_bytes != (noted := self._board.noted_bytes):
            self._noted_bytes = noted
            for line in self._board.noted():
                folders, new_folders, *others = json.loads(line)
                self._rules[_Rule(tuple(folders), tuple(new_folders), *others)] = None
        return len(self._rules)

    def of(self, key: str) -> list[str]:
        """The keys that this sample will probably ask for."""
        return [sibling for rule in tuple(self._rules) if (sibling := rule.apply(key)) is not None]


class SiblingFiles:
    """The siblings of a dataset's samples: other files of its location, which come without ``prepare``.

    Args:
        location: that of the dataset.
        rules: what is known of them.
        as_stored: whether ``prepare`` would change them: a shrunken mask would be another mask.
    """

    def __init__(self, location: str, rules: Siblings, *, as_stored: bool) -> None:
        self.learned = rules.learned
        self._location = location
        self._rules = rules
        self._as_stored = as_stored
        self.begin(PackedEntries.of(()), ())

    def begin(self, entries: PackedEntries, keys: Sequence[str]) -> None:
        """Look for siblings in a listing from now on.

        Args:
            entries: all files of the location.
            keys: those of the samples.
        """
        self._listed, self._keys = entries, keys
        self._all: tuple[int, Sequence[list[Entry]]] = (0, [])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what each process finds out for itself."""
        return {**self.__dict__, "_all": (0, [])}

    def find(self, key: str, sibling: str) -> WantedFile:
        """The sibling that a sample asks for. Record that it goes with the sample.

        Raises:
            NotFoundError: there is no such file.
        """
        entry = in_its_form(sibling, ByKey(self._listed))
        if entry is None:
            raise errors.NotFoundError(f"{self._location}: {key!r} has no sibling {shown(sibling)}")
        self._rules.learn(key, entry.key)
        return self.wanted(entry)

    def of(self, key: str) -> list[WantedFile]:
        """The files that a sample will probably ask for, as far as rules are known."""
        found = ByKey(self._listed)
        return [self.wanted(found[sibling]) for sibling in self._rules.of(key) if sibling in found]

    def of_all(self) -> Sequence[list[Entry]]:
        """The entries of the siblings of every sample; found again when more rules have been learned."""
        learned = self.learned()
        if self._all[0] != learned:
            siblings = list(map(self._rules.of, self._keys))
            found = iter(self._listed.positions_of(list(chain.from_iterable(siblings))))
            groups = ([position for _ in keys if (position := next(found)) is not None] for keys in siblings)
            self._all = learned, Grouped(self._listed, groups)
        return self._all[1]

    def wanted(self, entry: Entry) -> WantedFile:
        """A file in the form in which siblings are wanted."""
        return WantedFile(entry, self._as_stored)


def _rule(key: str, sibling: str) -> _Rule | None:
    """The rule that leads from one to the other; None if they share no stem."""
    *folders, name = key.split("/")
    *new_folders, new_name = sibling.split("/")
    stem, tail = posixpath.splitext(name)
    new_stem, suffix = posixpath.splitext(new_name)
    # First at the end of the name, then anywhere: the stem "a" in "mask_a.png".
    before, found, after = (
        (new_stem[: -len(stem)], stem, suffix) if new_stem.endswith(stem) else new_name.partition(stem)
    )
    if not found:
        return None
    # The folders that both share, at the bottom (images/CLASS, masks/CLASS) or else at the top (CLASS/images,
    # CLASS/masks), may be other folders for other keys.
    from_the_top = folders != new_folders and folders[-1:] == new_folders[-1:]
    end = -1 if from_the_top else 0
    while folders and new_folders and folders[end] == new_folders[end]:
        folders.pop(end)
        new_folders.pop(end)
    return _Rule(tuple(folders), tuple(new_folders), from_the_top, tail, before, after)
