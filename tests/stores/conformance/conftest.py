"""The place that a test of the suite runs at: one after the other, all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.places import PLACES, Place, make_place

if TYPE_CHECKING:
    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Store


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, patience: Patience) -> Place:
    """An empty folder on each server, or in each kind of store."""
    return make_place(request.param, request, patience)


@pytest.fixture(params=[name for name in PLACES if name != "memory"])
def folder(request: pytest.FixtureRequest, patience: Patience) -> Place:
    """The same without `MemoryStore`, which has keys, and no folder that could be opened or missing."""
    return make_place(request.param, request, patience)


@pytest.fixture
def store(place: Place) -> Store:
    """The store of that folder."""
    return place.open()
