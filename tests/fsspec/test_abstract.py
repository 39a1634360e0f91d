"""fsspec's own suites: what every file system of theirs has to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fsspec.tests import abstract

from ai4os_data.fsspec.filesystem import open_filesystem

if TYPE_CHECKING:
    from ai4os_data.fsspec.filesystem import RootedFileSystem
    from tests.support.shares import Share


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec publishes no types
    """The fixtures that fsspec's suites ask for."""

    @pytest.fixture
    def fs(self, folder: Share) -> RootedFileSystem:
        """The file system."""
        return open_filesystem(folder.location, folder.remote)

    @pytest.fixture
    def fs_path(self) -> str:
        """A folder in it."""
        return "top"


class FixturesOfLongSuites(Fixtures):
    """An empty folder on each server; the plain one, where each file takes more requests, only in the long run."""

    @pytest.fixture(params=[pytest.param("wsgidav", marks=pytest.mark.long), "nextcloud"])
    def folder(self, request: pytest.FixtureRequest) -> Share:
        """An empty folder on each server."""
        found: Share = request.getfixturevalue({"wsgidav": "share", "nextcloud": "cloud_share"}[request.param])
        return found


class TestCopy(abstract.AbstractCopyTests, FixturesOfLongSuites):  # type: ignore[misc]  # fsspec publishes no types
    """The suite of fsspec for copying."""


class TestGet(abstract.AbstractGetTests, FixturesOfLongSuites):  # type: ignore[misc]  # fsspec publishes no types
    """The suite of fsspec for downloads."""


class TestPut(abstract.AbstractPutTests, FixturesOfLongSuites):  # type: ignore[misc]  # fsspec publishes no types
    """The suite of fsspec for uploads."""


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]  # fsspec publishes no types
    """The suite of fsspec for opening."""


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]  # fsspec publishes no types
    """The suite of fsspec for whole files."""
