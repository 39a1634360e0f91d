"""How safe a checkpoint is: only what has been reached is ever said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ai4os_data.stores import Level

Durability = Literal["best", "local", "mount", "confirmed"]

LEVELS: tuple[Level, ...] = ("local", "mount", "confirmed")


def reaches(level: Level | None, wanted: Level) -> bool:
    """Whether a level is at least the one that is wanted."""
    return level is not None and LEVELS.index(level) >= LEVELS.index(wanted)


def lower(one: Level, other: Level) -> Level:
    """The less safe of two."""
    return min(one, other, key=LEVELS.index)
