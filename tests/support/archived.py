"""Two hundred small files in four folders of a Nextcloud, which come in archives."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import NextcloudStore
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http import Patience
    from tests.nextcloud import NextcloudServer

FILES = {
    f"class {number % 4}/{number:03} \u00e9.bin": random.Random(number).randbytes(500 + number) for number in range(200)
}


def served(nextcloud: NextcloudServer) -> Iterator[Share]:
    """A folder with the files; whatever a test does to the server is undone after it."""
    share = Share(nextcloud)
    share.put(FILES)
    nextcloud.forget()
    yield share
    nextcloud.clear_faults()
    nextcloud.set_maintenance(False)


def open_share(share: Share, patience: Patience) -> NextcloudStore:
    """The store of a share."""
    remote = Remote(share.server.url, share.server.user, share.server.password)
    return NextcloudStore(remote, share.name, patience=patience)
