"""A handle waits for levels that can be reached, and refuses others at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint.handle import SaveHandle, SaveProgress
from ai4os_data.checkpoint.names import AttemptName, CheckpointName

if TYPE_CHECKING:
    from ai4os_data.stores import Level


def handle_of(progress: SaveProgress, wanted: Level, best: Level | None) -> SaveHandle:
    """The handle of a save to a store whose best level is known."""
    return SaveHandle(3, CheckpointName.new(AttemptName.new(1), 3), progress, wanted, best)


def test_level_above_the_best_is_refused_at_once() -> None:
    """A wait for a level above the best is refused, even when the save has come as far as it can."""
    progress = SaveProgress()
    handle = handle_of(progress, "mount", "mount")
    for _ in range(2):
        with pytest.raises(errors.DurabilityError, match="step 3 will be mount at most, and never confirmed"):
            handle.wait("confirmed", timeout_s=10)
        progress.reach("mount")
    assert handle.wait("local") == "mount"


def test_best_is_the_highest_that_the_store_can_reach() -> None:
    """The level "best" is above the default one; while the store is not known, it is the wanted level."""
    progress = SaveProgress()
    handle = handle_of(progress, "local", "mount")
    progress.reach("local")
    assert handle.wait() == "local"
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineError, match="not yet mount"):
        handle.wait("best", timeout_s=0.1)
    assert time.monotonic() - begun >= 0.1
    progress.reach("mount")
    assert handle.wait("best") == "mount"
    progress = SaveProgress()
    progress.reach("local")
    unknown = handle_of(progress, "local", None)
    assert unknown.wait("best") == "local"


@pytest.mark.parametrize("level", ["certain", "", 3])
def test_level_that_does_not_exist_is_refused(level: Any) -> None:
    """The error lists the levels, also on ranks that do not write."""
    for handle in (handle_of(SaveProgress(), "local", "confirmed"), SaveHandle(3, None, SaveProgress(), "local")):
        with pytest.raises(ValueError, match="a level is 'local', 'mount', 'confirmed' or 'best', not "):
            handle.wait(level)
