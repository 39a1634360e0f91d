"""The certificate authorities that are trusted, the same for bytes and for DAV verbs."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

import certifi

from ai4os_data.errors import TLSError


def ca_file(given: str | os.PathLike[str] | None = None) -> str:
    """The PEM file to trust: the one given, the one in the usual variables, the system's, or certifi's."""
    if given is not None:
        return os.fspath(given)
    for variable in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "RCLONE_CA_CERT"):
        if os.environ.get(variable):
            return os.environ[variable]
    return ssl.get_default_verify_paths().cafile or certifi.where()


def context(given: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """What verifies a server against them.

    Raises:
        TLSError: the file cannot be read, or holds no certificates.
    """
    file = ca_file(given)
    try:
        return _loaded(file, os.stat(file).st_mtime_ns)
    except OSError as error:  # ssl.SSLError among them
        raise TLSError(f"{file}: no certificate authorities can be read from it: {error}") from error


@lru_cache(maxsize=4)  # the usual 140 authorities take 20 ms
def _loaded(file: str, _changed_ns: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=file)
