"""Full disks, full servers and wrong answers are reported, and older checkpoints stay."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import DiskCache, StorageCheckpoint, errors
from ai4os_data.cache import CachedStore
from ai4os_data.checkpoint.catalogue import Catalogue
from ai4os_data.checkpoint.delivery import Delivery
from ai4os_data.checkpoint.uploads import Uploads
from ai4os_data.http.retries import Patience
from tests.support.crowd import wait_for
from tests.support.disks import tmpfs
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of
from tests.support.servers import Fault, FaultServer, WsgidavServer
from tests.support.shares import Share
from tests.support.sources import source

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nextcloud import NextcloudServer
    from tests.support.servers import Server

MiB = 1024 * 1024
MiB_OF_NUMBERS = MiB // 4


def test_full_spool_disk_keeps_the_old_and_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A save that does not fit raises, again at the end; a later one that fits is saved."""
    with tmpfs(tmp_path / "disk", 8 * MiB):
        run = open_run(tmp_path / "run", tmp_path, "disk/spool")
        run.save(state_of(1, MiB_OF_NUMBERS), 1).wait(timeout_s=20)
        large = run.save(state_of(2, 20 * MiB_OF_NUMBERS), 2)
        with pytest.raises(errors.OutOfSpaceError, match="no room in the spool"):
            large.wait(timeout_s=20)
        assert large.level is None
        assert "step 2 could not be saved: no room in the spool" in caplog.text
        assert restored_step(run) == 1
        run.save(state_of(3, MiB_OF_NUMBERS), 3).wait(timeout_s=20)
        run.save(state_of(4, 20 * MiB_OF_NUMBERS), 4)
        with pytest.raises(errors.OutOfSpaceError):
            run.close()
    with open_run(tmp_path / "run", tmp_path, "other") as again:
        assert restored_step(again) == 3


def test_disk_that_fills_up_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    """The kernel reports ENOSPC in mid-write, although there was room before."""
    with tmpfs(tmp_path / "disk", 12 * MiB), open_run(tmp_path / "run", tmp_path, "disk/spool") as run:
        vars(run.saver.spool.space)["check"] = lambda _: None
        filler = tmp_path / "disk" / "filler"
        filler.write_bytes(bytes(8 * MiB))
        handle = run.save(state_of(1, 8 * MiB_OF_NUMBERS), 1)
        with pytest.raises(errors.OutOfSpaceError, match="while step 1 was written"):
            handle.wait(timeout_s=20)
        assert not list((tmp_path / "disk" / "spool").glob("*/*/step-*"))
        filler.unlink()
        assert run.save(state_of(2, 8 * MiB_OF_NUMBERS), 2).wait(timeout_s=20) == "confirmed"


def test_spool_keeps_its_limit_and_gives_way_to_what_is_newer(tmp_path: Path) -> None:
    """Copies of checkpoints on the store are removed first."""
    with open_run(tmp_path / "run", tmp_path, spool_limit=3 * MiB) as run:
        for step in range(5):
            run.save(state_of(step, 2 * MiB_OF_NUMBERS), step).wait(timeout_s=20)
            assert run.saver.spool.space.used_bytes() <= 3 * MiB
        with pytest.raises(errors.OutOfSpaceError, match="bytes of 3,145,728 are taken"):
            run.save(state_of(5, 4 * MiB_OF_NUMBERS), 5).wait(timeout_s=20)
        assert run.save(state_of(6, 2 * MiB_OF_NUMBERS), 6).wait(timeout_s=20) == "confirmed"


@pytest.mark.parametrize("how", ["found", "named"])
def test_cache_yields_to_the_spool(how: str, tmp_path: Path) -> None:
    """On a shared disk the cache shrinks by the missing amount, save after save."""
    with tmpfs(tmp_path / "disk", 24 * MiB):
        cache = DiskCache(tmp_path / "disk" / "cache", 20 * MiB)
        files = source([MiB] * 24, "yields")
        cached = CachedStore(files, cache)
        for _ in cached.read_many(files.list()):
            pass
        assert cache.stats()["bytes"] > 18 * MiB
        options: dict[str, Any] = {"cache": cache} if how == "named" else {}
        with open_run(tmp_path / "run", tmp_path, "disk/spool", **options) as run:
            for step in range(3):
                assert run.save(state_of(step, 8 * MiB_OF_NUMBERS), step).wait(timeout_s=20) == "confirmed"
                assert 8 * MiB < cache.stats()["bytes"] < 16 * MiB
                for _ in cached.read_many(files.list()):  # it does not take back what it has given
                    pass
        cache.close()


