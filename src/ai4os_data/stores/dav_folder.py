"""The folder of a store on a WebDAV server, found in whichever Unicode form of its name the server has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors
from ai4os_data.http import NO_ANSWER, error_for_status, plain_etag, statuses
from ai4os_data.stores.dav import TornError
from ai4os_data.stores.forms import forms, shown
from ai4os_data.stores.multistatus import NotMultistatusError, RefusedError, Resources, resources
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.stores.address import Address
    from ai4os_data.stores.dav import DavClient

T = TypeVar("T")

# Only what is needed: all properties of 2,000 files take 824 KB.
_WANTED = (
    b'<?xml version="1.0" encoding="utf-8"?><d:propfind xmlns:d="DAV:"><d:prop><d:resourcetype/><d:getcontentlength/>'
    b"<d:getetag/><d:getlastmodified/></d:prop></d:propfind>"
)
_LISTING_TRIES = 3  # after answers that cannot be used
_ERROR_PAUSE_S = 3.0  # at most, for an error that comes under the status of a success
_INFINITY_SILENCE_S = 30.0  # then it is listed folder by folder


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
        """Ask for what a listing needs, until a whole answer comes.

        Args:
            url: percent-encoded.
            depth: ``"0"``, ``"1"`` or ``"infinity"``.
            tries: the most tries, without waiting for an outage; by default those of the patience.

        Raises:
            ProtocolError: what comes is no listing: a page, nothing at all, or only a part, several times.
            StorageError: the server refuses it, or cannot do it.
        """
        patience = self.dav.patience
        most = min(tries or _LISTING_TRIES, patience.tries)
        until_s = time.monotonic() + (patience.outage_s if tries is None else 0.0)
        attempt = 0
        while True:
            attempt += 1
            found = _asked_once(self.dav, self.location, url, depth, tries)
            if not isinstance(found, errors.StorageError):
                return found
            pause_s = min(patience.pause_s(attempt), _ERROR_PAUSE_S)
            is_away = isinstance(found, errors.ServerUnavailableError | errors.ThrottledError)
            if attempt >= most and not (is_away and time.monotonic() + pause_s < until_s):
                raise found
            if attempt == most:
                log.warning("%s: the server cannot tell for now, and is waited for (%s)", self.location, found)
            time.sleep(pause_s)

    def etag(self) -> str | None:
        """The ETag of the folder itself, by a PROPFIND of Depth 0.

        Raises:
            LocationError: there is no such folder.
        """
        found = self.found(lambda: self.propfind(f"{self.address.base_url}/", "0"))
        return next((plain_etag(resource.etag) for resource in found), None)

    def found(self, ask: Callable[[], T]) -> T:
        """The answer to a question about the folder, which is asked again in the other Unicode form if need be.

        Raises:
            LocationError: there is no such folder in any form, or in two.
        """
        try:
            return self.found_in_some_form(ask)
        except errors.NotFoundError as error:
            raise self._no_such_folder() from error

    def found_in_some_form(self, ask: Callable[[], T]) -> T:
        """The same as `found`, for a folder that may be missing.

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
        """Check that it was the server that called something missing: a proxy may answer 404 to everything.

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
                return  # it is there, though we may not look at it
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


def _asked_once(
    dav: DavClient, location: str, url: str, depth: str, tries: int | None
) -> Resources | errors.StorageError:
    """Ask once: the resources, or an error that another try may avoid."""
    what = f"PROPFIND {url}"
    headers = {"Depth": depth, "Content-Type": "application/xml"}
    silence_s = _INFINITY_SILENCE_S if depth == "infinity" else None
    try:
        answer = dav.send("PROPFIND", url, headers, _WANTED, tries=tries, silence_s=silence_s)
        found = resources(answer.body)
    except TornError as error:
        return _unusable(location, error)
    except errors.OutOfSpaceError as error:
        raise _too_large(what, "507") from error
    except RefusedError as error:
        if error.status == 507:
            raise _too_large(what, str(error)) from error
        failure = error_for_status(error.status, f"{what}: {error}", {}, dav.remote)
        if error.status in statuses.RETRIED:
            return failure
        raise failure from error
    except NotMultistatusError as error:
        if answer.status == 207:
            return _unusable(location, error)
        raise errors.ProtocolError(
            f"{location}: not a WebDAV server (it answers PROPFIND with {answer.status}). Is "
            f"{dav.remote.origin} the address of the storage itself, and not of a page before it, such as a login?"
        ) from error
    if len(found) == 1 and not found[0].is_known and (status := found[0].status) in statuses.AWAY:
        return error_for_status(status or 0, f"{what}, in a multistatus", {}, dav.remote)
    return found


def _unusable(location: str, error: Exception) -> errors.ProtocolError:
    return errors.ProtocolError(f"{location}: the server's listing cannot be used ({error}); is this a WebDAV address?")


def _too_large(what: str, said: str) -> errors.ServerError:
    """What a 507 means in a listing: the storage itself may be empty."""
    return errors.ServerError(f"{what}: the server cannot make a listing of this size ({said})")
