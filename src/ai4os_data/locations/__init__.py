"""What a user types for where the data is, and the credentials with which it is reached."""

from __future__ import annotations

from ai4os_data.locations import parsing, webpages
from ai4os_data.locations.parsing import DavLocation, FsspecLocation, RemoteLocation, shown
from ai4os_data.locations.rclone import LINKED, configured_names, main_name, obscure
from ai4os_data.locations.remotes import Remote, origin_of
from ai4os_data.locations.spelling import mistaken_for

__all__ = [
    "LINKED",
    "DavLocation",
    "FsspecLocation",
    "Remote",
    "RemoteLocation",
    "configured_names",
    "main_name",
    "mistaken_for",
    "obscure",
    "origin_of",
    "parsing",
    "shown",
    "webpages",
]
