"""How safe a stored file is: only a level that has been reached is ever reported."""

from __future__ import annotations

from typing import Literal

Level = Literal["local", "mount", "confirmed"]
"""How safe a written file is: on this machine only, accepted by a mount that writes through, or verified."""

Durability = Literal["best", "local", "mount", "confirmed"]

LEVELS: tuple[Level, ...] = ("local", "mount", "confirmed")


def is_on_the_server(level: Level | None) -> bool:
    """Whether a level says that the server has the file.

    ``"local"`` does not: it is also the level of a mount that caches, whose cache may be lost before it is sent.
    """
    return reaches(level, "mount")


def reaches(level: Level | None, wanted: Level) -> bool:
    """Whether a level is at least the one that is wanted."""
    return level is not None and LEVELS.index(level) >= LEVELS.index(wanted)


def lower(one: Level, other: Level) -> Level:
    """The less safe of two."""
    return min(one, other, key=LEVELS.index)
