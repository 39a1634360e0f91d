"""PROPFIND, sent until a whole multistatus has come: a torn one, or one that reports an outage, may be chance."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import error_for_status, statuses
from ai4os_data.stores.dav import TornError
from ai4os_data.stores.multistatus import NotMultistatusError, RefusedError, Resources, resources
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.stores.dav import DavClient

# Only what is needed: all properties of 2,000 files take 824 KB.
_WANTED = (
    b'<?xml version="1.0" encoding="utf-8"?><d:propfind xmlns:d="DAV:"><d:prop><d:resourcetype/><d:getcontentlength/>'
    b"<d:getetag/><d:getlastmodified/></d:prop></d:propfind>"
)
_LISTING_TRIES = 3  # of an answer that came, and is of no use
_ERROR_PAUSE_S = 3.0  # between two questions to a server that says under the status of a success that it is away
_INFINITY_SILENCE_S = 30.0  # then folder by folder


def propfind(dav: DavClient, location: str, url: str, depth: str, *, tries: int | None = None) -> Resources:
    """Ask for what a listing needs, until a whole answer comes.

    Args:
        dav: sends the request.
        location: what messages call the store.
        url: percent-encoded.
        depth: ``"0"``, ``"1"`` or ``"infinity"``.
        tries: the most tries, if it is not for this client to know how often it may be sent.

    Raises:
        ProtocolError: what comes is no listing: a page, nothing at all, or time and again only a part.
        StorageError: the server refuses it, or cannot do it.
    """
    patience = dav.patience
    most = min(tries or _LISTING_TRIES, patience.tries)
    until_s = time.monotonic() + (patience.outage_s if tries is None else 0.0)
    attempt = 0
    while True:
        attempt += 1
        told = _asked_once(dav, location, url, depth, tries)
        if not isinstance(told, errors.StorageError):
            return told
        pause_s = min(patience.pause_s(attempt), _ERROR_PAUSE_S)
        is_away = isinstance(told, errors.ServerUnavailableError | errors.ThrottledError)
        if attempt >= most and not (is_away and time.monotonic() + pause_s < until_s):
            raise told
        if attempt == most:
            log.warning("%s: the server cannot tell for now, and is waited for (%s)", location, told)
        time.sleep(pause_s)


def _asked_once(
    dav: DavClient, location: str, url: str, depth: str, tries: int | None
) -> Resources | errors.StorageError:
    """What is told, or an error that may be chance."""
    what = f"PROPFIND {url}"
    headers = {"Depth": depth, "Content-Type": "application/xml"}
    silence_s = _INFINITY_SILENCE_S if depth == "infinity" else None
    try:
        answer = dav.send("PROPFIND", url, headers, _WANTED, tries=tries, silence_s=silence_s)
        told = resources(answer.body)
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
        message = (
            f"{location}: not a WebDAV server (it answers PROPFIND with {answer.status}). Is "
            f"{dav.remote.origin} the address of the storage itself, and not of a page before it, such as a login?"
        )
        raise errors.ProtocolError(message) from error
    if len(told) == 1 and not told[0].is_known and (status := told[0].status) in statuses.AWAY:
        return error_for_status(status or 0, f"{what}, in a multistatus", {}, dav.remote)
    return told


def _unusable(location: str, error: Exception) -> errors.ProtocolError:
    return errors.ProtocolError(f"{location}: the server's listing cannot be used ({error}); is this a WebDAV address?")


def _too_large(what: str, said: str) -> errors.ServerError:
    """What a 507 means in a listing: the storage itself may be as empty as can be."""
    return errors.ServerError(f"{what}: the server cannot make a listing of this size ({said})")
