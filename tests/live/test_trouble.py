"""What a real Nextcloud goes through ends no training that could go on, and is named where it cannot."""

from __future__ import annotations

import json
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

import pytest

from ai4os_data import Remote, StorageDataLoader, StorageDataset, errors
from tests.support.live_cloud import wanted
from tests.support.sources import content, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.live_cloud import Cloud

AWAY_S = 12.0
REMEMBERED_S = 15.0  # the server's own memory of a token, which occ runs beside


@pytest.fixture
def files(cloud: Cloud) -> dict[str, bytes]:
    """A few batches of files on the server."""
    files = {f"{number:03}.bin": content(f"{number}", 50_000) for number in range(64)}
    cloud.put(files)
    return files


def epoch_with(trouble: AbstractContextManager[None], data: StorageDataset, workers: int) -> tuple[list[bytes], float]:
    """Read an epoch in whose midst the server is away for a while; its bytes, and how long it took."""
    loader = StorageDataLoader(data, batch_size=4, num_workers=workers, collate_fn=list, look_ahead_bytes=0)
    came: list[bytes] = []
    begun_s = time.perf_counter()
    with ExitStack() as stack:
        back: threading.Timer | None = None
        for number, batch in enumerate(loader):
            came += batch
            if number == 1:
                stack.enter_context(trouble)
                back = threading.Timer(AWAY_S, stack.pop_all().close)
                back.start()
        assert back is not None
        back.join()
    return came, time.perf_counter() - begun_s


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("trouble", ["maintenance", "stopped"])
def test_an_epoch_outlasts_a_server_that_is_away(
    cloud: Cloud, files: dict[str, bytes], tmp_path: Path, trouble: str, workers: int
) -> None:
    """It waits, and goes on soon after the server is back."""
    wanted(*(["_OCC"] if trouble == "maintenance" else ["_STOP", "_START"]))
    data = StorageDataset(cloud.location, remote=cloud.remote, cache=tmp_path / "cache")
    came, seconds = epoch_with(getattr(cloud, trouble)(), data, workers)
    tell(f"{trouble}, {workers} workers: away for {AWAY_S:.0f} s, the epoch took {seconds:.1f} s")
    assert came == list(files.values())
    assert seconds < AWAY_S + 30


def test_a_locked_file_concerns_itself(cloud: Cloud, files: dict[str, bytes], tmp_path: Path) -> None:
    """423 is an error of that file, which says how the lock goes away; with skip, the others come."""
    with cloud.locked("003.bin"):
        data = StorageDataset(cloud.location, remote=cloud.remote, cache=tmp_path / "one", on_error="skip")
        begun_s = time.perf_counter()
        came = data.__getitems__(list(range(len(data))))
        tell(f"one of 64 locked: {time.perf_counter() - begun_s:.1f} s")
        assert came == [file for key, file in files.items() if key != "003.bin"]
        strict = StorageDataset(cloud.location, remote=cloud.remote, cache=tmp_path / "two")
        with pytest.raises(errors.SampleError, match="lock"):
            strict[3]
    assert strict[3] == files["003.bin"]


def test_a_revoked_password_is_named_and_asked_once(cloud: Cloud, files: dict[str, bytes]) -> None:
    """It was good, and is not any more; the server is not asked again and again."""
    wanted("_OCC")
    password = cloud.occ("user:auth-tokens:add", cloud.user, "--no-interaction").split()[-1]
    data = StorageDataset(cloud.location, remote=Remote(cloud.remote.url, cloud.user, password), cache=None)
    assert data[0] == files["000.bin"]
    tokens = json.loads(cloud.occ("user:auth-tokens:list", cloud.user, "--output=json"))
    newest = max(int(token["id"]) for token in tokens)
    cloud.occ("user:auth-tokens:delete", cloud.user, str(newest))
    time.sleep(REMEMBERED_S)
    before = data.stats()["requests"]
    with pytest.raises(errors.SampleError, match="401"):
        data[1]
    for index in range(2, 6):
        with pytest.raises(errors.SampleError):
            data[index]
    asked = data.stats()["requests"] - before
    tell(f"requests after the password was revoked: {asked}")
    assert asked <= 2
