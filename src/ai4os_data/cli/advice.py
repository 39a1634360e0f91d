"""What to do about an error, as far as this machine can find out why it came."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ai4os_data import errors
from ai4os_data.http import proxy_for, tls
from ai4os_data.stores import NextcloudStore, WebDAVStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.locations import Remote
    from ai4os_data.stores import Store

_CONNECT_S = 3.0
_DAV_ADDRESS = "https://HOST/remote.php/dav/files/USER for Nextcloud, whose web page shows it in the settings of Files"

_BY_KIND: dict[type[BaseException], str] = {
    errors.StorageGoneError: "a mount that is dead does not come back by itself: restart the deployment; with the "
    "remote's credentials (RCLONE_CONFIG_* or `rclone config`), 'rshare:path' works without it",
    errors.OutOfSpaceError: "remove what is not needed any more, or ask for a larger quota; what lies in a Nextcloud's "
    "trash bin does not count against it, and matters only where the disk of the server is full",
    errors.ThrottledError: "ask nothing for some minutes, since further requests prolong this; if the password was "
    "wrong, correct it first",
    errors.LockedError: "wait some minutes; Nextcloud keeps a dead lock for up to an hour",
    errors.DeadlineError: "the server is up and slow, or a firewall drops the packets: try again later, or with a "
    "longer --deadline-s",
    errors.NotFoundError: "check the spelling, or list the folder above it",
    errors.LocationError: "README lists what a location can be",
    errors.RemoteError: "check the name, or correct the remote with `rclone config` or in RCLONE_CONFIG_<NAME>_*",
    errors.IntegrityError: "do not train from it: something between here and the disk of the server changes bytes",
}


def advice_for(error: BaseException, store: Store | None, environ: Mapping[str, str]) -> str:
    """What to do. If a server does not answer, this tries out why, which takes some seconds."""
    remote = store.remote if isinstance(store, WebDAVStore) else None
    if remote is not None:
        if isinstance(error, errors.RemoteError):
            return "correct or unset the variable, or correct the remote with `rclone config`, whichever is named"
        if isinstance(error, errors.AuthenticationError):
            return _correct_credentials(remote, is_nextcloud=isinstance(store, NextcloudStore), environ=environ)
        if isinstance(error, errors.PermissionDeniedError):
            return f"{remote.user or 'nobody'} may not do this there: choose a folder of your own, or ask its owner"
        if isinstance(error, errors.TLSError):
            return _about_tls(remote)
        if isinstance(error, errors.ServerUnavailableError | errors.DeadlineError):
            return _about_connection(remote, environ) or _for_kind(error)
        if isinstance(error, errors.ServerError) and not isinstance(error, errors.ThrottledError | errors.LockedError):
            return _about_address(remote)
    return _for_kind(error)


def about_missing_root(remote: Remote) -> str:
    """What to do if a server answers, and has nothing at the remote's own address."""
    named = unquote(urlsplit(f"{remote.url}/").path.partition("/dav/files/")[2].partition("/")[0])
    if named and remote.user and named != remote.user:
        return f"the address names {named!r}, the credentials are of {remote.user!r}: {_where_the_url_is(remote)}"
    return _about_address(remote)


def _for_kind(error: BaseException) -> str:
    if isinstance(error, errors.ServerUnavailableError):
        return "the server is up, and in maintenance or overloaded: try again in some minutes; reads wait for it"
    return next((told for kind, told in _BY_KIND.items() if isinstance(error, kind)), "try again; if it stays, ask")


def _correct_credentials(remote: Remote, *, is_nextcloud: bool, environ: Mapping[str, str]) -> str:
    if remote.user is None and remote.token is None:
        return "set user and password of the remote (`rclone config`), or put them into the address"
    if remote.token is not None:
        return "get a new token, and set it where this one comes from; tokens expire"
    if remote.name is None:
        return "correct user and password in the address; special characters are percent-encoded there"
    new = (
        "make a new app password in Nextcloud (Settings, Security), and"
        if is_nextcloud
        else "correct the password, and"
    )
    variable = f"RCLONE_CONFIG_{remote.name.upper()}_PASS"
    if environ.get(variable):
        return (
            f"it comes from {variable}: {new} link the storage again; a deployment that runs keeps the old one, unless "
            f"you export {variable}=$(rclone obscure …) in it"
        )
    return f"{new} set it: rclone config update {remote.name} pass …"


def _about_tls(remote: Remote) -> str:
    """Why a server is not trusted, by a handshake of our own."""
    parts = urlsplit(remote.url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_CONNECT_S) as connection:
            tls.context(remote.ca_file).wrap_socket(connection, server_hostname=parts.hostname).close()
    except ssl.SSLCertVerificationError as error:
        return (
            f"the certificate is not trusted ({error.verify_message}): set SSL_CERT_FILE to the authority of this "
            "server; if it has expired, or is for another host, whoever runs the server has to renew it"
        )
    except ssl.SSLError:
        return "the server does not speak TLS at this port: is it http:// instead of https://, or another port?"
    except (OSError, errors.TLSError) as error:
        return f"set SSL_CERT_FILE to the authority of this server, or take it away ({error})"
    return "a proxy on the way may show a certificate of its own: set SSL_CERT_FILE to its authority"


def _about_address(remote: Remote) -> str:
    return (
        f"is the address right? It is {_DAV_ADDRESS}; else {_where_the_url_is(remote)}. If it is right, whoever runs "
        "the server finds the reason in its log"
    )


def _where_the_url_is(remote: Remote) -> str:
    return "correct it" if remote.name is None else f"correct the url of the remote {remote.name!r}, {remote.url}"


def _about_connection(remote: Remote, environ: Mapping[str, str]) -> str | None:
    """Why there is no connection; None if there is one."""
    parts = urlsplit(remote.url)
    host = parts.hostname or ""
    if (proxy := proxy_for(remote.url, environ)) is not None:
        set_by = f"requests go through the proxy {proxy.url}, since {proxy.variable} is set"
        return f"{set_by}: correct it, or set NO_PROXY={host}"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except socket.gaierror:
        return f"no host is called {host!r}, as far as this machine can find out: check the spelling, and its network"
    except ConnectionRefusedError:
        return (
            f"nobody listens at {host}, port {port}: is the server down, or the port wrong? Try again later; cached "
            "files can be read"
        )
    except OSError as error:
        return (
            f"no connection to {host}, port {port} ({error.strerror or error}): is the server down, does a firewall "
            "drop the packets, or does this network need a proxy (https_proxy)?"
        )
    return None
