"""Servers that many tests share. Each starts when the first test asks for it, and serves until the last one."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import telemetry
from ai4os_data.http.retries import Patience
from ai4os_data.stores import listings
from tests.nextcloud import NextcloudServer
from tests.support.faulty import Faulty
from tests.support.servers import (
    ApacheServer,
    FaultServer,
    RcloneMount,
    RcloneServer,
    WsgidavServer,
    missing_apache,
    missing_fuse,
    need,
)
from tests.support.servers.fault import Habits
from tests.support.shares import Folder, Share
from tests.support.sources import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_configure() -> None:
    """Let tests interrupt themselves and their children also where a shell runs all of it in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave thousands of tests out of each later garbage collection: they cost many tests a second at a time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was told in a process of its own, where tests run in several."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["told"] = told


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what the tests of a process have told."""
    told.extend(map(tuple, getattr(node, "workeroutput", {}).get("told", [])))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what tests have told, a line each: the seeds of random choices, and how much was tried."""
    if told:
        terminalreporter.section("told by tests")
    for test in dict.fromkeys(test for test, _ in told):
        figures = "; ".join(figure for teller, figure in told if teller == test)
        terminalreporter.write_line(f"{test.removeprefix('tests/')}: {figures}")


@pytest.fixture(autouse=True)
def _nobody_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Find no remote and no cache of whoever runs the tests, say anew what is said once, and know no server yet."""
    for name in [*os.environ]:
        if name.startswith(("RCLONE_", "AI4OS_DATA_CACHE", "AI4OS_DATA_COPIES")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    monkeypatch.setattr(telemetry, "_told", set())
    monkeypatch.setattr(listings, "_stepwise", set())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder on this disk."""
    return Folder(tmp_path / "storage")


@pytest.fixture
def patience() -> Patience:
    """Three tries, pauses that nobody notices, and deadlines of a few seconds."""
    return Patience(tries=3, first_pause_s=0.01, longest_pause_s=0.02, connect_s=2.0, stall_s=1, total_s=20.0)


@pytest.fixture(scope="session")
def wsgidav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WsgidavServer]:
    """The embedded server of the demo."""
    with WsgidavServer(tmp_path_factory.mktemp("wsgidav")) as server:
        yield server


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheServer]:
    """Apache as Debian ships it: a Depth of infinity is refused."""
    need(missing_apache())
    with ApacheServer(tmp_path_factory.mktemp("apache")) as server:
        yield server


@pytest.fixture(scope="session")
def apache_infinity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheServer]:
    """Apache that lists with a Depth of infinity."""
    need(missing_apache())
    with ApacheServer(tmp_path_factory.mktemp("apache-infinity"), depth_infinity=True) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    """``rclone serve webdav``."""
    with RcloneServer(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def nextcloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NextcloudServer]:
    """The double of Nextcloud 34."""
    with NextcloudServer(tmp_path_factory.mktemp("nextcloud")) as server:
        yield server


@pytest.fixture(scope="session")
def nextcloud_29(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NextcloudServer]:
    """The double of Nextcloud 29, which makes no archives."""
    with NextcloudServer(tmp_path_factory.mktemp("nextcloud-29"), version="29") as server:
        yield server


@pytest.fixture
def share(wsgidav: WsgidavServer) -> Share:
    """An empty folder on the embedded server, with nothing asked yet."""
    wsgidav.forget()
    return Share(wsgidav)


@pytest.fixture
def cloud_share(nextcloud: NextcloudServer) -> Share:
    """An empty folder on the double of Nextcloud, with nothing asked yet."""
    nextcloud.forget()
    return Share(nextcloud)


@pytest.fixture(scope="session")
def mount(nextcloud: NextcloudServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneMount]:
    """The share as a deployment has it: rclone's mount of a Nextcloud."""
    need(missing_fuse())
    directory = tmp_path_factory.mktemp("mount")
    with RcloneMount(nextcloud.url, nextcloud.user, nextcloud.password, directory, vendor="nextcloud") as mount:
        yield mount


@pytest.fixture(scope="session")
def fault_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    """The fault server as the last test left it; tests ask for ``fault``."""
    with FaultServer(tmp_path_factory.mktemp("fault"), token="bearer-token_1.2~3") as server:
        yield server


@pytest.fixture
def fault(fault_process: FaultServer) -> FaultServer:
    """The fault server, healthy, empty, and with nothing asked yet."""
    fault_process.heal()
    fault_process.change(**dataclasses.asdict(Habits()))
    for path in fault_process.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    fault_process.forget()
    return fault_process


@pytest.fixture
def faulty(fault: FaultServer, patience: Patience) -> Faulty:
    """A file that was listed on the fault server, with strong ETags, and with nothing asked since."""
    return Faulty.make(fault, patience)
