"""What several tests of checkpoints need."""

from __future__ import annotations

import pytest

from ai4os_data.stores import chunked
from ai4os_data.stores.nextcloud import NextcloudStore


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a small state as a large one, which a Nextcloud gets in chunks; its manifest still goes in one piece."""
    monkeypatch.setattr(NextcloudStore, "single_put_bytes", 2000)
    monkeypatch.setattr(NextcloudStore, "chunk_bytes", 2000)
    monkeypatch.setattr(chunked, "LEAST_CHUNK_BYTES", 1)
