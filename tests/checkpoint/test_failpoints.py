"""Killed at any step of save, upload, commit and prune, a run restores exactly the old or exactly the new."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ai4os_data.stores import Store, open_store, reaches
from tests.support.crowd import wait_for
from tests.support.failpoints import run_until
from tests.support.runs import open_run, remove_before_sending, restored_step, save_steps, state_of, steps_of
from tests.support.servers import RcloneMount, missing_fuse, need
from tests.support.shares import Share
from tests.support.sources import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import ApacheServer, Server, WsgidavServer


DIR_CACHE_S = 0.1


def check_committed(run: StorageCheckpoint, where: str) -> None:
    """Hold that every readable manifest is true; a mount may commit the torn manifest of a killed writer."""
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


def kill_everywhere(
    place_of: Callable[[int], Place],
    tmp_path: Path,
    *,
    spoil: Callable[[StorageCheckpoint], None] = lambda _: None,
    fatal: int = 1,
) -> set[str]:
    """Kill a run that saves steps 2 and 3 after step 1, at n = 1, 2, … until one comes to its end; its kinds of steps.

    What it had reached it has noted. On another machine the newest is the last that was confirmed or the one that it
    was at, on the same one the last in the spool or the one that it was at, and nothing else. What is committed on the
    store is intact, with what the run was resumed from.
    """
    while True:
        open_new, settle = place_of(fatal)
        spool = f"spool-{fatal}"
        with open_run(open_new(), tmp_path, spool, keep_last=1) as run:
            save_steps(run, 1)

        def work(
            note: Callable[[str, int], None], open_new: Callable[[], Store] = open_new, spool: str = spool
        ) -> None:
            with open_run(open_new(), tmp_path, spool, keep_last=1) as run:
                spoil(run)
                assert restored_step(run) == 1
                for step in (2, 3):
                    note("begun", step)
                    handle = run.save(state_of(step), step)
                    handle.wait("local", timeout_s=60)
                    note("spooled", step)
                    if reaches(handle.wait(timeout_s=60), "mount"):  # a mount that caches promises nothing
                        note("confirmed", step)

        trial = run_until(fatal, work)
        settle()
        begun, spooled, confirmed = (trial.noted.get(name, 1) for name in ("begun", "spooled", "confirmed"))
        if trial.steps is not None:
            confirmed = 3
        where = f"at {fatal}, where {trial.noted} was noted"
        with open_run(open_new(), tmp_path, f"elsewhere-{fatal}") as elsewhere:
            check_committed(elsewhere, where)
            assert restored_step(elsewhere) in range(confirmed, begun + 1), where
            assert 1 in steps_of(elsewhere), f"{where}: what it was resumed from is gone"
        with open_run(open_new(), tmp_path, spool) as again:
            settle()
            check_committed(again, where)
            newest = restored_step(again)
            assert newest in range(spooled, begun + 1), where
        settle()
        with open_run(open_new(), tmp_path, f"after-{fatal}") as after:
            assert restored_step(after) == newest, f"{where}: what was in the spool has not been sent"
        for folder in (spool, f"elsewhere-{fatal}", f"after-{fatal}"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        if trial.steps is not None:
            methods = {kind: count for kind, count in sorted(trial.steps.items()) if kind.isupper()}
            tell(f"N = {trial.steps.total()} {methods or ''}".rstrip())
            return set(trial.steps)
        fatal += 1


def test_killed_anywhere_over_a_directory(tmp_path: Path) -> None:
    """A run over a local directory is killed at every single step."""
    assert {"fsync", "write", "rename", "unlink"} <= kill_everywhere(directories(tmp_path), tmp_path)


def directories(tmp_path: Path) -> Callable[[int], Place]:
    """Give places in directories, a new one each time."""

    def place_of(number: int) -> Place:
        return Place(lambda: open_store(tmp_path / f"run-{number}", create=True))

    return place_of


def test_run_that_first_removes_the_last_confirmed_is_found_out(tmp_path: Path) -> None:
    """The proof itself works: a run that breaks W2 is found out."""
    with pytest.raises(AssertionError, match="'confirmed': 2"):
        kill_everywhere(directories(tmp_path), tmp_path, spoil=remove_before_sending, fatal=50)


def over_a_server(server: Server, tmp_path: Path, patience: Patience) -> set[str]:
    """Kill at every step over WebDAV, each time in a new folder."""

    def place_of(_: int) -> Place:
        share = Share(server)
        return Place(lambda: open_store(f"{share.location}/run", share.remote, patience=patience, create=True))

    return kill_everywhere(place_of, tmp_path)


@pytest.mark.long
def test_killed_anywhere_over_apache(apache: ApacheServer, tmp_path: Path, patience: Patience) -> None:
    """A run on a server that is read back is killed at every step."""
    assert {"PROPFIND", "MKCOL", "PUT", "GET", "DELETE"} <= over_a_server(apache, tmp_path, patience)


@pytest.mark.long
def test_killed_anywhere_over_wsgidav(wsgidav: WsgidavServer, tmp_path: Path, patience: Patience) -> None:
    """A run on a server that keeps torn uploads is killed at every step."""
    assert {"PROPFIND", "MKCOL", "PUT", "GET", "DELETE"} <= over_a_server(wsgidav, tmp_path, patience)


@pytest.mark.long
def test_killed_anywhere_over_nextcloud(nextcloud: NextcloudServer, tmp_path: Path, patience: Patience) -> None:
    """A run on a server that computes the hash is killed at every step."""
    assert {"PROPFIND", "MKCOL", "PUT", "DELETE"} <= over_a_server(nextcloud, tmp_path, patience)


@pytest.mark.long
@pytest.mark.usefixtures("small_chunks")
def test_killed_anywhere_of_an_upload_in_chunks(nextcloud: NextcloudServer, tmp_path: Path, patience: Patience) -> None:
    """A run is killed before and after every chunk, and at the requests that join and hash them."""
    assert {"PROPFIND", "MKCOL", "PUT", "MOVE", "PATCH", "DELETE"} <= over_a_server(nextcloud, tmp_path, patience)


@pytest.fixture(params=["off", "writes"])
def plain_mount(
    request: pytest.FixtureRequest, nextcloud: NextcloudServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RcloneMount]:
    """The mount of the platform, and one that caches writes; no credentials are at hand."""
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
    """One mount commits a killed writer's file torn, the other one hides files while it sends them."""

    def place_of(number: int) -> Place:
        name = f"{tmp_path.name}-{number}"
        seen, stored = plain_mount.path / name, nextcloud.root / name
        seen.mkdir()
        store = open_store(seen, create=True)  # once: a mount is tried for a second before it is believed

        def settle() -> None:
            time.sleep(2 * DIR_CACHE_S)
            wait_for(lambda: sizes_below(seen) == sizes_below(stored))

        return Place(lambda: store, settle)

    assert {"fsync", "write", "unlink"} <= kill_everywhere(place_of, tmp_path)


def sizes_below(folder: Path) -> dict[str, int]:
    """Every file and its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
