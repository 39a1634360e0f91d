"""Killed at any step of save, upload, commit and prune, a run restores exactly the old or exactly the new."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ai4os_data.stores import Store, open_store
from cache.crowd import wait_for
from cache.sources import tell
from checkpoint.failpoints import run_until
from checkpoint.runs import open_run, restored_step, save_steps, state_of
from servers import RcloneMount, missing_fuse, need
from shares import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.retries import Patience
    from servers import ApacheServer, WsgidavServer
    from servers.nextcloud import NextcloudServer


DIR_CACHE_S = 0.1


def check_committed(run: StorageCheckpoint, where: str) -> None:
    """Hold that every manifest that can be read is true; a mount commits what its killed writer had written of one."""
    damaged = {
        name: reason for name, reason in run.verify().items() if not reason.startswith("the manifest is no JSON")
    }
    assert damaged == {}, where


class Place(NamedTuple):
    """Where a run is tried.

    Attributes:
        open: opens the store.
        settle: waits until it shows what it has.
    """

    open: Callable[[], Store]
    settle: Callable[[], None] = lambda: None


def kill_everywhere(place_of: Callable[[int], Place], tmp_path: Path) -> int:
    """Kill a run that saves step 2 after step 1, at n = 1, 2, … until one comes to its end; how many steps it takes.

    Both at the next start of the same machine and on another one the newest is exactly one of the two, and what is
    committed on the store is intact.
    """
    fatal = 1
    while True:
        open_new, settle = place_of(fatal)
        spool = f"spool-{fatal}"
        with open_run(open_new(), tmp_path, spool, keep_last=1) as run:
            save_steps(run, 1)

        def work(open_new: Callable[[], Store] = open_new, spool: str = spool) -> None:
            with open_run(open_new(), tmp_path, spool, keep_last=1) as run:
                assert restored_step(run) == 1
                for step in (2, 3):
                    run.save(state_of(step), step).wait(timeout_s=60)

        steps = run_until(fatal, work)
        settle()
        with open_run(open_new(), tmp_path, f"elsewhere-{fatal}") as elsewhere:
            check_committed(elsewhere, f"at {fatal}")
            assert restored_step(elsewhere) in ({3} if steps else {1, 2, 3}), f"at {fatal}"
        with open_run(open_new(), tmp_path, spool) as again:
            settle()
            check_committed(again, f"at {fatal}")
            newest = restored_step(again)
            assert newest in ({3} if steps else {1, 2, 3}), f"at {fatal}"
        settle()
        with open_run(open_new(), tmp_path, f"after-{fatal}") as after:
            assert restored_step(after) == newest, f"at {fatal}: what was in the spool has been sent"
        for folder in (spool, f"elsewhere-{fatal}", f"after-{fatal}"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        if steps is not None:
            tell(f"N = {steps}")
            return steps
        fatal += 1


def test_killed_anywhere_over_a_directory(tmp_path: Path) -> None:
    """A local directory as the store, every single step."""

    def place_of(number: int) -> Place:
        return Place(lambda: open_store(tmp_path / f"run-{number}", create=True))

    assert kill_everywhere(place_of, tmp_path) > 40


def over_a_server(server: ApacheServer | WsgidavServer | NextcloudServer, tmp_path: Path, patience: Patience) -> None:
    """Kill at every step over WebDAV, each time in a folder of its own."""

    def place_of(_: int) -> Place:
        share = Share(server)
        return Place(lambda: open_store(f"{share.location}/run", share.remote, patience=patience, create=True))

    assert kill_everywhere(place_of, tmp_path) > 40


@pytest.mark.long
def test_killed_anywhere_over_apache(apache: ApacheServer, tmp_path: Path, patience: Patience) -> None:
    """Verified by reading back."""
    over_a_server(apache, tmp_path, patience)


@pytest.mark.long
def test_killed_anywhere_over_wsgidav(wsgidav: WsgidavServer, tmp_path: Path, patience: Patience) -> None:
    """Where an upload that is cut off stays as a torn file."""
    over_a_server(wsgidav, tmp_path, patience)


@pytest.mark.long
def test_killed_anywhere_over_nextcloud(nextcloud: NextcloudServer, tmp_path: Path, patience: Patience) -> None:
    """Verified by the server."""
    over_a_server(nextcloud, tmp_path, patience)


@pytest.fixture(params=["off", "writes"])
def plain_mount(
    request: pytest.FixtureRequest, nextcloud: NextcloudServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RcloneMount]:
    """The mount of the platform, and one that caches writes; without credentials beside it."""
    need(missing_fuse())
    flags = ["--dir-cache-time", f"{DIR_CACHE_S}s"]
    flags += ["--vfs-cache-mode", "writes", "--vfs-write-back", "100ms"] if request.param == "writes" else []
    directory = tmp_path_factory.mktemp(f"mount-{request.param}")
    with RcloneMount(
        nextcloud.url, nextcloud.user, nextcloud.password, directory, vendor="nextcloud", flags=flags
    ) as mount:
        yield mount


@pytest.mark.long
def test_killed_anywhere_over_the_mount(plain_mount: RcloneMount, nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """Where the file of a killed writer is committed torn, and a cache hides files while it sends them."""

    def place_of(number: int) -> Place:
        name = f"{tmp_path.name}-{number}"
        seen, stored = plain_mount.path / name, nextcloud.root / name
        seen.mkdir()
        store = open_store(seen, create=True)  # once: a mount is tried for a second before it is believed

        def settle() -> None:
            time.sleep(2 * DIR_CACHE_S)
            wait_for(lambda: sizes_below(seen) == sizes_below(stored))

        return Place(lambda: store, settle)

    assert kill_everywhere(place_of, tmp_path) > 30


def sizes_below(folder: Path) -> dict[str, int]:
    """Every file, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
