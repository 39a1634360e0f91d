"""What lies below a folder of a WebDAV server: PROPFIND, and which of its answers may be believed."""

from __future__ import annotations

import email.utils
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timezone
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ai4os_data import errors
from ai4os_data.http import SILENT, host_of, plain_etag, status_of
from ai4os_data.stores.base import Entries, Entry, Keys, Listing, Unreadable, checked, is_safe
from ai4os_data.stores.dav import FolderError
from ai4os_data.stores.forms import are_alike, quoted, same_prefix, unquoted
from ai4os_data.stores.times import date_of
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ai4os_data.stores.dav_folder import DavFolder
    from ai4os_data.stores.multistatus import Resource

_THREADS = 8
_OF_THE_STORAGE = (*SILENT, errors.AuthenticationError, errors.LocationError)
_HOPELESS = (errors.AuthenticationError, errors.TLSError, errors.LocationError)
_DIGITS = re.compile(r"\s*[0-9]{1,18}\s*")
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
_NO_ETAGS = frozenset({"", "null", "(null)", "none", "undefined"})

# The servers, by URL and user, at which Depth infinity failed in this process, and Depth 1 worked.
_stepwise: set[tuple[str, str | None]] = set()


class Found(NamedTuple):
    """The answer to one PROPFIND: the files, the folders except the one asked for, and what could not be read."""

    files: Entries
    folders: Keys
    unreadable: list[Unreadable]


