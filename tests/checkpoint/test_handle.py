"""A handle waits for what can come, and says at once what cannot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint.handle import Progress, SaveHandle
from ai4os_data.checkpoint.names import AttemptName, CheckpointName

if TYPE_CHECKING:
    from ai4os_data.stores import Level


def handle_of(progress: Progress, wanted: Level, best: Level | None) -> SaveHandle:
    """Return the handle of a save that goes to a store of which the best is known."""
    return SaveHandle(3, CheckpointName.new(AttemptName.new(1), 3), progress, wanted, best)


def test_level_above_the_best_is_refused_at_once() -> None:
    """A wait for it would never end, also when the save has come as far as it can."""
    progress = Progress()
    handle = handle_of(progress, "mount", "mount")
    for _ in range(2):
        with pytest.raises(errors.DurabilityError, match="step 3 will be mount at most, and never confirmed"):
            handle.wait("confirmed", timeout_s=10)
        progress.reach("mount")
    assert handle.wait("local") == "mount"


def test_best_is_the_highest_that_the_store_can_reach() -> None:
    """Also if less is wanted by default. While the store is not known, it is what is wanted."""
    progress = Progress()
    handle = handle_of(progress, "local", "mount")
    progress.reach("local")
    assert handle.wait() == "local"
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineError, match="not yet mount"):
        handle.wait("best", timeout_s=0.1)
    assert time.monotonic() - begun >= 0.1
    progress.reach("mount")
    assert handle.wait("best") == "mount"
    progress = Progress()
    progress.reach("local")
    unknown = handle_of(progress, "local", None)
    assert unknown.wait("best") == "local"


@pytest.mark.parametrize("level", ["certain", "", 3])
def test_level_that_does_not_exist_is_refused(level: Any) -> None:
    """With the names of those that do; on ranks that do not write too."""
    for handle in (handle_of(Progress(), "local", "confirmed"), SaveHandle(3, None, Progress(), "local")):
        with pytest.raises(ValueError, match="a level is 'local', 'mount', 'confirmed' or 'best', not "):
            handle.wait(level)
