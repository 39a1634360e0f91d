"""Which proxy leads to a server: one answer from the usual variables, for listings and for bytes.

The variables are ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``, also in capitals. As elsewhere in
Python, lower case takes precedence, an empty variable in lower case switches off the one in capitals, and
``HTTP_PROXY`` in capitals is ignored in a CGI script, where a client can set it (https://httpoxy.org).
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ai4os_data.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_PROXY = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?!:)(?:(?P<userinfo>.*)@)?"
    r"(?P<host>[^][/@:?#\s]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?/?",
    re.DOTALL,
)
_HIGHEST_PORT = 65535
_ENTRY_PORT = re.compile(r"(?P<host>[^:]*|\[[^]]*\](?:/\d+)?):(?P<port>\d+)")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it.

    Attributes:
        url: its address, without credentials, with its port; ``socks5h`` for either kind of SOCKS 5.
        user: the user's name, if it asks for one.
        password: the password.
        variable: which variable of the environment names it.
    """

    url: str
    user: str | None
    password: str | None = field(repr=False)
    variable: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"the proxy {self.url} of {self.variable}"


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for a URL; None if the server is asked directly.

    Raises:
        RemoteError: the variable that counts for it cannot be understood, or names a kind of proxy that is not spoken.
    """
    parts = urlsplit(url)
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable = _spelling(name, environ)
        if variable is not None:
            port = parts.port or _PORTS.get(parts.scheme, 0)
            excluded = environ.get(_spelling("no_proxy", environ) or "", "")
            is_direct = _is_excluded(parts.scheme, parts.hostname or "", port, excluded)
            return None if is_direct else _parsed(variable, environ)
    return None


def through(url: str, environ: Mapping[str, str]) -> str:
    """What a message about a failed connection adds: the proxy that it goes through, if any."""
    try:
        proxy = proxy_for(url, environ)
    except RemoteError:
        return ""
    return f" (It is asked through {proxy.label}; NO_PROXY names servers to ask directly.)" if proxy else ""


def check_socks(proxy: Proxy, timeout_s: float) -> None:
    """Check that a SOCKS proxy speaks SOCKS 5 (RFC 1928, 3): the client would wait for its answers for ever.

    A proxy that accepts no connection is left to the client, which reports that, and may reach it later.

    Raises:
        RemoteError: it answers something else, or nothing.
    """
    parts = urlsplit(proxy.url)
    with suppress(ConnectionRefusedError, socket.gaierror):
        with socket.create_connection((parts.hostname, parts.port), timeout_s) as connection:
            try:
                connection.sendall(b"\x05\x02\x00\x02")  # without credentials, or with user and password
                answer = connection.recv(2)
            except OSError as error:
                answer = str(error).encode()
        if answer[:1] != b"\x05":
            raise RemoteError(
                f"{proxy.label} does not speak SOCKS 5. If it is an HTTP proxy, write http://HOST:PORT into "
                f"{proxy.variable}; NO_PROXY names servers to ask directly"
            )


def _spelling(name: str, environ: Mapping[str, str]) -> str | None:
    """Which spelling of a variable counts; None if it is not set, or empty."""
    if name in environ:
        return name if environ[name].strip() else None
    capitals = name.upper()
    if capitals == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
        return None
    return capitals if environ.get(capitals, "").strip() else None


def _parsed(variable: str, environ: Mapping[str, str]) -> Proxy:
    """The proxy that a variable names. No message shows its value, which may hold a password."""
    match = _PROXY.fullmatch(environ[variable].strip())
    port = match["port"] if match else None
    if match is None or (port is not None and not 0 < int(port) <= _HIGHEST_PORT):
        raise RemoteError(
            f"the variable {variable} does not name a proxy: write http://HOST:PORT, with user and password "
            "percent-encoded, or unset it"
        )
    scheme = (match["scheme"] or "http").lower()
    if scheme not in _PORTS:
        raise RemoteError(
            f"the variable {variable} names a proxy of the kind {scheme!r}; http, https, socks5 and socks5h can be used"
        )
    if scheme.startswith("socks"):
        scheme = "socks5h"  # the proxy resolves names, as httpx has it for both spellings
        if find_spec("socksio") is None:
            raise RemoteError(
                f"the variable {variable} names a SOCKS proxy, which takes one more package: pip install "
                "'ai4os-data[socks]'; or name the server in NO_PROXY to ask it directly"
            )
    user, _, password = (match["userinfo"] or "").partition(":")
    return Proxy(
        f"{scheme}://{match['host']}:{port or _PORTS[scheme]}",
        unquote(user) or None,
        unquote(password) or None,
        variable,
    )


def _is_excluded(scheme: str, host: str, port: int, excluded: str) -> bool:
    """Whether ``no_proxy`` has an entry for a server. What cannot be understood in it means nothing, as in curl."""
    name = host.rstrip(".").lower()
    address = _address(name)
    for entry in re.split(r"[,\s]+", excluded.lower()):
        if entry == "*":
            return True
        entry_scheme, separator, rest = entry.rpartition("://")
        if separator and entry_scheme not in {scheme, "all"}:
            continue
        if (match := _ENTRY_PORT.fullmatch(rest)) is not None:
            if int(match["port"]) != port:
                continue
            rest = match["host"]
        if _matches_network(address, rest) if address is not None else _matches_name(name, rest):
            return True
    return False


def _matches_name(name: str, entry: str) -> bool:
    """An entry stands for a name and for those below it, with a dot before it or without."""
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _matches_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    """An entry stands for one address or, with a slash, for a network."""
    try:
        return address in ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