class Listings:
    """The listings of one store.

    Args:
        folder: the folder of the store.
    """

    def __init__(self, folder: DavFolder) -> None:
        self.folder = folder
        self._where = folder.location
        self._remote = folder.address.remote
        self._server = (self._remote.url, self._remote.user)

    def stat(self, key: str) -> Entry:
        """One file, by a PROPFIND of Depth 0.

        Raises:
            FolderError: it is a folder.
            NotFoundError: there is none.
        """
        entries = self.of(checked(key), "0", slash=False).files
        if not entries:
            raise FolderError(f"{self._where}: {key!r} is a folder, not a file")
        return entries[0]._replace(key=key)

    def size_of(self, key: str) -> int | None:
        """The length of a file; None if it is not there."""
        try:
            return self.stat(key).size_bytes
        except errors.NotFoundError:
            return None

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder."""
        try:
            return not self.of(checked(key), "0").files
        except errors.NotFoundError:
            return False

    def members(self, folder: str) -> tuple[Entries, Keys]:
        """What lies directly in a folder, by a PROPFIND of Depth 1; what cannot be read is logged."""
        files, folders, unreadable = self.of(checked(folder) if folder else "", "1")
        if [entry.key for entry in files] == [folder]:  # some servers accept a slash after a file
            raise errors.NotFoundError(f"{self._where}: {folder!r} is a file, not a folder")
        for one in unreadable:
            tell_once(f"left out: {one.error}")
        return sorted(files), sorted(folders)

    def below_if_there(self, top: str) -> Listing | None:
        """Every file below a folder; None if the server knows no such folder.

        Raises:
            ServerUnavailableError: it knows none of the folders above the store's own either: its answer means nothing.
        """
        try:
            found = self.folder.found_in_some_form(lambda: self.below(top))
        except errors.NotFoundError:
            if top:
                return None
            self.folder.check_above()
            try:
                found = self.folder.found_in_some_form(self.below)  # it may have come back in between
            except errors.NotFoundError:
                return None
        base = f"/{top}".rstrip("/")
        return found._replace(entries=[one for one in found.entries if same_prefix(f"/{one.key}", base) is not None])

    def below(self, top: str = "") -> Listing:
        """Every file below a folder, in no order, and what cannot be read of it.

        If Depth infinity fails in any way and Depth 1 then works, infinity is not tried again.

        Raises:
            NotFoundError: there is no such folder.
        """
        if self._server in _stepwise:
            return self._step_by_step(top)
        try:
            found = self.of(top, "infinity", tries=1)
        except _HOPELESS:
            raise
        except errors.StorageError:
            listing = self._step_by_step(top)
            _stepwise.add(self._server)
            return listing
        # Some servers (stock sabre) clamp infinity to 1 without a word: then no folder shows anything inside.
        inhabited = _parents((*found.folders, *(entry.key for entry in found.files)))
        empty = [folder for folder in found.folders if folder not in inhabited]
        is_clamped = len(empty) == len(found.folders)
        return self._completed(top, found, empty if is_clamped else [])

    def _step_by_step(self, top: str) -> Listing:
        """Every file below a folder, by Depth 1, folder by folder."""
        try:
            found = self.of(top, "1")
        except errors.ProtocolError:
            # This shows whether the location is a file: Apache answers 400 to a slash after one.
            self.of(top, "0", slash=False, tries=1)
            raise
        return self._completed(top, found, found.folders)

    def _completed(self, top: str, found: Found, folders: Sequence[str]) -> Listing:
        """The listing that an answer makes with what is in these folders, and in those that it could not read."""
        entries = list(found.files)
        unreadable: list[Unreadable] = []
        there = set(found.folders)
        circles = _Circles(top, found)
        seen = {top, *found.folders}
        folders = [*folders, *self._to_ask(found, seen, unreadable)]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="ai4os-data-listing") as pool:
            while folders:
                below: Keys = []
                for folder, members in zip(folders, pool.map(self._members, folders), strict=True):
                    if members is None:
                        there.discard(folder)
                        continue
                    if circles.closes(folder, members):
                        tell_once(f"{self._where}: {folder!r} is a folder above it once more (a link?): left out")
                        there.discard(folder)
                        continue
                    entries += members.files
                    there.update(members.folders)
                    below += [each for each in members.folders if each not in seen]
                    seen.update(members.folders)
                    below += self._to_ask(members, seen, unreadable)
                folders = below
        once = {entry.key: entry for entry in entries}  # what was cut off may have been listed in part before
        inhabited = _parents((*there, *once, *(one.key for one in unreadable)))
        return Listing(list(once.values()), unreadable, [*there - inhabited - {one.key for one in unreadable}])

    @staticmethod
    def _to_ask(found: Found, seen: set[str], unreadable: list[Unreadable]) -> Keys:
        """The folders that one answer could not read, to be asked for one by one; the rest is unreadable."""
        ask: Keys = []
        for one in found.unreadable:
            if one.is_folder is not False and one.key not in seen and is_safe(one.key):
                seen.add(one.key)
                ask.append(one.key)
            else:
                unreadable.append(one)
        return ask

    def _members(self, folder: str) -> Found | None:
        """What lies directly in a folder; None if it has gone since its parent was listed."""
        try:
            return self.of(folder, "1")
        except errors.NotFoundError:
            return None
        except _OF_THE_STORAGE:
            raise
        except errors.StorageError as error:
            return Found([], [], [Unreadable(folder, is_folder=True, error=error)])

    def of(self, key: str, depth: str, *, slash: bool = True, tries: int | None = None) -> Found:
        """The answer to a PROPFIND, sorted.

        Args:
            key: what is asked for; ``""`` is the root.
            depth: ``"0"``, ``"1"`` or ``"infinity"``.
            slash: whether the address ends with one, as that of a folder does.
            tries: the most tries, without waiting for an outage; by default those of the patience.

        Raises:
            StorageError: what was asked for cannot be read itself.
        """
        url = self.folder.address.base_url + (f"/{quoted(key)}" if key else "") + ("/" if slash else "")
        return self._sorted(self.folder.propfind(url, depth, tries=tries), key.strip("/"))

    def _sorted(self, told: Sequence[Resource], asked: str) -> Found:
        files: Entries = []
        folders: Keys = []
        odd: list[tuple[str, Resource]] = []
        base = self.folder.address.base_path
        for resource in told:
            href, is_known, is_folder, size, etag, modified, status, _ = resource
            path = "/" + unquoted(self._path_on_server(href)).strip("/")
            key = path[len(base) + 1 :] if path.startswith(f"{base}/") else self._key(path, href)
            if key and not is_safe(key):
                self._refuse_leaving(key, href)
                odd.append((key, resource))
            elif is_folder and is_known:
                if are_alike(key, asked):
                    continue
                if href.endswith("//"):
                    odd.append((f"{key}/", resource))
                else:
                    folders.append(key)
            elif is_known and key == "":
                raise errors.LocationError(f"{self._where} is a file; give the folder that it lies in")
            elif is_known and status not in {None, 404} and href.endswith("/"):
                odd.append((key, resource))  # a folder, most likely, whose type is not known
            elif is_known and size is not None and size.isascii() and _DIGITS.fullmatch(size):
                etag = plain_etag(etag)
                if etag is None or etag.strip().lower() in _NO_ETAGS:
                    etag, modified = None, _plain_date(modified)
                files.append(Entry(key, int(size), etag, modified))
            else:
                odd.append((key, resource))
        return Found(files, folders, self._unreadable(odd, told, asked) if odd else [])

    def _unreadable(
        self, odd: Sequence[tuple[str, Resource]], told: Sequence[Resource], asked: str
    ) -> list[Unreadable]:
        """What could not be read of an answer; files that are gone are left out.

        Raises:
            StorageError: what was asked for cannot be read itself.
        """
        ends = [resource.href.endswith("/") for resource in told if resource.is_folder]
        folders_end_with_slash = bool(ends) and all(ends)
        unreadable = []
        for key, resource in odd:
            error = self._error_of(resource, key)
            if are_alike(key, asked):
                raise error
            if isinstance(error, errors.NotFoundError):
                tell_once(f"left out, though the server lists it: {error}")
            else:
                is_folder: bool | None = resource.is_folder or resource.href.endswith("/")
                if not is_folder and not (resource.is_known or folders_end_with_slash):
                    is_folder = None
                unreadable.append(Unreadable(key, is_folder, error))
        return unreadable

    def _error_of(self, resource: Resource, key: str) -> errors.StorageError:
        """Why something cannot be read."""
        where = f"{self._where}: {key!r}"
        status = resource.status
        if key and not is_safe(key):
            return errors.ProtocolError(
                f"{where}: the server lists {resource.href!r}, a name with an empty part ('//'); rename it on the "
                "storage, since no file can be asked for so"
            )
        if resource.is_known:
            size = f"with {resource.size!r} as its size" if resource.size is not None else "without a size"
            because = f" ({status} for what is missing)" if status is not None and resource.size is None else ""
            return errors.ProtocolError(f"{where}: the server lists {resource.href!r} {size}{because}")
        if status is None:
            return errors.ProtocolError(f"{where}: the server names it, and says nothing of it")
        if resource.is_gone:
            return errors.NotFoundError(f"{where}: no such file ({status})")
        kind, meaning = status_of(status).of_member or (errors.ServerError, "the server does not say what it is")
        return kind(f"{where}: {meaning} ({status})")

    def _key(self, path: str, href: str) -> str:
        """The key of a path on the server, which may spell our folder in its own way.

        Raises:
            ProtocolError: it is not below our folder.
        """
        base = self.folder.address.base_path
        length = same_prefix(path, base)
        if length is None:
            raise errors.ProtocolError(
                f"{self._where}: the server lists {href!r}, which is not below {base!r}; check the remote's url"
            )
        return path[length + 1 :]

    def _refuse_leaving(self, key: str, href: str) -> None:
        """Refuse a whole answer if a name in it leaves its folder; a name with an empty part does not."""
        if "\0" in key or not {".", ".."}.isdisjoint(key.split("/")):
            raise errors.ProtocolError(
                f"{self._where}: the server lists {href!r}, a name that leaves its folder; nothing of "
                "this listing is used"
            )

    def _path_on_server(self, href: str) -> str:
        """The path in an address of a listing, which may name our server, and no other."""
        before, separator, rest = href.partition("//")
        if not separator or "/" in before:
            return href
        authority, _, path = rest.partition("/")
        ours = host_of(urlsplit(self._remote.url).netloc)
        if before.lower() not in {"", "http:", "https:"} or host_of(authority) != ours:
            raise errors.ProtocolError(
                f"{self._where}: the server lists {href!r}, which is not on {self._remote.origin}; nothing of "
                "this listing is used"
            )
        return path


class _Circles:
    """Finds folders that are links to one above them, on a server that follows links: they would have no end."""

    def __init__(self, top: str, found: Found) -> None:
        self._shapes = {top: self._shape(top, found)}

    def closes(self, folder: str, members: Found) -> bool:
        """Whether a folder has just what one above it has: the same files in the same versions, the same folders."""
        shape = self._shapes[folder] = self._shape(folder, members)
        if shape is None:
            return False
        above = folder
        while above:
            above = above.rpartition("/")[0]
            if self._shapes.get(above) == shape:
                return True
        return False

    @staticmethod
    def _shape(folder: str, members: Found) -> object:
        """What a folder looks like; None if another one could look the same by chance."""
        if not members.folders or not any(entry.etag for entry in members.files):
            return None
        start = len(folder) + 1 if folder else 0
        files = frozenset((entry.key[start:], *entry[1:]) for entry in members.files)
        return files, frozenset(key[start:] for key in members.folders)


def _parents(keys: Iterable[str]) -> set[str]:
    """The folders that some keys lie in."""
    return {key.rpartition("/")[0] for key in keys}


def _plain_date(text: str | None) -> str | None:
    """A date as a GET has it (RFC 9110, 5.6.7), so that the two can be compared; None if it is no date."""
    if text is None or _HTTP_DATE.fullmatch(text):
        return text
    moment = date_of(text)
    try:
        return None if moment is None else email.utils.format_datetime(moment.astimezone(timezone.utc), usegmt=True)
    except OverflowError:  # for the years 1 and 9999, in some time zones
        return None
