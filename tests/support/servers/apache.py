"""Apache httpd with mod_dav, set up as Debian ships it where that changes an answer."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tests.support.servers.base import PASSWORD, USER, Server
from tests.support.servers.children import Child, ServerFailedError, accepts, find_program, free_port, stopping
from tests.support.servers.journal import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = Path("/usr/lib/apache2/modules")
_LOAD = (
    "mpm_event",
    "authn_core",
    "authn_file",
    "auth_basic",
    "authz_core",
    "authz_user",
    "alias",
    "dav",
    "dav_fs",
    "dir",
    "mime",
    "deflate",
    "filter",
    "log_forensic",
)
_PORT_TRIES = 5
_LOG_TIMEOUT_S = 2.0

_CONFIGURATION = """
ServerRoot "{workspace}"
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile "{workspace}/pid"
DefaultRuntimeDir "{workspace}"
# Nothing of these is left behind by a SIGKILL; the semaphores of the default would be.
Mutex pthread default
{modules}
ErrorLog "{workspace}/error.log"
LogFormat "%{{forensic-id}}n %>s" status
CustomLog "{workspace}/status.log" status
ForensicLog "{workspace}/requests.log"

StartServers 1
ThreadsPerChild 64
ThreadLimit 64
ServerLimit 4
MaxRequestWorkers 256

TypesConfig "{types}"
# As in Debian's deflate.conf: a client that accepts gzip gets texts compressed, with another ETag.
AddOutputFilterByType DEFLATE text/html text/plain text/xml text/css application/xml
DavLockDB "{workspace}/DavLock"
DocumentRoot "{root}"
<Directory "{root}">
    Dav On
    DavDepthInfinity {depth_infinity}
    Options None
    AllowOverride None
    AuthType Basic
    AuthName "storage"
    AuthUserFile "{workspace}/users"
    Require valid-user
</Directory>
{more}
"""


class ApacheServer(Server):
    """Apache. It refuses a Depth of infinity with 403 unless told otherwise.

    Started by root it runs as www-data that may override permissions: it refuses to run as root,
    and www-data alone could not enter the temporary folders of the tests.

    Args:
        root: The folder that it serves; made if it is absent.
        user: The only user that may come in, by basic authentication.
        password: Its password.
        depth_infinity: Whether ``PROPFIND`` with that depth is answered.
        more: Further lines of its configuration.
    """

    name = "apache"

    def __init__(
        self,
        root: Path,
        *,
        user: str = USER,
        password: str = PASSWORD,
        depth_infinity: bool = False,
        more: str = "",
    ) -> None:
        super().__init__(root, user=user, password=password)
        self.depth_infinity = depth_infinity
        self.more = more

    def _launch(self) -> Child:
        if self.port:
            return self._launch_at(self.port)
        return self._launch_somewhere(_PORT_TRIES)

    def _launch_somewhere(self, tries: int) -> Child:
        try:
            return self._launch_at(free_port())
        except ServerFailedError:
            # Somebody else may have taken the port between our look and Apache's.
            if tries == 1:
                raise
        return self._launch_somewhere(tries - 1)

    def _launch_at(self, port: int) -> Child:
        self._configure(port)
        program = find_apache()
        assert program is not None, "apache2 is not installed"
        child = Child(
            [*_as_another_user(), program, "-DFOREGROUND", "-f", str(self._workspace / "apache.conf")],
            workspace=self._workspace,
        )
        with stopping(child):
            # The port alone could be somebody else's.
            child.wait_until(lambda: (self._workspace / "pid").exists() and accepts(port))
        self.port = port
        return child

    def _configure(self, port: int) -> None:
        digest = base64.b64encode(hashlib.sha1(self.password.encode(), usedforsecurity=False).digest()).decode()
        (self._workspace / "users").write_text(f"{self.user}:{{SHA}}{digest}\n")
        (self._workspace / "pid").unlink(missing_ok=True)
        types = Path("/etc/mime.types")
        if not types.exists():
            types = self._workspace / "mime.types"
            types.write_text("text/plain txt\nimage/png png\nimage/jpeg jpg jpeg\n")
        (self._workspace / "apache.conf").write_text(
            _CONFIGURATION.format(
                workspace=self._workspace,
                root=self.root.resolve(),
                port=port,
                types=types,
                depth_infinity="On" if self.depth_infinity else "Off",
                more=self.more,
                modules="\n".join(f'LoadModule {name}_module "{MODULES}/mod_{name}.so"' for name in _LOAD),
            )
        )

    def _all_requests(self) -> list[Request]:
        """Wait until Apache has written down the end of each request that it wrote down the start of."""
        deadline = time.monotonic() + _LOG_TIMEOUT_S
        while True:
            # In this order: a request that ended has its status.
            started, ended = _read_forensic((self._workspace / "requests.log").read_text())
            statuses = dict(line.split() for line in (self._workspace / "status.log").read_text().splitlines())
            if started.keys() <= ended or time.monotonic() > deadline:
                return [Request(*started[key], int(statuses.get(key, 0))) for key in started]
            time.sleep(0.002)


def find_apache() -> str | None:
    """Return the path of Apache, which is not on the PATH of everybody."""
    return find_program("apache2", "/usr/sbin")


def _as_another_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [
        "setpriv",
        "--reuid=www-data",
        "--regid=www-data",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]


def _read_forensic(text: str) -> tuple[dict[str, tuple[str, str, dict[str, str]]], set[str]]:
    """Split Apache's forensic log into the requests that began, in order, and those that ended."""
    started = {}
    ended = set()
    for line in text.splitlines():
        if line.startswith("-"):
            ended.add(line[1:])
        elif line.startswith("+"):
            key, request_line, *fields = line[1:].split("|")
            method, target, *_ = unquote(request_line).split(" ")
            started[key] = (method, unquote(urlsplit(target).path), dict(_headers(fields)))
    return started, ended


def _headers(fields: list[str]) -> Iterator[tuple[str, str]]:
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() != "authorization":
            yield unquote(name).lower(), unquote(value)
