"""What reading gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.stores import Fetched
from ai4os_data.stores.base import in_memory

if TYPE_CHECKING:
    from ai4os_data.errors import StorageError


def content(outcome: Fetched | StorageError) -> bytes:
    """The bytes of a file that has to have come."""
    assert isinstance(outcome, Fetched), outcome
    return in_memory(outcome.body)
