"""Where an example runs: in a new folder of the location on the command line, or of a server of its own."""

from __future__ import annotations

import contextlib
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ai4os_data import Remote, open_filesystem
from ai4os_data.cli.server_process import serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def storage() -> Iterator[tuple[str, Remote | None]]:
    """A location that nobody uses, and the remote where it needs one; what is written there is removed at the end."""
    name = f"example-{secrets.token_hex(4)}"
    if len(sys.argv) > 1:
        location = sys.argv[1].rstrip("/")
        try:
            yield f"{location}{'' if location.endswith(':') else '/'}{name}", None
        finally:
            files = open_filesystem(location, cache=None)
            if files.exists(name):
                files.rm(name, recursive=True)
        return
    password = secrets.token_urlsafe()
    with (
        tempfile.TemporaryDirectory(prefix="ai4os-data-example-") as directory,
        serve(Path(directory), user="demo", password=password, latency_s=0.005) as url,
    ):
        yield f"{url}{name}", Remote(url, user="demo", password=password)
