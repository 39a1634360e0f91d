"""Locations: what users already type for where their data is, by kind and in parts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

from ai4os_data.errors import LocationError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
# rclone's rule for the names of remotes (https://rclone.org/docs/#valid-remote-names)
_REMOTE_PATH = re.compile(r"(?P<name>[\w.+@][\w.+@ -]*):(?!//)(?P<path>.*)", re.DOTALL)
_NEXTCLOUD_ROOT = re.compile(r".*?(?:/remote\.php/(?:dav/files/[^/]+|webdav)|/public\.php/dav/files/[^/]+)(?=/|$)")
# rclone's connection strings (https://rclone.org/docs/#connection-strings), which may hold a password.
_CONNECTION_STRING = re.compile(
    r"(?P<kind>:[A-Za-z0-9]+)[,:].*|(?P<name>[\w.+@][\w.+@ -]*),[A-Za-z_]+=.*:.*", re.DOTALL
)
_HOST = re.compile(r"(?:[^][/@:?#\s]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
# What stands before a host; also with a slash in the password that should have been encoded.
_USERINFO = re.compile(r"://(?:[^/]*@|[^/@:]*:(?!\d*(?:/|$))(?:(?!://)[^@])*@)")
_DAV_SCHEMES = {
    **dict.fromkeys(("webdav", "dav", "http"), "http"),
    **dict.fromkeys(("webdavs", "davs", "https"), "https"),
}


@dataclass(frozen=True)
class DirectoryLocation:
    """A path of this machine, a mount among them."""

    path: str


@dataclass(frozen=True)
class RemoteLocation:
    """A path below a named remote."""

    name: str
    path: str


@dataclass(frozen=True)
class DavLocation:
    """A WebDAV URL, without the credentials that it came with.

    Attributes:
        root: the DAV root: all of the URL if nothing separates it from the path.
        path: the path below it, not percent-encoded.
        user: the user's name in the URL.
        password: the password in the URL.
    """

    root: str
    path: str
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        """Show no password."""
        return f"DavLocation(root={self.root!r}, path={self.path!r}, user={self.user!r})"

    @property
    def url(self) -> str:
        """The whole of it."""
        return f"{self.root}/{self.path}" if self.path else self.root


@dataclass(frozen=True)
class FsspecLocation:
    """Any other URL that fsspec may know."""

    url: str

    def __repr__(self) -> str:
        """Show no password."""
        return f"FsspecLocation({shown(self.url)!r})"


Location = DirectoryLocation | RemoteLocation | DavLocation | FsspecLocation


def parse(location: str | os.PathLike[str]) -> Location:
    """The kind of a location, and its parts.

    Raises:
        LocationError: it is none.
    """
    text = os.fspath(location)
    if not text or "\0" in text:
        raise LocationError(
            f"{text!r} is not a location: give a directory, 'rshare:path', an "
            "https://…/remote.php/dav/files/USER/… address or an fsspec URL"
        )
    if isinstance(location, os.PathLike) or text.startswith(("/", "./", "../", "~")):
        return DirectoryLocation(os.path.expanduser(text))
    if _URL_CHAIN.match(text):
        return FsspecLocation(text)
    if _SCHEME.match(text):
        scheme, _, rest = text.partition("://")
        if scheme.lower() == "ai4os":
            name, _, path = rest.partition("/")
            if not name:
                raise LocationError(
                    f"{text!r} names no remote: write ai4os://REMOTE/PATH, such as ai4os://rshare/datasets"
                )
            return RemoteLocation(name, path.strip("/"))
        if scheme.lower() in _DAV_SCHEMES:
            return _dav(_DAV_SCHEMES[scheme.lower()], rest)
        if scheme.lower() == "file":
            return DirectoryLocation(unquote(rest) if rest.startswith("/") else os.path.abspath(rest))
        return FsspecLocation(text)
    return _remote_or_directory(text)


def _remote_or_directory(text: str) -> Location:
    if (match := _CONNECTION_STRING.fullmatch(text)) is not None:
        raise LocationError(
            f"a connection string of rclone, as this for {match['name'] or match['kind']!r}, is not a location: set a "
            "remote up with `rclone config` or RCLONE_CONFIG_<NAME>_* and give 'name:path', or pass remote=Remote(…)"
        )
    if (match := _REMOTE_PATH.fullmatch(text)) is not None:
        return RemoteLocation(match["name"], match["path"].strip("/"))
    return DirectoryLocation(text)


def shown(location: str | os.PathLike[str]) -> str:
    """A location as messages may show it: without credentials."""
    return _USERINFO.sub("://", os.fspath(location))


def _dav(scheme: str, rest: str) -> DavLocation:
    authority, _, path = rest.partition("/")
    userinfo, _, host = authority.rpartition("@")
    if _HOST.fullmatch(host) is None:
        raise LocationError(
            f"{shown(f'{scheme}://{rest}')} names no host; user and password before it are percent-encoded, "
            "with %2F for a slash"
        )
    user, _, password = userinfo.partition(":")
    address = f"{scheme}://{host}"
    # Not urlsplit: in a name that was typed, '#' and '?' are no more than characters.
    match = _NEXTCLOUD_ROOT.match(f"/{path}")
    root = match[0].rstrip("/") if match else ""
    below = f"/{path}"[len(root) :].strip("/")
    return DavLocation(address + root, unquote(below), unquote(user) or None, unquote(password) or None)
