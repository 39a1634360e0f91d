"""What a server refuses for good is tried a few times, raised by the next save, and kept for the next start."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint import tries
from ai4os_data.checkpoint.tries import REFUSED_TRIES, Tries
from ai4os_data.http.retries import Patience
from tests.support.crowd import wait_for
from tests.support.runs import open_run, restored_step, save_steps, state_of
from tests.support.servers import Fault
from tests.support.shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data import StorageCheckpoint
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import FaultServer, Server

MIB = 1024 * 1024


def run_on(server: Server, patience: Patience, tmp_path: Path, **options: Any) -> StorageCheckpoint:
    """Open a run on a server that does not wait long."""
    run = open_run(Share(server).store(patience), tmp_path, **options)
    run.saver.sender.tries.patience = patience
    run.saver.uploads.closing_s = 2.0
    return run


def error_of(status: int, kind: type[errors.StorageError] = errors.ServerError) -> errors.StorageError:
    """The error that an answer leads to."""
    error = kind("no")
    error.status = status
    return error


LASTING = {
    400: errors.ProtocolError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    405: errors.ServerError,
    409: errors.NotFoundError,
    410: errors.NotFoundError,
    411: errors.ServerError,
    413: errors.ServerError,
    414: errors.ServerError,
    415: errors.ServerError,
    422: errors.ServerError,
    428: errors.ServerError,
    431: errors.ServerError,
    451: errors.PermissionDeniedError,
    501: errors.ServerError,
    505: errors.ServerError,
}


@pytest.mark.parametrize("status", LASTING)
def test_refusals_are_raised_by_the_next_save(
    status: int, fault: FaultServer, patience: Patience, tmp_path: Path
) -> None:
    """Three tries, then the next save says so once, with what to do; the spool has it, and the next start sends it."""
    run = run_on(fault, patience, tmp_path)
    store = run.saver.store
    save_steps(run, 1)
    fault.forget()
    fault.script("*", *[Fault(status=status, kept_bytes=0)] * 50, method="PUT")
    handle = run.save(state_of(2), 2)
    with pytest.raises(LASTING[status], match=rf"\({status}\): \w"):
        handle.wait(timeout_s=20)
    wait_for(lambda: bool(run.saver.failures.lasting))
    # A missing folder is made, and the file sent once more, within each try.
    times = REFUSED_TRIES * (2 if status in {404, 409, 410} else 1)
    assert len([one for one in fault.requests() if one.method == "PUT"]) == times
    with pytest.raises(LASTING[status], match=str(status)):
        run.save(state_of(3), 3)
    with pytest.raises(LASTING[status], match=str(status)):
        run.close()
    fault.heal()
    with open_run(store, tmp_path) as again:
        assert restored_step(again) == 3
        wait_for(lambda: not again.saver.uploads.unsent())
    with open_run(store, tmp_path, "elsewhere") as elsewhere:
        assert restored_step(elsewhere) == 3


@pytest.mark.parametrize("status", [403, 404, 405, 413, 501])
def test_a_refusal_by_mistake_passes(status: int, fault: FaultServer, patience: Patience, tmp_path: Path) -> None:
    """A proxy may refuse twice by mistake."""
    with run_on(fault, patience, tmp_path) as run:
        save_steps(run, 1)
        fault.script("*", *[Fault(status=status, kept_bytes=0)] * 2, method="PUT")
        assert run.save(state_of(2), 2).wait(timeout_s=20) == "confirmed"
        run.save(state_of(3), 3)


def test_refusals_of_a_server_that_comes_back_pass(fault: FaultServer, patience: Patience, tmp_path: Path) -> None:
    """After an outage a proxy says 404 and 403 until its server is back: nine refusals pass."""
    with run_on(fault, patience, tmp_path) as run:
        save_steps(run, 1)
        away, strange = Fault(status=500, kept_bytes=0), Fault(status=403, kept_bytes=0)
        fault.script("*", away, *[strange] * 9, method="PUT")
        assert run.save(state_of(2), 2).wait(timeout_s=20) == "confirmed"


def test_wrong_credentials_are_tried_once(fault: FaultServer, patience: Patience, tmp_path: Path) -> None:
    """More tries would shut the address out."""
    run = run_on(fault, patience, tmp_path)
    save_steps(run, 1)
    refused = error_of(401, errors.AuthenticationError)
    assert Tries(patience).failed(refused) is None
    run.close()


def test_refusals_end_and_outages_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third refusal in a row is the last; a server that is away is tried for ever."""
    patience = Patience(first_pause_s=1.0, longest_pause_s=30.0)
    some = Tries(patience)
    pauses = [some.failed(error_of(405)) for _ in range(3)]
    assert pauses[2] is None
    assert sum(pause or 0.0 for pause in pauses) <= 3
    some.begin()
    assert all(some.failed(error_of(503, errors.ServerUnavailableError)) is not None for _ in range(100))
    assert all(some.failed(error_of(404, errors.NotFoundError)) is not None for _ in range(10))
    monkeypatch.setattr(tries, "_BACK_FOR_S", 0.0)
    assert some.failed(error_of(404, errors.NotFoundError)) is None


