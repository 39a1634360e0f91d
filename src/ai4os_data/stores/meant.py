"""A path of the storage that was typed without its remote is recognized, and the right form is named."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ai4os_data.errors import LocationError
from ai4os_data.locations import configured_names, main_name
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ai4os_data.stores.base import Store

_LOCAL = ("/", "./", "../", "~")


def remote_form(path: str, environ: Mapping[str, str]) -> str | None:
    """How a relative path would be written as one of the storage; None if it says where it is, or there is no remote.

    Of several remotes it is the one that the path begins with, as in ``rshare/datasets``; else the linked storage.
    """
    if path.startswith(_LOCAL) or path in {"", ".", ".."}:
        return None
    first, _, rest = os.path.normpath(path).partition("/")
    if first in configured_names(environ):
        return f"{first}:{rest}"
    name = main_name(environ)
    return None if name is None else f"{name}:{os.path.normpath(path)}"


@contextmanager
def hinting_at_remote(path: str, environ: Mapping[str, str]) -> Iterator[Callable[[Store], None]]:
    """Open a directory inside the ``with``, and call what it gives with the store: once it is logged where that lies.

    Raises:
        LocationError: as inside the ``with``, with the form that names the remote.
    """
    meant = remote_form(path, environ)

    def hint(store: Store) -> None:
        if meant is not None and store.is_local:
            tell_once(
                f"{path!r} is a directory of this machine, {os.path.abspath(path)}, which goes with the deployment. "
                f"Write {meant!r} for the storage; write './{path}' to mean this machine"
            )

    try:
        yield hint
    except LocationError as error:
        if meant is None:
            raise
        raise LocationError(f"{error}. For a path of the storage write {meant!r}") from error
