"""Which certificate authorities are trusted, the same for every client in here."""

from __future__ import annotations

import os
import ssl

import certifi


def ca_file(given: str | os.PathLike[str] | None = None) -> str:
    """The PEM file to trust: the one given, the one in the usual variables, the system's, or certifi's."""
    if given is not None:
        return os.fspath(given)
    for variable in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "RCLONE_CA_CERT"):
        if os.environ.get(variable):
            return os.environ[variable]
    return ssl.get_default_verify_paths().cafile or certifi.where()