def test_a_full_server_is_asked_every_five_minutes_in_the_end() -> None:
    """Pauses grow from some seconds to five minutes, for newer saves too."""
    patience = Patience(first_pause_s=1.0, longest_pause_s=30.0)
    some = Tries(patience)
    pauses = []
    for _ in range(12):
        some.begin()
        pauses.append(some.failed(error_of(507, errors.OutOfSpaceError)) or 0.0)
    assert 2.5 <= pauses[0] <= 5
    assert 150 <= pauses[-1] <= 300
    assert 140 <= some.full_for_s <= 300
    some.arrived()
    assert some.full_for_s == 0


def test_newer_saves_do_not_hurry_a_full_server(fault: FaultServer, patience: Patience, tmp_path: Path) -> None:
    """Twenty saves on a full server cost a few PUTs; when there is room, the newest arrives."""
    slower = Patience(tries=3, first_pause_s=0.1, longest_pause_s=0.2, connect_s=2.0, stall_s=1, total_s=20.0)
    run = open_run(Share(fault).store(patience), tmp_path)
    run.saver.sender.tries.patience = slower
    save_steps(run, 1)
    fault.forget()
    fault.script("*", *[Fault(status=507, kept_bytes=0)] * 500, method="PUT")
    for step in range(2, 22):
        run.save(state_of(step), step)
        time.sleep(0.05)
    assert len([one for one in fault.requests() if one.method == "PUT"]) <= 6
    fault.heal()
    run.close()
    with open_run(run.saver.store, tmp_path, "elsewhere") as elsewhere:
        assert restored_step(elsewhere) == 21


def test_a_full_nextcloud_gets_few_bytes(nextcloud: NextcloudServer, patience: Patience, tmp_path: Path) -> None:
    """Of twelve chunks the first try sends four and each later one a single one; displaced uploads leave nothing."""
    run = run_on(nextcloud, patience, tmp_path, keep_last=1)
    run.saver.store.single_put_bytes, run.saver.store.chunk_bytes = 6 * MIB, 5 * MIB  # type: ignore[attr-defined]
    save_steps(run, 1)
    uploads = nextcloud._workspace / "uploads"
    before = set(uploads.iterdir())
    nextcloud.forget()
    used = sum(path.stat().st_size for path in nextcloud.root.rglob("*") if path.is_file())
    nextcloud.set_quota(used + 10_000)
    run.save(state_of(2, 15 * MIB), 2)
    wait_for(lambda: run.saver.sender.tries.failures >= 5)
    puts = [one for one in nextcloud.requests() if one.method == "PUT"]
    assert len(puts) <= 4 + 5
    nextcloud.set_quota(None)
    run.save(state_of(3), 3)
    run.close()
    assert set(uploads.iterdir()) == before
