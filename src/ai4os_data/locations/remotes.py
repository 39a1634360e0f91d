"""Remotes: where a server is and who we are there, found the way rclone finds them. Secrets stay invisible."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from ai4os_data.errors import RemoteError
from ai4os_data.locations import rclone, tokens
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterator

_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<userinfo>[^/]*)@)?(?P<host>(?:[^][/@:?#\s]+|\[[0-9a-f:.]+\])(?::\d{1,5})?)(?P<path>/.*)?",
    re.DOTALL | re.IGNORECASE,
)
_NEXTCLOUD = re.compile(r"[^/]*//[^/]*(?P<before>/.*?)?/remote\.php/(?:dav/files/(?P<user>[^/]+)|webdav)/")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# Lines that we write ourselves for each request.
_OUR_HEADERS = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "depth", "destination", "expect", "if-match"),
        *("if-none-match", "if-range", "overwrite", "range", "transfer-encoding"),
    }
)
_FOREIGN_VENDORS = frozenset({"sharepoint", "sharepoint-ntlm"})
# Options of rclone that change what is seen or sent, and that are not followed here.
_IGNORED_OPTIONS = {
    "auth_redirect": "credentials are never sent to another host",
    "encoding": "names are those on the server",
    "owncloud_exclude_mounts": "mounted storages are listed too",
    "owncloud_exclude_shares": "shares are listed too",
}
_AS_TYPED = "/%:@!$&'()*+,;="  # what an encoded path may hold


@dataclass(frozen=True)
class Remote:
    """A WebDAV server and the credentials for it.

    Pickled, a remote that was found in the environment carries only its name, and is found again on the other side;
    one that the caller built carries what the caller gave.

    Args:
        url: the DAV root, such as ``https://HOST/remote.php/dav/files/USER``. Credentials in it are moved to ``user``
            and ``password``.
        user: the account's name.
        password: the password in the clear, an app password if the server has them.
        token: a bearer token, instead of user and password.
        name: the name in rclone's configuration.
        vendor: rclone's word for the kind of server, ``"nextcloud"`` or ``"other"``.
        ca_file: a PEM file of the certificate authorities to trust instead of the usual ones.
        token_command: a command that prints a bearer token, in one text or as its words; it is run when the first
            request is to be sent, and again when its token is refused. No shell reads it.
        headers: names and values of header lines for every request to this server, as pairs or as a mapping.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, kw_only=True)
    vendor: str = field(default="other", kw_only=True)
    ca_file: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    token_command: tuple[str, ...] | str = field(default=(), kw_only=True, repr=False)
    headers: tuple[tuple[str, str], ...] | Mapping[str, str] = field(default=(), kw_only=True, repr=False)
    discovered: bool = field(default=False, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        """Move credentials out of the URL, encode what has to be, and tidy its end."""
        match = _URL.fullmatch(self.url)
        if match is None:
            shown = self.url.rpartition("@")[2]  # credentials are not
            raise RemoteError(
                f"a remote's url begins with http:// or https:// and names a host, not {shown!r}; "
                "user and password in it are percent-encoded"
            )
        user, _, password = (match["userinfo"] or "").partition(":")
        if user:
            object.__setattr__(self, "user", self.user or unquote(user))
        if password:
            object.__setattr__(self, "password", self.password or unquote(password))
        path = quote(match["path"] or "", safe=_AS_TYPED).rstrip("/")
        object.__setattr__(self, "url", f"{match['scheme'].lower()}://{match['host']}{path}")
        command, headers = self.token_command, self.headers
        object.__setattr__(
            self, "token_command", tokens.command_of(command) if isinstance(command, str) else tuple(command)
        )
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        object.__setattr__(self, "headers", tuple((name, value) for name, value in pairs))
        _check_headers(self._lines, self.label)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle a discovered remote as its name."""
        if self.discovered and self.name is not None:
            return _rediscover, (self.name, self.url)
        return partial(Remote, **{name: getattr(self, name) for name in self.__dataclass_fields__}), ()

    @classmethod
    def discover(cls, name: str, environ: Mapping[str, str] | None = None) -> Remote:
        """Find the remote that rclone knows by this name.

        The environment (``RCLONE_CONFIG_<NAME>_URL`` and so on; an empty value counts as absent) overrides
        ``rclone.conf``, value by value, as in rclone.

        Raises:
            RemoteError: there is none, or it is not a WebDAV remote.
        """
        environ = os.environ if environ is None else environ
        options = rclone.options_of(name, environ)
        for option in _IGNORED_OPTIONS.keys() & options.keys():
            if options[option].lower() not in {"false", "none"}:
                tell_once(f"remote {name!r}: the option {option} is not followed: {_IGNORED_OPTIONS[option]}")
        return cls._from_options(name, options)

    @classmethod
    def known(cls, environ: Mapping[str, str] | None = None) -> Iterator[Remote]:
        """Every WebDAV remote that is configured here, those of the environment first."""
        environ = os.environ if environ is None else environ
        for name in rclone.configured_names(environ):
            try:
                yield cls._from_options(name, rclone.options_of(name, environ))
            except RemoteError:
                continue

    @classmethod
    def matching(cls, url: str, environ: Mapping[str, str] | None = None) -> Remote | None:
        """The configured remote whose credentials are for this URL: it is below the remote's, or the same account."""
        remotes = list(cls.known(environ))
        covering = (remote for remote in remotes if remote.covers(url))
        return next(covering, None) or next((remote for remote in remotes if remote.shares_account(url)), None)

    @classmethod
    def _from_options(cls, name: str, options: Mapping[str, str]) -> Remote:
        whose, kind = f"remote {name!r}", options.get("type", "webdav")
        if kind != "webdav":
            raise RemoteError(
                f"{whose} is of type {kind!r}; only webdav remotes (Nextcloud among them) are read directly. "
                f"Mount it with rclone, or give an fsspec URL such as s3://bucket/path."
            )
        if not options.get("url"):
            raise RemoteError(f"{whose} has no url: set {rclone.ENV_PREFIX}{name.upper()}_URL, or run `rclone config`")
        if options.get("unix_socket"):
            raise RemoteError(
                f"{whose} has the option unix_socket, which is not supported: give a url with host and port"
            )
        if options.get("vendor", "") in _FOREIGN_VENDORS:
            raise RemoteError(
                f"{whose} is of the vendor {options['vendor']!r}, whose way to log in is not supported: mount it with "
                "rclone, and give the mount's path"
            )
        secret = options.get("pass")
        has_other = bool(options.get("user") or secret or options.get("bearer_token"))
        return cls(
            url=options["url"],
            user=options.get("user"),
            password=rclone.plain(secret) if secret else None,
            token=options.get("bearer_token"),
            name=name,
            vendor=options.get("vendor", "other"),
            token_command=() if has_other else tokens.command_of(options.get("bearer_token_command", "")),
            headers=rclone.headers_of(options.get("headers", ""), whose),
            discovered=True,
        )

    @property
    def origin(self) -> str:
        """Scheme, host and port: the only place that the credentials are ever sent to."""
        return origin_of(self.url)

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.name}:" if self.name else self.url

    @property
    def sends_password(self) -> bool:
        """Whether it identifies itself by user and password, and not by a token or a header of its own."""
        return self.user is not None and not self.token and not self._has_header("authorization")

    @property
    def has_credentials(self) -> bool:
        """Whether it has any to send."""
        return bool(self.user is not None or self.token or self.token_command or self.headers)

    def sent_headers(self) -> list[tuple[str, str]]:
        """The header lines that go with every request to this server, and to no other."""
        sends_token = self.token and not self._has_header("authorization")
        return [*([("Authorization", f"Bearer {self.token}")] if sends_token else []), *self._lines]

    def _has_header(self, name: str) -> bool:
        return any(known.lower() == name for known, _ in self._lines)

    @property
    def _lines(self) -> tuple[tuple[str, str], ...]:
        assert isinstance(self.headers, tuple)  # since __post_init__
        return self.headers

    def authorized(self) -> Remote:
        """The same remote with its token, if a command is to print it.

        Raises:
            RemoteError: the command fails.
        """
        if not self.token_command or self.token:
            return self
        return replace(self, token=tokens.token_of(tuple(self.token_command), self._whose))

    def renewed(self, environ: Mapping[str, str] | None = None) -> Remote | None:
        """The same remote with credentials read anew: from the environment, ``rclone.conf``, and the token command.

        Call it when a server refuses credentials that it accepted before.

        Returns:
            None if there is nowhere to read them from, that fails, or they are what they were.
        """
        found = self
        if self.discovered and self.name is not None:
            with suppress(RemoteError):
                found = replace(Remote.discover(self.name, environ), ca_file=self.ca_file).at(self.url)
        try:
            if found.token_command:
                found = replace(found, token=tokens.token_of(tuple(found.token_command), self._whose, self.token))
        except RemoteError:
            return None
        return None if found == self else found

    @property
    def _whose(self) -> str:
        return f"remote {self.name!r}" if self.name else self.origin

    def covers(self, url: str) -> bool:
        """Whether a URL lies at or below this remote's."""
        if origin_of(url) != self.origin:
            return False
        # Not urlsplit: in a name that was typed, '#' and '?' are no more than characters.
        mine, theirs = (unquote(one.split("/", 3)[-1]).strip("/").split("/") for one in (f"{self.url}/", f"{url}/"))
        return theirs[: len(mine)] == mine or mine == [""]

    def shares_account(self, url: str) -> bool:
        """Whether a URL is the other form of a Nextcloud account's: ``dav/files/USER`` and ``webdav`` show the same."""
        mine, theirs = (_NEXTCLOUD.match(f"{one}/") for one in (self.url, url))
        if mine is None or theirs is None or origin_of(url) != self.origin or mine["before"] != theirs["before"]:
            return False
        return {unquote(form["user"]) for form in (mine, theirs) if form["user"]} <= {self.user}

    def at(self, url: str) -> Remote:
        """The same credentials at another URL of the same server."""
        if origin_of(url) != self.origin:
            raise RemoteError(
                f"the credentials of {self.label} are for {self.origin} and are not sent to {origin_of(url)}"
            )
        return replace(self, url=url)


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, with the scheme's own port written out."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def _check_headers(headers: tuple[tuple[str, str], ...], label: str) -> None:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise RemoteError(f"{label}: a header that cannot be sent: name or value holds what no header may")
        if name.lower() in _OUR_HEADERS:
            raise RemoteError(f"{label}: the header {name} cannot be set: what it says is different for each request")


def _rediscover(name: str, url: str) -> Remote:
    remote = Remote.discover(name)
    return remote if remote.url == url else remote.at(url)
