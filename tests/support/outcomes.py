"""What reading gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.http import MemoryBody
from ai4os_data.stores import Fetched

if TYPE_CHECKING:
    from ai4os_data.errors import StorageError


def content(outcome: Fetched | StorageError) -> bytes:
    """The bytes of a file that has to have come."""
    assert isinstance(outcome, Fetched), outcome
    assert isinstance(outcome.body, MemoryBody)
    return outcome.body.getvalue()
