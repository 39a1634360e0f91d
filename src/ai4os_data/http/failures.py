"""The words for connections that fail, the same for bytes and for DAV verbs."""

from __future__ import annotations

import os

from ai4os_data import errors
from ai4os_data.http import proxies
from ai4os_data.locations import origin_of

SILENT = (errors.ServerUnavailableError, errors.DeadlineError, errors.ThrottledError)
"""Errors that concern the server as a whole, and no single file."""
NO_ANSWER = (*SILENT, errors.LockedError)
"""Errors that leave open whether the server has carried out the request, or still will."""


def untrusted(what: str, url: str, message: str) -> errors.TLSError:
    """The error if TLS fails, for example because no trusted authority signed the certificate."""
    return errors.TLSError(
        f"{what}: no trusted connection to {origin_of(url)} ({message}). If it uses an authority of your own, pass "
        "Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
    )


def late(what: str, url: str, message: str) -> errors.DeadlineError:
    """The error if no answer came in time."""
    return errors.DeadlineError(f"{what}: {message}{proxies.through(url, os.environ)}")


def unreachable(what: str, url: str, message: str) -> errors.ServerUnavailableError:
    """The error if there is no connection, or it broke."""
    return errors.ServerUnavailableError(
        f"{what}: {message}. Is {origin_of(url)} up, and reachable from this machine?{proxies.through(url, os.environ)}"
    )


def compressed(kind: str) -> str:
    """What to say about bytes that the server has compressed on the way."""
    return (
        f"the server compresses it ({kind}) although the plain file was asked for; turn compression off for this path "
        "on the server"
    )
