"""Makes folders on a WebDAV server, with those above them, while other processes may make the same ones."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ai4os_data import errors
from ai4os_data.http import NO_ANSWER
from ai4os_data.stores.base import checked
from ai4os_data.stores.dav import FolderError
from ai4os_data.stores.forms import unquoted
from ai4os_data.stores.names import check_not_the_name

if TYPE_CHECKING:
    from ai4os_data.stores.dav_folder import DavFolder


class FolderMaker:
    """Makes folders below the folder of a store, and remembers which are there.

    Args:
        folder: the folder of the store.
        known: the keys of those that are known to be there; all copies of a store share it.
    """

    def __init__(self, folder: DavFolder, known: set[str]) -> None:
        self._folder = folder
        self._known = known

    def make(self, key: str) -> bool:
        """Make a folder, and those above it, if they are missing. Returns whether the server says it is new.

        Some servers say so of a folder that was there.
        """
        path = self._folder.address.below_remote(key)
        try:
            is_new = bool(path) and self._make_collections(path)
        except errors.StorageError as error:
            if isinstance(error, errors.NotFoundError):
                self._folder.check_above()
            check_not_the_name(self._folder.location, path, error)
            raise
        self._known.add(key)
        return is_new

    def make_parent(self, key: str) -> bool:
        """Make the folder of a file, unless it is known to be there: it costs less than a large PUT that is refused."""
        folder = checked(key).rpartition("/")[0]
        return folder not in self._known and self.make(folder)

    def forget(self, key: str) -> None:
        """Record that a folder is removed, with all below it."""
        self._known.difference_update([folder for folder in [*self._known] if f"{folder}/".startswith(f"{key}/")])

    def _make_collections(self, path: str) -> bool:
        try:
            return self._make_collection(path)
        except errors.NotFoundError:  # the one above is missing
            if "/" not in path:
                raise
        self._make_collections(path.rpartition("/")[0])
        return self._make_collection(path)

    def _make_collection(self, path: str) -> bool:
        url = self._folder.address.url_below_remote(path)
        try:
            self._folder.dav.send("MKCOL", f"{url}/")
        except NO_ANSWER:
            raise
        except errors.PermissionDeniedError:
            with suppress(errors.NotFoundError):  # Apache says 403 if another request makes it just now
                self._look_at_collection(url)
                return False
            raise
        except errors.ServerError as error:
            # It is there already (405), or another request makes it just now (500 on wsgidav).
            try:
                self._look_at_collection(url)
            except errors.NotFoundError:
                self._look_at_collection(url.rpartition("/")[0])  # a file there, or nothing, is the reason
                raise error from None  # that it is missing is known: raise the error, which may pass
            return False
        return True

    def _look_at_collection(self, url: str) -> None:
        """Check that there is a folder.

        Raises:
            NotFoundError: there is nothing.
            LocationError: there is a file.
        """
        try:
            self._refuse_file(f"{url}/")
        except errors.ProtocolError:  # Apache's answer to a slash after a file, and to any path below a file
            while len(url) > len(self._folder.address.remote.url):
                with suppress(errors.ProtocolError, FolderError):
                    self._refuse_file(url)
                url = url.rpartition("/")[0]
            raise

    def _refuse_file(self, url: str) -> None:
        if any(found.is_known and not found.is_folder for found in self._folder.propfind(url, "0")):
            raise errors.LocationError(
                f"{self._folder.location}: there is a file where a folder belongs: {unquoted(urlsplit(url).path)!r}"
            )
