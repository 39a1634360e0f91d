"""Stores: the same few verbs over every place where data lies. `open_store` finds the one for a location."""

from __future__ import annotations

from ai4os_data.stores import underway
from ai4os_data.stores.base import Entry, Fetched, Listing, Store, Unreadable, checked, file_at, is_safe
from ai4os_data.stores.dav import DavAnswer
from ai4os_data.stores.directory import DirectoryStore
from ai4os_data.stores.directory_files import nearest
from ai4os_data.stores.entries import ByKey, ChosenEntries, PackedEntries
from ai4os_data.stores.forms import Twins, composed, forms, in_its_form, keyed_alike, shown
from ai4os_data.stores.kinds import (
    abandon,
    address_of,
    best_level,
    expunge,
    folder_token,
    local_path,
    look_at,
    modified_ns,
    read_among,
    read_resumed,
)
from ai4os_data.stores.levels import LEVELS, Durability, Level, is_on_the_server, lower, reaches
from ai4os_data.stores.memory import MemoryStore
from ai4os_data.stores.mounted import STORAGE
from ai4os_data.stores.multistatus import NotMultistatusError, resources
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.nextcloud_urls import NextcloudUrls
from ai4os_data.stores.opening import open_dav, open_store
from ai4os_data.stores.os_errors import within
from ai4os_data.stores.ranged import BLOCK_BYTES, RangedFile
from ai4os_data.stores.trashbin import TrashBin
from ai4os_data.stores.underway import Underway
from ai4os_data.stores.webdav import WebDAVStore

__all__ = [
    "BLOCK_BYTES",
    "LEVELS",
    "STORAGE",
    "ByKey",
    "ChosenEntries",
    "DavAnswer",
    "DirectoryStore",
    "Durability",
    "Entry",
    "Fetched",
    "Level",
    "Listing",
    "MemoryStore",
    "NextcloudStore",
    "NextcloudUrls",
    "NotMultistatusError",
    "PackedEntries",
    "RangedFile",
    "Store",
    "TrashBin",
    "Twins",
    "Underway",
    "Unreadable",
    "WebDAVStore",
    "abandon",
    "address_of",
    "best_level",
    "checked",
    "composed",
    "expunge",
    "file_at",
    "folder_token",
    "forms",
    "in_its_form",
    "is_on_the_server",
    "is_safe",
    "keyed_alike",
    "local_path",
    "look_at",
    "lower",
    "modified_ns",
    "nearest",
    "open_dav",
    "open_store",
    "reaches",
    "read_among",
    "read_resumed",
    "resources",
    "shown",
    "underway",
    "within",
]
