"""The store for a location that somebody only looks at: who sits before a terminal does not wait for minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.http import Patience
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from ai4os_data.stores import Store

_TRIES = 3


def open_briefly(location: str, remote: str | None) -> Store:
    """The store; if the server is away, that shows after a few seconds."""
    return open_store(location, remote, patience=Patience(tries=_TRIES), outage_s=0)
