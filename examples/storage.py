"""Where an example runs: in a new folder of your storage, or on a server of its own."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ai4os_data import Remote, open_filesystem
from ai4os_data.cli.probe import visiting
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The command line of an example: its location."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "location",
        nargs="?",
        help="a folder on your storage; by default a server of its own is started",
    )
    return parser


@contextlib.contextmanager
def storage(location: str | None) -> Iterator[tuple[str, Remote | None]]:
    """A new location, and its remote; what is written there is removed."""
    name = f"example-{secrets.token_hex(4)}"
    if location is None:
        with own_server(latency_s=0.005) as (url, remote):
            yield f"{url}{name}", remote
        return
    store = open_store(location, create=True)
    files = open_filesystem(store, cache=None, create=True)
    with visiting(store):  # removes the folders that this makes
        try:
            yield join(location, name), None
        finally:
            if files.exists(name):
                files.rm(name, recursive=True)


@contextlib.contextmanager
def own_server(latency_s: float) -> Iterator[tuple[str, Remote]]:
    """The URL of a WebDAV server that delays each answer, and the remote for it."""
    try:
        # Imported only here: on your own storage no server is needed.
        from ai4os_data.cli.server_process import serve
    except ImportError as error:
        sys.exit(
            f"{error}\nOr give a folder on your storage, such as rshare:somewhere."
        )
    password = secrets.token_urlsafe()
    with (
        tempfile.TemporaryDirectory(prefix="ai4os-data-example-") as directory,
        serve(
            Path(directory), user="demo", password=password, latency_s=latency_s
        ) as url,
    ):
        yield url, Remote(url, user="demo", password=password)


def join(location: str, name: str) -> str:
    """The location of a name below a location."""
    return (
        f"{location}{name}" if location.endswith((":", "/")) else f"{location}/{name}"
    )
