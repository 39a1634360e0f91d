"""The file systems that the tests look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import pytest

from ai4os_data.fsspec.filesystem import RootedFileSystem, StorageFileSystem, open_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.shares import Share


@pytest.fixture(params=["wsgidav", "nextcloud"])
def folder(request: pytest.FixtureRequest) -> Share:
    """An empty folder on a plain WebDAV server, and one on the double of Nextcloud."""
    found: Share = request.getfixturevalue({"wsgidav": "share", "nextcloud": "cloud_share"}[request.param])
    return found


@pytest.fixture
def files(folder: Share) -> RootedFileSystem:
    """The file system of that folder, over the cache."""
    return open_filesystem(folder.location, folder.remote)


@pytest.fixture
def rshare(folder: Share, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """That folder as ``ai4os://rshare/…``, with the remote in the environment, as a deployment has it."""
    for name, value in folder.environ().items():
        monkeypatch.setenv(name, value)
    # What an installed wheel does by its entry point; here the package may be no more than a directory.
    fsspec.register_implementation("ai4os", StorageFileSystem, clobber=True)
    _forget_instances()
    yield f"ai4os://rshare/{folder.name}"
    _forget_instances()


def _forget_instances() -> None:
    """Let nothing that fsspec keeps look at the server of another test."""
    for protocol in ("ai4os", "simplecache", "filecache", "blockcache"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the many combinations of globs in fsspec's suites to the long run."""
    for item in items:
        if "glob_edge_cases" in item.name and item.path.name == "test_abstract.py":
            item.add_marker(pytest.mark.long)
