"""What is copied, at each kind of location."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.copies import DIR_CACHE_S
from tests.support.places import ServedFolder, make_place
from tests.support.servers import RcloneMount, missing_fuse, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer

PLACES = ("wsgidav", "apache", "nextcloud-34", "nextcloud-29", "directory", "mount")


@pytest.fixture(scope="session")
def mount(nextcloud: NextcloudServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneMount]:
    """The mount of a deployment, except that it shows changes of others after a moment and not after five minutes."""
    need(missing_fuse())
    flags = ["--dir-cache-time", f"{DIR_CACHE_S}s", "--attr-timeout", f"{DIR_CACHE_S}s"]
    directory = tmp_path_factory.mktemp("mount")
    with RcloneMount(
        nextcloud.url, nextcloud.user, nextcloud.password, directory, vendor="nextcloud", flags=flags
    ) as mount:
        yield mount


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, patience: Patience) -> ServedFolder:
    """An empty folder at each of them."""
    place = make_place(request.param, request, patience)
    assert isinstance(place, ServedFolder)
    return place
