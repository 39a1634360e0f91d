"""What the servers need that pip does not install, and whether it is here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers.apache import MODULES, find_apache
from tests.support.servers.children import find_program

if TYPE_CHECKING:
    from collections.abc import Mapping

_CAP_SYS_ADMIN = 21


def missing_apache() -> str | None:
    """Return why Apache cannot be started, naming what to install, or None."""
    if find_apache() is None:
        return "no Apache with mod_dav: apt-get install apache2"
    if not (MODULES / "mod_dav_fs.so").exists():
        return f"no mod_dav_fs.so in {MODULES}: apt-get install apache2"
    if os.geteuid() == 0 and find_program("setpriv") is None:
        return "Apache does not run as root, and there is no setpriv: apt-get install util-linux"
    return None


def missing_fuse() -> str | None:
    """Return why nothing can be mounted over FUSE, naming what to install, or None."""
    if find_program("fusermount3") is None:
        return "no fusermount3: apt-get install fuse3"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened ({error.strerror}): in a container, docker run --device /dev/fuse"
    if os.geteuid() == 0:
        if not _may_mount():
            return "root may not mount here: in a container, docker run --cap-add SYS_ADMIN"
    elif not _others_allowed():
        return "--allow-other is not allowed: add the line user_allow_other to /etc/fuse.conf"
    return None


def need(missing: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Skip the test that asks when something is missing, or fail it where all has to be there.

    That is where ``AI4OS_DATA_REQUIRE_SERVERS=1`` is set, as in CI.
    """
    if missing is not None:
        if environ.get("AI4OS_DATA_REQUIRE_SERVERS") == "1":
            pytest.fail(f"AI4OS_DATA_REQUIRE_SERVERS=1, but {missing}")
        pytest.skip(missing)


def _may_mount() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return True


def _others_allowed() -> bool:
    configuration = Path("/etc/fuse.conf")
    lines = configuration.read_text().splitlines() if configuration.exists() else []
    return "user_allow_other" in (line.strip() for line in lines)