def test_no_cache_yields_where_none_is_to(tmp_path: Path) -> None:
    """With ``cache=None`` no cache shrinks."""
    with tmpfs(tmp_path / "disk", 24 * MiB):
        cache = DiskCache(tmp_path / "disk" / "cache", 16 * MiB)
        files = source([MiB] * 14, "stays")
        for _ in CachedStore(files, cache).read_many(files.list()):
            pass
        before = cache.stats()
        with open_run(tmp_path / "run", tmp_path, "disk/spool", cache=None) as run:
            with pytest.raises(errors.OutOfSpaceError):
                run.save(state_of(1, 14 * MiB_OF_NUMBERS), 1).wait(timeout_s=20)
            run.saver.newest = None
        assert cache.stats()["entries"] == before["entries"]
        cache.close()
        with pytest.raises(TypeError, match="cache is a DiskCache, 'auto' or None"):
            open_run(tmp_path / "run", tmp_path, cache="/somewhere")


def run_on(server: Server, patience: Patience, tmp_path: Path, **options: Any) -> StorageCheckpoint:
    """Open a run on a server that does not wait long."""
    run = open_run(Share(server).store(patience), tmp_path, **options)
    run.saver.sender.tries.patience = patience
    run.saver.uploads.closing_s = 2.0
    return run


@pytest.mark.parametrize(
    "wrong",
    [
        Fault(status=423),
        Fault(status=429),
        Fault(status=500),
        Fault(status=502),
        Fault(status=504),
        Fault(status=507),
        Fault(drop=True),
        Fault(reset=True),
        Fault(kept_bytes=500),
        Fault(flipped=True),
    ],
    ids=["423", "429", "500", "502", "504", "507", "drop", "reset", "201 and a part", "201 and another bit"],
)
def test_wrong_answers_to_uploads_pass(wrong: Fault, fault: FaultServer, patience: Patience, tmp_path: Path) -> None:
    """After ten wrong answers in a row all is confirmed, and nothing is doubled or lost."""
    with run_on(fault, patience, tmp_path, keep_last=9) as run:
        save_steps(run, 1)
        fault.script("*", *[wrong] * 10, method="PUT")
        begun = time.monotonic()
        handle = run.save(state_of(2), 2)
        assert time.monotonic() - begun < 1
        assert handle.wait(timeout_s=60) == "confirmed"
        assert steps_of(run) == [2, 1]
        assert run.verify() == {}


def test_lost_acknowledgement_is_looked_at(fault: FaultServer, patience: Patience, tmp_path: Path) -> None:
    """A PUT that arrived and was not answered is confirmed."""
    with run_on(fault, patience, tmp_path) as run:
        fault.script("*", *[Fault(cut_after_bytes=0, close=True)] * 3, method="PUT")
        assert run.save(state_of(1), 1).wait(timeout_s=60) == "confirmed"
        assert run.verify() == {}


def test_full_server_keeps_the_old_and_close_says_so(
    nextcloud: NextcloudServer, patience: Patience, tmp_path: Path
) -> None:
    """After a lasting 507 the spool has the checkpoint, and the next start sends it."""
    run = run_on(nextcloud, patience, tmp_path)
    store = run.saver.store
    save_steps(run, 1)
    nextcloud.set_quota(1)
    for step in (2, 3, 4):
        assert run.save(state_of(step), step).wait("local", timeout_s=10) == "local"
    with pytest.raises(errors.OutOfSpaceError):
        run.close()
    with open_run(store, tmp_path, "elsewhere") as elsewhere:
        assert restored_step(elsewhere) == 1
    nextcloud.set_quota(None)
    with open_run(store, tmp_path) as again:
        assert restored_step(again) == 4
    with open_run(store, tmp_path, "after") as after:
        assert restored_step(after) == 4


def test_training_does_not_notice_a_server_that_is_stopped(
    wsgidav: WsgidavServer, patience: Patience, tmp_path: Path
) -> None:
    """The server is down for some seconds; the newest checkpoint arrives afterwards."""
    check_stopped(2, wsgidav, tmp_path, patience)


