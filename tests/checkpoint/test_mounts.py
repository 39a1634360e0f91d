"""Over a mount alone, a level says no more than the mount does; checkpoints that died in its cache are sent again."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from tests.support.crowd import wait_for
from tests.support.runs import open_run, restored_step, save_steps, state_of
from tests.support.servers import RcloneMount, missing_fuse, need
from tests.support.shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nextcloud import NextcloudServer


def mount_of(share: Share, directory: Path, *flags: str) -> RcloneMount:
    """A mount of a folder, with the platform's flags and more."""
    need(missing_fuse())
    server = share.server
    return RcloneMount(
        server.url,
        server.user,
        server.password,
        directory,
        remote_path=share.name,
        vendor="nextcloud",
        flags=["--dir-cache-time", "100ms", *flags],
    )


def test_mount_that_writes_through_is_worth_its_name(nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """Each file is one sequential copy; a higher level is refused."""
    share = Share(nextcloud)
    with mount_of(share, tmp_path / "mount") as mount:
        with open_run(mount.path / "run", tmp_path) as run:
            assert run.save(state_of(1), 1).wait(timeout_s=30) == "mount"
            save_steps(run, 2)
        with pytest.raises(errors.DurabilityError, match="go over WebDAV"):
            open_run(mount.path / "run", tmp_path, durability="confirmed")
    with open_run(f"{share.location}/run", tmp_path, "other", remote=share.remote) as run:
        assert run.verify() == {}
        assert restored_step(run) == 2


def lose_in_the_cache_of_a_mount(share: Share, tmp_path: Path) -> None:
    """Save step 5 through a caching mount, and kill rclone before it has sent anything."""
    caching = mount_of(share, tmp_path / "mount", "--vfs-cache-mode", "writes", "--vfs-write-back", "10m")
    with caching as mount:
        run = open_run(mount.path / "run", tmp_path)
        assert run.saver.best_level == "local"
        handle = run.save(state_of(5), 5)
        wait_for(lambda: run.saver.counts["sent"] == 1)
        assert handle.level == "local"
        run.close()
        mount.child.kill()
    assert not list(share.root.rglob("MANIFEST.json"))


def test_what_died_in_the_cache_of_a_mount_is_sent_again(nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """The next start of the run, over WebDAV or a mount, sends it again."""
    share = Share(nextcloud)
    lose_in_the_cache_of_a_mount(share, tmp_path)
    with mount_of(share, tmp_path / "mount") as mount, open_run(mount.path / "run", tmp_path) as run:
        assert restored_step(run) == 5
    with open_run(f"{share.location}/run", tmp_path, "other", remote=share.remote) as run:
        assert restored_step(run) == 5


def test_machine_that_is_lost_with_its_mount_goes_on_elsewhere(
    nextcloud: NextcloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without spool and cache, with another mount point and a wrong clock, the run resumes."""
    share = Share(nextcloud)
    with mount_of(share, tmp_path / "mount") as mount, open_run(mount.path / "run", tmp_path, keep_last=2) as run:
        save_steps(run, 1, 2)
    now = time.time
    with mount_of(share, tmp_path / "elsewhere") as mount:
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        with open_run(mount.path / "run", tmp_path, "second machine", keep_last=2) as run:
            assert restored_step(run) == 2
            save_steps(run, 3)
        for path in share.root.rglob("*"):
            os.utime(path, (now() + 3600, now() + 3600))
        monkeypatch.undo()
    with (
        mount_of(share, tmp_path / "third") as mount,
        open_run(mount.path / "run", tmp_path, "third machine", keep_last=2) as run,
    ):
        assert restored_step(run) == 3
        save_steps(run, 4)
        assert run.verify() == {}
    with open_run(f"{share.location}/run", tmp_path, "other", remote=share.remote) as run:
        assert restored_step(run) == 4


def test_spool_is_found_by_a_mount_at_another_path(nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """An unsent checkpoint is sent through another mount of the same folder on the machine."""
    share = Share(nextcloud)
    lose_in_the_cache_of_a_mount(share, tmp_path)
    with mount_of(share, tmp_path / "elsewhere") as mount, open_run(mount.path / "run", tmp_path) as run:
        assert restored_step(run) == 5
    with open_run(f"{share.location}/run", tmp_path, "other", remote=share.remote) as run:
        assert restored_step(run) == 5
