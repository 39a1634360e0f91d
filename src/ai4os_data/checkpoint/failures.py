"""Errors of saves: one that does not pass by itself is raised once, by the next save or by `close`."""

from __future__ import annotations

import traceback

from ai4os_data import errors
from ai4os_data.http import passes


class SaveFailures:
    """The errors of a run that were not raised yet.

    Attributes:
        lasting: those that the next save raises, oldest first.
        of_left: why a checkpoint of an earlier process could not be sent.
    """

    def __init__(self) -> None:
        self.lasting: list[BaseException] = []
        self.of_left: BaseException | None = None

    def note(self, error: BaseException, *, is_of_left: bool = False) -> None:
        """Keep an error for the next save to raise. An error that may pass is only in the handle of its save."""
        without_locals(error)
        if not (passes(error) or isinstance(error, errors.LostError)):  # a loss has been logged
            self.lasting.append(error)
        elif is_of_left:
            self.of_left = error

    def raise_first(self, failed: list[BaseException]) -> None:
        """Raise the first of some errors, and forget all of them."""
        self.lasting = [error for error in self.lasting if error not in failed]
        if failed:
            raise failed[0]


def without_locals(error: BaseException) -> None:
    """Drop the local variables that an error holds, such as states and runs; its traceback stays."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if found.__traceback__ is not None:
            traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__
