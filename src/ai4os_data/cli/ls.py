"""The ls command: what is in a location."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.cli.looking import open_briefly
from ai4os_data.cli.output import note, say
from ai4os_data.machine import shown_size
from ai4os_data.stores import look_at, modified_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai4os_data.stores import Entry, Store, Unreadable

_LINES_AT_ONCE = 1000


@dataclass(frozen=True)
class Options:
    """What is to be shown, and how; the names are those of the command line."""

    location: str
    remote: str | None = None
    recursive: bool = False
    is_long: bool = False
    as_json: bool = False


class Name(NamedTuple):
    """A file or a folder; a folder has neither size nor date."""

    path: str
    size_bytes: int | None
    modified_s: float | None


def run(options: Options) -> int:
    """Show what there is; gives the exit code, which is 1 if some of it could not be read.

    Raises:
        StorageError: it cannot be listed.
    """
    store = open_briefly(options.location, options.remote)
    names, unreadable = _listed(store) if options.recursive else (_members(store), [])
    shown = _json if options.as_json else _long if options.is_long else _short
    lines = map(shown, names)
    while some := [*islice(lines, _LINES_AT_ONCE)]:
        say("\n".join(some))
    for _, _, error in unreadable:
        note(f"ai4os-data: {error}")
    if not options.as_json:
        note(_total(names))
    return 1 if unreadable else 0


def _listed(store: Store) -> tuple[list[Name], list[Unreadable]]:
    """The files in all folders, and what could not be read."""
    listing = store.listing()
    return _files(store, listing.entries), listing.unreadable


def _members(store: Store) -> list[Name]:
    """The folders and files directly there, folders with a slash at their end."""
    try:
        files, folders = store.members("")
    except errors.NotFoundError:
        look_at(store)  # which says better what is wrong
        raise
    return sorted([*(Name(f"{folder}/", None, None) for folder in folders), *_files(store, files)])


def _files(store: Store, entries: Iterable[Entry]) -> list[Name]:
    dates = ((entry, modified_ns(store, entry)) for entry in entries)
    return sorted(Name(one.key, one.size_bytes, None if changed is None else changed / 1e9) for one, changed in dates)


def _short(name: Name) -> str:
    return name.path


def _long(name: Name) -> str:
    size = "-" if name.size_bytes is None else shown_size(name.size_bytes)
    date = "-" if name.modified_s is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(name.modified_s))
    return f"{size:>10}  {date:<16}  {name.path}"


def _json(name: Name) -> str:
    date = None
    if name.modified_s is not None:
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(name.modified_s))
    return json.dumps(
        {
            "path": name.path.rstrip("/"),
            "is_folder": name.size_bytes is None,
            "size_bytes": name.size_bytes,
            "modified": date,
        }
    )


def _total(names: list[Name]) -> str:
    sizes = [name.size_bytes for name in names if name.size_bytes is not None]
    folders = len(names) - len(sizes)
    above = f"{folders:,} folder{'s' * (folders != 1)}, " if folders else ""
    return f"{above}{len(sizes):,} file{'s' * (len(sizes) != 1)}, {shown_size(sum(sizes))}"
