"""Unfinished folders of dead attempts are removed after the grace period and not before, and nothing else is."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of
from tests.support.shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.stores import Level
    from tests.support.servers import ApacheServer

GRACE_S = 0.5


def die_before_the_manifest(place: str, tmp_path: Path, spool: str, **options: Any) -> None:
    """Save steps 1 and 2 in a process that ends before the manifest of step 2."""
    child = os.fork()
    if child == 0:
        run = open_run(place, tmp_path, spool, **options)
        save_steps(run, 1)
        plain = run.saver.store.write_confirmed

        def dying(key: str, *arguments: Any, **more: Any) -> Level:
            if key.endswith("MANIFEST.json"):
                os._exit(0)
            return plain(key, *arguments, **more)

        run.saver.store.write_confirmed = dying  # type: ignore[method-assign]
        run.save(state_of(2), 2).wait(timeout_s=20)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def with_short_grace(run: StorageCheckpoint) -> StorageCheckpoint:
    """Shorten a run's grace period from an hour to half a second."""
    run.saver.pruning._grace_s = GRACE_S
    return run


def test_what_a_dead_attempt_has_left_goes_after_the_grace_period(apache: ApacheServer, tmp_path: Path) -> None:
    """On another machine the first saves see the folder, and only a later one removes it."""
    share = Share(apache)
    place, options = f"{share.location}/run", {"remote": share.remote}
    die_before_the_manifest(place, tmp_path, "dead", **options)
    (left,) = share.root.glob("run/*/step-000000002-*")
    (data,) = left.iterdir()
    assert data.suffix == ".pt"
    os.utime(data, (time.time() + 600, time.time() + 600))  # the server's clock does not say that it is old
    with with_short_grace(open_run(place, tmp_path, "living", keep_last=9, **options)) as run:
        assert restored_step(run) == 1
        save_steps(run, 3)
        assert left.exists(), "its writer may still be at it"
        time.sleep(GRACE_S)
        save_steps(run, 4)
        assert not left.exists()
        assert steps_of(run) == [4, 3, 1]
        assert run.verify() == {}


def test_upload_that_goes_on_is_no_garbage(tmp_path: Path) -> None:
    """Each change in an unfinished folder restarts the grace period."""
    place = str(tmp_path / "run")
    die_before_the_manifest(place, tmp_path, "dead")
    (left,) = (tmp_path / "run").glob("*/step-000000002-*")
    with with_short_grace(open_run(place, tmp_path, "living", keep_last=9)) as run:
        save_steps(run, 3)
        time.sleep(GRACE_S)
        (left / "more").write_bytes(b"more of it")
        save_steps(run, 4)
        assert left.exists()
        time.sleep(GRACE_S)
        save_steps(run, 5)
        assert not left.exists()


def test_machine_that_comes_back_makes_something_of_what_it_left(tmp_path: Path) -> None:
    """If its machine comes back with the spool, the folder becomes the newest checkpoint."""
    place = str(tmp_path / "run")
    die_before_the_manifest(place, tmp_path, "spool")
    with with_short_grace(open_run(place, tmp_path, keep_last=9)) as run:
        assert restored_step(run) == 2
        time.sleep(GRACE_S)
        save_steps(run, 3)
        assert steps_of(run) == [3, 2, 1]
    with open_run(place, tmp_path, "other") as run:
        assert restored_step(run) == 3


def test_runs_that_never_live_for_the_grace_period_clean_up_too(apache: ApacheServer, tmp_path: Path) -> None:
    """The server's clock decides, so that short processes clean up too."""
    share = Share(apache)
    place, options = f"{share.location}/run", {"remote": share.remote}
    die_before_the_manifest(place, tmp_path, "dead", **options)
    (left,) = share.root.glob("run/*/step-000000002-*")
    with open_run(place, tmp_path, "living", keep_last=9, **options) as run:
        save_steps(run, 3)
    assert left.exists(), "its writer may still be at it"
    for path in left.iterdir():
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    with open_run(place, tmp_path, "living", keep_last=9, **options) as run:
        save_steps(run, 4)
    assert not left.exists()
