"""Remotes: where a server is and who we are there, found the way rclone finds them. Secrets stay invisible."""

from __future__ import annotations

import base64
import binascii
import configparser
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from ai4os_data.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# rclone's published constant: obscuring hides a password from a glance, not from a reader
# (https://github.com/rclone/rclone/blob/master/fs/config/obscure/obscure.go).
_OBSCURE_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
_IV_BYTES = 16

_ENV_PREFIX = "RCLONE_CONFIG_"
_ALIAS_DEPTH = 8
_SHORTEST_REVEALED = 6
_LONG_REVEALED = 10
_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<userinfo>[^/]*)@)?(?P<host>(?:[^][/@:?#\s]+|\[[0-9a-f:.]+\])(?::\d{1,5})?)(?P<path>/.*)?",
    re.DOTALL | re.IGNORECASE,
)
_NEXTCLOUD = re.compile(r"[^/]*//[^/]*(?P<before>/.*?)?/remote\.php/(?:dav/files/(?P<user>[^/]+)|webdav)/")
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
        password: the password in the clear, an app password where the server has them.
        token: a bearer token, instead of user and password.
        name: the name in rclone's configuration.
        vendor: rclone's word for the kind of server, ``"nextcloud"`` or ``"other"``.
        ca_file: a PEM file of the certificate authorities to trust instead of the usual ones.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, kw_only=True)
    vendor: str = field(default="other", kw_only=True)
    ca_file: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    discovered: bool = field(default=False, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        """Move credentials out of the URL, encode what has to be, and tidy its end."""
        match = _URL.fullmatch(self.url)
        if match is None:
            message = (
                f"a remote's url begins with http:// or https:// and names a host, not {_after_userinfo(self.url)!r}; "
                "user and password in it are percent-encoded"
            )
            raise RemoteError(message)
        user, _, password = (match["userinfo"] or "").partition(":")
        if user:
            object.__setattr__(self, "user", self.user or unquote(user))
        if password:
            object.__setattr__(self, "password", self.password or unquote(password))
        path = quote(match["path"] or "", safe=_AS_TYPED).rstrip("/")
        object.__setattr__(self, "url", f"{match['scheme'].lower()}://{match['host']}{path}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle a discovered remote as its name."""
        if self.discovered and self.name is not None:
            return _rediscover, (self.name, self.url)
        return _rebuild, ({name: getattr(self, name) for name in self.__dataclass_fields__},)

    @classmethod
    def discover(cls, name: str, environ: Mapping[str, str] | None = None) -> Remote:
        """Find the remote that rclone knows by this name.

        The environment (``RCLONE_CONFIG_<NAME>_URL`` and so on; an empty value counts as absent) goes over
        ``rclone.conf``, value by value, as in rclone.

        Raises:
            RemoteError: there is none, or it is not a WebDAV remote.
        """
        environ = os.environ if environ is None else environ
        options = _options(name, environ, depth=0)
        return cls._from_options(name, options)

    @classmethod
    def known(cls, environ: Mapping[str, str] | None = None) -> Iterator[Remote]:
        """Every WebDAV remote that is configured here, those of the environment first."""
        environ = os.environ if environ is None else environ
        names = [
            match[1].lower()
            for variable, value in environ.items()
            if value and (match := re.fullmatch(_ENV_PREFIX + r"(.+)_URL", variable))
        ]
        with suppress(RemoteError):  # a configuration that cannot be read knows none
            names += [section for section in _read_config(environ).sections() if section.lower() not in names]
        for name in names:
            try:
                yield cls.discover(name, environ)
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
        kind = options.get("type", "webdav")
        if kind != "webdav":
            message = (
                f"remote {name!r} is of type {kind!r}; only webdav remotes (Nextcloud among them) are read directly. "
                f"Mount it with rclone, or give an fsspec URL such as s3://bucket/path."
            )
            raise RemoteError(message)
        if not options.get("url"):
            message = f"remote {name!r} has no url: set {_ENV_PREFIX}{name.upper()}_URL, or run `rclone config`"
            raise RemoteError(message)
        secret = options.get("pass")
        return cls(
            url=options["url"],
            user=options.get("user"),
            password=_plain(secret) if secret else None,
            token=options.get("bearer_token"),
            name=name,
            vendor=options.get("vendor", "other"),
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

    def covers(self, url: str) -> bool:
        """Whether a URL lies at or below this remote's."""
        if origin_of(url) != self.origin:
            return False
        # Not urlsplit: in a name that was typed, '#' and '?' are no more than characters.
        mine, theirs = (unquote(place.split("/", 3)[-1]).strip("/").split("/") for place in (f"{self.url}/", f"{url}/"))
        return theirs[: len(mine)] == mine or mine == [""]

    def shares_account(self, url: str) -> bool:
        """Whether a URL is the other form of a Nextcloud account's: ``dav/files/USER`` and ``webdav`` show the same."""
        mine, theirs = (_NEXTCLOUD.match(f"{place}/") for place in (self.url, url))
        if mine is None or theirs is None or origin_of(url) != self.origin or mine["before"] != theirs["before"]:
            return False
        return {unquote(form["user"]) for form in (mine, theirs) if form["user"]} <= {self.user}

    def at(self, url: str) -> Remote:
        """The same credentials at another URL of the same server."""
        if origin_of(url) != self.origin:
            message = f"the credentials of {self.label} are for {self.origin} and are not sent to {origin_of(url)}"
            raise RemoteError(message)
        return replace(self, url=url)


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, with the scheme's own port written out."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def obscure(text: str) -> str:
    """What ``rclone obscure`` makes of a text: AES-256-CTR under a published key, in unpadded base64url."""
    vector = os.urandom(_IV_BYTES)
    return base64.urlsafe_b64encode(vector + _aes_ctr(vector, text.encode())).rstrip(b"=").decode()


def reveal(obscured: str) -> str:
    """What ``rclone reveal`` makes of it.

    Raises:
        ValueError: it was not made by ``rclone obscure``.
    """
    try:
        raw = base64.b64decode(obscured + "=" * (-len(obscured) % 4), altchars=b"-_", validate=True)
        if len(raw) < _IV_BYTES or base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != obscured:
            message = "too short, or not canonical"
            raise ValueError(message)
        return _aes_ctr(raw[:_IV_BYTES], raw[_IV_BYTES:]).decode()
    except (binascii.Error, ValueError, UnicodeError):
        message = "this value was not made by `rclone obscure`"
        raise ValueError(message) from None  # the cause would show the value


def _plain(secret: str) -> str:
    """A configured password in the clear, whether it is obscured (main container) or plain (sidecar)."""
    try:
        revealed = reveal(secret)
    except ValueError:
        return secret
    # A plain password can be base64 by accident; then what comes out is noise, and seldom printable.
    is_noise = len(revealed) < _SHORTEST_REVEALED or not revealed.isprintable()
    return secret if is_noise or (len(revealed) < _LONG_REVEALED and not revealed.isascii()) else revealed


def _aes_ctr(vector: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(_OBSCURE_KEY), modes.CTR(vector)).encryptor()
    return cipher.update(data) + cipher.finalize()


def _options(name: str, environ: Mapping[str, str], depth: int) -> dict[str, str]:
    """The remote's options, rclone.conf below and the environment above; aliases are followed."""
    prefix = f"{_ENV_PREFIX}{name.upper()}_"
    try:
        config = _read_config(environ)
    except RemoteError:
        if not environ.get(f"{prefix}URL"):
            raise
        config = _empty_config()  # the environment says all there is to say
    section = next((s for s in config.sections() if s == name), None)
    section = section or next((s for s in config.sections() if s.lower() == name.lower()), None)
    options = dict(config.items(section, raw=True)) if section else {}
    options.update(
        {key[len(prefix) :].lower(): value for key, value in environ.items() if key.startswith(prefix) and value}
    )
    options = {key: value for key, value in options.items() if value}
    if not options:
        message = (
            f"no remote is called {name!r}: link the storage to the deployment, which sets {prefix}URL, _USER and "
            "_PASS, "
            f"or add it with `rclone config` ({config_file(environ)})"
        )
        raise RemoteError(message)
    if options.get("type") == "alias" and depth < _ALIAS_DEPTH:
        target, _, path = options.get("remote", "").partition(":")
        aliased = _options(target, environ, depth + 1)
        if path.strip("/") and "url" in aliased:
            aliased["url"] = f"{aliased['url'].rstrip('/')}/{quote(path.strip('/'))}"
        return aliased
    return options


def config_file(environ: Mapping[str, str]) -> Path:
    """Where rclone keeps its configuration (https://rclone.org/docs/#config-string)."""
    if environ.get("RCLONE_CONFIG"):
        return Path(environ["RCLONE_CONFIG"])
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(base) / "rclone" / "rclone.conf"


def _empty_config() -> configparser.ConfigParser:
    return configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), default_section="\0")


def _read_config(environ: Mapping[str, str]) -> configparser.ConfigParser:
    config = _empty_config()
    path = config_file(environ)
    try:
        config.read_string(path.read_text())
    except OSError:
        return config  # no configuration file is the usual case in a deployment
    except (configparser.Error, UnicodeDecodeError):
        pass  # raised below, without a context: that would show lines of the file
    else:
        return config
    message = (
        f"{path} cannot be read as an rclone configuration (is it encrypted?): set "
        f"{_ENV_PREFIX}<NAME>_URL, _USER and _PASS instead"
    )
    raise RemoteError(message)


def _after_userinfo(url: str) -> str:
    """What may be shown of a URL that cannot be understood: nothing before its last ``@``."""
    return url.rpartition("@")[2]


def _rediscover(name: str, url: str) -> Remote:
    remote = Remote.discover(name)
    return remote if remote.url == url else remote.at(url)


def renewed(remote: Remote) -> Remote:
    """The remote as its configuration has it now; one that was passed in stays as it is."""
    if not remote.discovered or remote.name is None:
        return remote
    try:
        return _rediscover(remote.name, remote.url)
    except RemoteError:
        return remote


def _rebuild(state: dict[str, object]) -> Remote:
    return Remote(**state)  # type: ignore[arg-type]  # exactly the fields that were pickled
