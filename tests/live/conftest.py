"""The account that the tests of a real Nextcloud use; without one they are skipped, and name what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.live_cloud import Cloud, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """An empty folder of the account, removed again."""
    url, user, password = wanted("", "_USER", "_PASSWORD")
    made = Cloud(url.rstrip("/"), user, password)
    made.store().make_folder("")
    yield made
    made.remove()