@pytest.mark.long
def test_training_does_not_notice_a_server_that_is_stopped_for_a_minute(wsgidav: WsgidavServer, tmp_path: Path) -> None:
    """The same with the patience of a user."""
    check_stopped(60, wsgidav, tmp_path)


def check_stopped(down_s: float, server: Server, tmp_path: Path, patience: Patience | None = None) -> None:
    """Stop a server beside a training that saves three times a second, and hold that no save waits for it."""
    share = Share(server)
    with open_run(share.store(patience or Patience()), tmp_path) as run:
        if patience:
            run.saver.sender.tries.patience = patience
        save_steps(run, 1)
        step, slowest_s = 1, 0.0
        with share.down():
            begun = time.monotonic()
            while time.monotonic() - begun < down_s:
                step += 1
                before = time.monotonic()
                handle = run.save(state_of(step), step)
                slowest_s = max(slowest_s, time.monotonic() - before)
                handle.wait("local", timeout_s=5)
                time.sleep(0.3)
            assert handle.level == "local"
        assert slowest_s < 1, "a save has waited for the network"
        assert handle.wait(timeout_s=120) == "confirmed"
        assert restored_step(run) == step


def test_wrong_password_is_told_at_once(nextcloud: NextcloudServer, patience: Patience, tmp_path: Path) -> None:
    """A wrong password is raised at once; one that is revoked later is in test_wrong_answers."""
    with pytest.raises(errors.AuthenticationError):
        open_run(Share(nextcloud).store(patience, password="wrong"), tmp_path)


def test_one_confirmed_checkpoint_exists_at_every_moment(tmp_path: Path) -> None:
    """With keep_last=1, an observer always finds a checkpoint."""
    run = open_run(tmp_path / "run", tmp_path, keep_last=1)
    save_steps(run, 0)
    over = threading.Event()
    empty: list[int] = []

    def watch() -> None:
        while not over.is_set():
            before = list((tmp_path / "run").glob("*/*/MANIFEST.json"))
            if not before and not list((tmp_path / "run").glob("*/*/MANIFEST.json")):
                empty.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    save_steps(run, *range(1, 60))
    over.set()
    watcher.join()
    run.close()
    assert empty == []
    wait_for(lambda: len(list((tmp_path / "run").glob("*/*/MANIFEST.json"))) == 1)


def test_upload_thread_that_cannot_start_holds_up_no_later_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the number of threads is limited the error is raised, and the next save sends."""
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "ai4os-data-uploads":
            raise RuntimeError("can't start new thread")
        start(thread)

    with open_run(tmp_path / "run", tmp_path) as run:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="new thread"):
                run.save(state_of(1), 1).wait(timeout_s=60)
        with pytest.raises(RuntimeError, match="new thread"):
            run.save(state_of(2), 2)
        assert run.saver.newest is not None
        run.saver.newest.wait(timeout_s=60)
        assert steps_of(run)[0] == 2


@pytest.mark.parametrize("bug", [AttributeError, KeyError, AssertionError, TypeError, ValueError])
@pytest.mark.parametrize(
    ("owner", "method"),
    [(Uploads, "next"), (Uploads, "end"), (Delivery, "begin"), (Catalogue, "add")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_bug_in_the_queue_of_uploads_is_raised_and_the_next_save_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, bug: type[Exception]
) -> None:
    """Otherwise unsent saves would stay, and close would raise nothing."""
    run = open_run(tmp_path / "run", tmp_path)
    save_steps(run, 1)

    def broken(*_: object) -> None:
        raise bug("of ours")

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, broken)
        handle = run.save(state_of(2), 2)
        wait_for(lambda: run.saver.failures.lasting)
        if method == "next":
            with pytest.raises(bug, match="of ours"):
                handle.wait(timeout_s=20)
        else:
            assert handle.wait(timeout_s=20) == "confirmed"
    with pytest.raises(bug, match="of ours"):
        run.save(state_of(3), 3)
    wait_for(lambda: run.saver.newest is not None and run.saver.newest.level == "confirmed")
    run.close(timeout_s=20)
    assert {3} <= set(steps_of(StorageCheckpoint(tmp_path / "run", spool=tmp_path / "other")))
