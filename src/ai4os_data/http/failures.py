"""The words for connections that fail, the same for bytes and for DAV verbs."""

from __future__ import annotations

import os

from ai4os_data import errors
from ai4os_data.http import proxies
from ai4os_data.locations import origin_of

SILENT = (errors.ServerUnavailableError, errors.DeadlineError, errors.ThrottledError)
"""What concerns the server, and not what it was asked for."""
NO_ANSWER = (*SILENT, errors.LockedError)
"""What tells nothing of whether the server has done, does, or will do what it was asked for."""


def untrusted(what: str, url: str, message: str) -> errors.TLSError:
    """TLS that fails, such as with a certificate that nobody vouches for."""
    return errors.TLSError(
        f"{what}: no trusted connection to {origin_of(url)} ({message}). If it uses an authority of your own, pass "
        "Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
    )


def late(what: str, url: str, message: str) -> errors.DeadlineError:
    """No answer in time."""
    return errors.DeadlineError(f"{what}: {message}{proxies.through(url, os.environ)}")


def unreachable(what: str, url: str, message: str) -> errors.ServerUnavailableError:
    """No connection, or one that broke off."""
    return errors.ServerUnavailableError(
        f"{what}: {message}. Is {origin_of(url)} up, and reachable from this machine?{proxies.through(url, os.environ)}"
    )


def compressed(kind: str) -> str:
    """Bytes that the server has compressed on their way."""
    return (
        f"the server compresses it ({kind}) although the plain file was asked for; turn compression off for this path "
        "on the server"
    )
