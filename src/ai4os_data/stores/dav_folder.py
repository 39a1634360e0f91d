"""The folder of a store on a WebDAV server, found in whichever Unicode form of its name the server has."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors
from ai4os_data.http import NO_ANSWER, plain_etag
from ai4os_data.stores.forms import forms, shown
from ai4os_data.stores.propfind import propfind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.stores.address import Address
    from ai4os_data.stores.dav import DavClient
    from ai4os_data.stores.multistatus import Resources

T = TypeVar("T")


class DavFolder:
    """A folder, and what sends verbs to it.

    Args:
        dav: sends the verbs.
        address: where the folder is.
    """

    def __init__(self, dav: DavClient, address: Address) -> None:
        self.dav = dav
        self.address = address

    @property
    def location(self) -> str:
        """What messages call it."""
        return self.address.location

    def propfind(self, url: str, depth: str, *, tries: int | None = None) -> Resources:
        """Ask for what a listing needs, as `propfind` does."""
        return propfind(self.dav, self.location, url, depth, tries=tries)

    def etag(self) -> str | None:
        """The ETag of the folder itself, by a PROPFIND of Depth 0.

        Raises:
            LocationError: there is no such folder.
        """
        told = self.found(lambda: self.propfind(f"{self.address.base_url}/", "0"))
        return next((plain_etag(resource.etag) for resource in told), None)

    def found(self, ask: Callable[[], T]) -> T:
        """What a question about the folder gives; it is asked of the other Unicode form of its name, too.

        Raises:
            LocationError: there is no such folder in any form, or in two.
        """
        try:
            return self.found_in_some_form(ask)
        except errors.NotFoundError as error:
            raise self._no_such_folder() from error

    def found_in_some_form(self, ask: Callable[[], T]) -> T:
        """The same, where a missing folder may be no error.

        Raises:
            NotFoundError: there is no such folder in any form.
            LocationError: there is one in two.
        """
        try:
            return ask()
        except errors.NotFoundError as error:
            there = [path for path in forms(self.address.path)[1:] if self._has_collection(path)]
            if not there:
                raise
            if len(there) > 1:
                raise self._no_such_folder(there) from error
        self.address.move_to(there[0])
        return ask()

    def _has_collection(self, path: str) -> bool:
        try:
            self.propfind(f"{self.address.url_below_remote(path)}/", "0")
        except errors.NotFoundError:
            return False
        return True

    def check_above(self) -> None:
        """Make sure that the server is there which says that something is not: what stands before it says 404 to all.

        Raises:
            ServerUnavailableError: it knows no folder above the store's own, up to the remote's.
        """
        path = self.address.path
        while path:
            path = path.rpartition("/")[0]
            try:
                self.propfind(f"{self.address.url_below_remote(path)}/", "0")
            except errors.NotFoundError:
                continue
            except (*NO_ANSWER, errors.AuthenticationError):
                raise
            except errors.StorageError:
                return  # it is not ours to look at, but there
            return
        if self.address.path:
            raise errors.ServerUnavailableError(
                f"{self.location}: the server says 404 to this folder and to each above it, up to "
                f"{self.address.remote.url}. Is that the address of the files? If it was right before, a proxy answers "
                "for a server that is away: try again when it is back"
            )

    def _no_such_folder(self, there: Sequence[str] = ()) -> errors.LocationError:
        """What to raise if the server knows no such folder.

        Args:
            there: other forms of its name that it does know.
        """
        path, remote = self.address.path, self.address.remote
        if there:
            known = " and ".join(map(ascii, there))
            return errors.LocationError(
                f"{self.location}: there is no {path!a} on the server, but {known}, which look alike; rename one, or "
                "give the one that is meant"
            )
        advice = ""
        if not self.address.base_path or remote.url.endswith(("/remote.php/dav", "/remote.php/dav/files")):
            advice = ". The files of a Nextcloud are at https://HOST/remote.php/dav/files/USER"
        elif "/public.php/dav/files/" in remote.url:
            advice = ". A public link may have expired, or been removed: ask who shared it"
        return errors.LocationError(
            f"{self.location}: there is no such folder on the server; check the spelling, or list its parent; "
            f"`ai4os-data doctor LOCATION` shows similar names{advice}"
            + ("" if path.isascii() else f". Looked for: {shown(path)}, and its other Unicode form")
        )
