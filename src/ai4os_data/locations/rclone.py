"""What rclone knows of remotes: its configuration file, environment variables that override it, obscured passwords."""

from __future__ import annotations

import base64
import binascii
import configparser
import csv
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ai4os_data.errors import RemoteError
from ai4os_data.locations.spelling import nearest_first

if TYPE_CHECKING:
    from collections.abc import Mapping

# rclone's published constant: obscuring hides a password from a glance, not from a reader
# (https://github.com/rclone/rclone/blob/master/fs/config/obscure/obscure.go).
_OBSCURE_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
_IV_BYTES = 16

LINKED = "rshare"  # what the platform calls the storage that is linked to a deployment
ENV_PREFIX = "RCLONE_CONFIG_"
_ALIAS_DEPTH = 8
_SHORTEST_REVEALED = 6
_LONG_REVEALED = 10


def configured_names(environ: Mapping[str, str]) -> list[str]:
    """The names of all remotes that are configured here, of whatever kind; those of the environment first."""
    matches = [
        re.fullmatch(ENV_PREFIX + r"(.+)_(?:TYPE|URL)", variable) for variable, value in environ.items() if value
    ]
    names = list(dict.fromkeys(match[1].lower() for match in matches if match))
    with suppress(RemoteError):  # a configuration that cannot be read knows none
        names += [section for section in _read_config(environ).sections() if section.lower() not in names]
    return names


def main_name(environ: Mapping[str, str]) -> str | None:
    """The name of the remote that is meant if none is named: the linked storage's, else the first; None for none."""
    names = configured_names(environ)
    return LINKED if LINKED in names else next(iter(names), None)


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
            raise ValueError("too short, or not canonical")
        return _aes_ctr(raw[:_IV_BYTES], raw[_IV_BYTES:]).decode()
    except (binascii.Error, ValueError, UnicodeError):
        raise ValueError("this value was not made by `rclone obscure`") from None  # the cause would show the value


def plain(secret: str) -> str:
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


def options_of(name: str, environ: Mapping[str, str], depth: int = 0) -> dict[str, str]:
    """The options of a remote: the environment overrides the configuration file, and aliases are followed.

    Raises:
        RemoteError: there is no such remote.
    """
    prefix = f"{ENV_PREFIX}{name.upper()}_"
    try:
        config = _read_config(environ)
    except RemoteError:
        if not environ.get(f"{prefix}URL"):
            raise
        config = _empty_config()  # the environment says all there is to say
    sections = sorted((one for one in config.sections() if one.lower() == name.lower()), key=lambda one: one != name)
    options = dict(config.items(sections[0], raw=True)) if sections else {}
    options |= {key[len(prefix) :].lower(): value for key, value in environ.items() if key.startswith(prefix) and value}
    options = {key: value for key, value in options.items() if value}
    if not options:
        others = ", ".join(repr(other) for other in nearest_first(name, configured_names(environ)))
        raise RemoteError(
            f"no remote is called {name!r}{f'; there are {others}' if others else ''}: "
            f"{'write one of these, or ' if others else ''}link the storage to the deployment, which sets {prefix}URL, "
            f"_USER and _PASS, or add it with `rclone config` ({config_file(environ)})"
        )
    if options.get("type") == "alias" and depth < _ALIAS_DEPTH:
        target, _, path = options.get("remote", "").partition(":")
        aliased = options_of(target, environ, depth + 1)
        if path.strip("/") and "url" in aliased:
            aliased["url"] = f"{aliased['url'].rstrip('/')}/{quote(path.strip('/'))}"
        return aliased
    return options


def headers_of(text: str, whose: str) -> tuple[tuple[str, str], ...]:
    """The headers of a remote: names and values in turn, with commas between, in quotes if one holds a comma."""
    words = next(csv.reader([text]), [])
    if len(words) % 2:
        raise RemoteError(
            f"{whose}: the option headers is not a list of names and values, as in headers = Cookie,name=value"
        )
    return tuple(zip(words[::2], words[1::2], strict=True))


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
    raise RemoteError(
        f"{path} cannot be read as an rclone configuration (is it encrypted?): set "
        f"{ENV_PREFIX}<NAME>_URL, _USER and _PASS instead"
    )
