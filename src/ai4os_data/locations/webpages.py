"""Addresses of Nextcloud's pages, which people copy from the browser, and the WebDAV address that belongs to each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

# Only what is typed as http or https: who writes webdavs:// means WebDAV, whatever the path looks like.
_ADDRESS = re.compile(
    r"(?P<origin>https?://[^/?#]+)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL
)
_PAGE = re.compile(
    r"(?P<before>(?:/[^/]+)*?)(?:"
    r"/index\.php/s/(?P<token>[\w-]+)(?P<below>/.*)?"
    r"|/s/(?:(?P<any_token>[\w-]{4,})(?P<download>/download(?:/.*)?)?/?|(?P<usual_token>[A-Za-z0-9]{15})(?P<usual_below>/.*))"
    r"|/index\.php(?:/.*)?|/f/\d+/?|/apps/(?:files|dashboard|photos)(?:/.*)?"
    r"|/remote\.php/?|/remote\.php/dav/?|/remote\.php/dav/files/*"
    r")"
)
_FOLDERS = ("dir", "path")
_PAGES_OF_A_SHARE = frozenset({"authenticate", "download", "preview"})


@dataclass(frozen=True)
class Page:
    """A page of a Nextcloud.

    Attributes:
        server_url: where ``remote.php`` is, without a slash at the end.
        token: of a public share; None for a page of an account's files.
        folder: the folder that it shows, not percent-encoded; None if the address does not say.
    """

    server_url: str
    token: str | None
    folder: str | None

    @property
    def share_url(self) -> str:
        """The WebDAV address of a public share (Nextcloud 29 and later)."""
        return "/".join(
            part for part in (f"{self.server_url}/public.php/dav/files/{self.token}", quote(self.folder or "")) if part
        )

    def files_url(self, user: str | None) -> str:
        """The WebDAV address of the folder that an account's page shows, with words for what is unknown."""
        account = quote(user, safe="") if user else "USER"
        folder = "FOLDER" if self.folder is None else quote(self.folder)
        return f"{self.server_url}/remote.php/dav/files/{account}/{folder}".rstrip("/")

    def advice(self, location: str, user: str | None = None, remote: str | None = None) -> str:
        """What a user who has given its address should write instead.

        Args:
            location: what was given, without credentials.
            user: the account's name, if a remote for this server is configured.
            remote: the name of that remote, if it begins at the account's root.
        """
        folder = "FOLDER" if self.folder is None else self.folder
        unknown = [] if user else ["USER is the account's name (Files shows it under Settings, WebDAV)"]
        if self.folder is None:
            unknown.append("FOLDER is what follows ?dir=/ in the browser where it shows the folder")
        through = f"{remote}:{folder}" if remote else f"rshare:{folder} where the remote rshare is that account"
        hints = "".join(f" {hint}." for hint in unknown)
        return (
            f"{location.partition('?')[0]} is a page of Nextcloud, not the address of files. Give "
            f"{self.files_url(user)}, or {through}.{hints} If it is a WebDAV address all the same, write webdav:// for "
            "http:// and webdavs:// for https://"
        )


def page_of(location: str) -> Page | None:
    """The page that an address is of; None for any other address."""
    address = _ADDRESS.fullmatch(location)
    page = _PAGE.fullmatch(address["path"]) if address else None
    if address is None or page is None:
        return None
    origin = address["origin"].rpartition("@")[2]
    scheme = address["origin"].partition("://")[0].lower()
    server_url = f"{scheme}://{origin.rpartition('://')[2]}{page['before']}"
    token = page["token"] or page["any_token"] or page["usual_token"]
    asked = dict(pair.partition("=")[::2] for pair in (address["query"] or "").split("&"))
    folder = next((unquote(asked[name]).strip("/") for name in _FOLDERS if name in asked), None)
    if token and folder is None:
        below = unquote(page["below"] or page["usual_below"] or "").strip("/")
        folder = "" if below.split("/")[0] in _PAGES_OF_A_SHARE else below
    return Page(server_url, token, folder)
