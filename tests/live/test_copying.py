"""A copy of a folder on a real Nextcloud is what the folder is, and comes about as fast as the server can send it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from ai4os_data import local_copy
from tests.support.live_cloud import wanted
from tests.support.servers import RcloneMount
from tests.support.servers.rclone import find_rclone
from tests.support.sources import content, tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.folders import LocalCopy
    from tests.support.live_cloud import Cloud

FILES = 1000
SIZE_BYTES = 110_000
FOLDERS = 8
ROUNDS = 3
ARCHIVES_SINCE = 31
LEAST_BESIDE_RCLONE, LEAST_BESIDE_THE_ZIP = 7, 0.9


@pytest.fixture
def images(cloud: Cloud) -> dict[str, bytes]:
    """A training set in class folders, put onto the server's disk."""
    wanted("_DATA", "_OCC")
    files = {
        f"train/class {number % FOLDERS}/img \u00e9{number:04}.bin": content(f"{number}", SIZE_BYTES)
        for number in range(FILES)
    }
    for key, data in files.items():
        path = cloud.files_on_disk / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    cloud.scan()
    return files


def copied(cloud: Cloud, target: Path) -> LocalCopy:
    """A copy by ours."""
    return local_copy(f"{cloud.location}/train", target, remote=cloud.remote, progress=False)


def test_a_copy_has_every_file_and_beats_rclone(
    cloud: Cloud, images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside ``rclone copy`` and curl's archive of the whole folder, in turns. Tells how fast each is."""
    monkeypatch.setenv("AI4OS_DATA_COPIES", str(tmp_path / "records"))
    url = f"{cloud.location}/train"
    mount = RcloneMount(url, cloud.user, cloud.password, tmp_path, vendor="nextcloud")
    environ = {**os.environ, **mount.environ, "RCLONE_CONFIG": os.devnull}

    def ours(target: Path) -> None:
        copied(cloud, target)

    def rclone(target: Path) -> None:
        subprocess.run([find_rclone(), "copy", "rshare:", str(target)], check=True, capture_output=True, env=environ)

    def archive(target: Path) -> None:
        command = ["curl", "--silent", "--fail", "--config", "-", "--output", str(target), f"{url}?accept=zip"]
        subprocess.run(command, check=True, input=f'user = "{cloud.user}:{cloud.password}"', text=True)

    ways: dict[str, Callable[[Path], None]] = {"ours": ours, "rclone": rclone}
    if cloud.version >= ARCHIVES_SINCE:
        ways["archive"] = archive
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, way in ways.items():
            target = tmp_path / f"{name} {number}"
            begun_s = time.perf_counter()
            way(target)
            took[name].append(time.perf_counter() - begun_s)
            if name != "archive":
                found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*.bin")}
                assert {f"train/{key}": data for key, data in found.items()} == images
                shutil.rmtree(target)
    rate = {name: FILES / median(seconds) for name, seconds in took.items()}
    tell("; ".join(f"{name}: {each:.0f} files/s" for name, each in rate.items()))
    if cloud.version >= ARCHIVES_SINCE:
        assert rate["ours"] >= LEAST_BESIDE_RCLONE * rate["rclone"]
        assert rate["ours"] >= LEAST_BESIDE_THE_ZIP * rate["archive"]


def test_a_copy_is_resumed_and_kept_up_to_date(cloud: Cloud, images: dict[str, bytes], tmp_path: Path) -> None:
    """Whole folders at first, and then what has changed; names that an archive would confuse included."""
    copy = copied(cloud, tmp_path / "copy")
    assert len(copy.files) == FILES
    archives = copy.stats()["requests_archive"]
    tell(f"{archives:.0f} archives, {copy.stats()['requests_get']:.0f} files alone")
    if cloud.version >= ARCHIVES_SINCE:
        assert archives <= FOLDERS
        assert copy.stats()["requests_get"] == 0
    key = min(images)
    inside = f"train/class 0/{cloud.user}/files/{cloud.folder}/{key}"
    changed = {key: b"changed", inside: b"a file that the archive gives the name of another one"}
    cloud.put(changed)
    os.unlink(copy.path / "class 3" / min(name for name in copy.files if name.startswith("class 3"))[8:])
    copy.refresh()
    assert copy.stats()["fetched"] == len(changed) + 1
    found = {f"train/{name}": (copy.path / name).read_bytes() for name in copy.files}
    assert found == {**images, **changed}
