"""A wrong answer to any request of a save or a removal passes, and older checkpoints stay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint.history import Seen
from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.checkpoint.pruning import _stored_at
from ai4os_data.stores.base import Entry
from ai4os_data.stores.dav import DavAnswer
from ai4os_data.stores.dav_writing import _span
from tests.support.crowd import wait_for
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of
from tests.support.servers import BROKEN_XML, PASSWORD, Fault, FaultServer
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import Server

IN_A_ROW = 5  # more than a request is tried
LOST = "lost"


def run_on(server: Server, patience: Patience, tmp_path: Path, spool: str = "spool") -> StorageCheckpoint:
    """Open a run that keeps one, on a server that does not wait long."""
    run = open_run(Share(server).store(patience), tmp_path, spool, keep_last=1)
    run.saver.sender.tries.patience = patience
    return run


def check_passes(run: StorageCheckpoint, tmp_path: Path, go_wrong: Callable[[], None]) -> None:
    """Hold that a save through it is confirmed, that nothing is lost or doubled, and that later ones clean up."""
    save_steps(run, 1, 2)
    go_wrong()
    begun = time.monotonic()
    handle = run.save(state_of(3), 3)
    assert time.monotonic() - begun < 1, "a save has waited for the network"
    assert handle.wait(timeout_s=60) == "confirmed"
    wait_for(lambda: not run.saver.uploads.unsent())
    last = 3
    while steps_of(run) != [last]:
        assert steps_of(run)[0] == last
        assert last < 3 + IN_A_ROW, "what was not removed then is never removed"
        last += 1
        save_steps(run, last)
    assert run.verify() == {}
    run.close()
    with open_run(run.saver.store, tmp_path, "elsewhere") as elsewhere:
        assert restored_step(elsewhere) == last


@pytest.mark.parametrize(
    "wrong",
    [
        Fault(status=423),
        Fault(status=429),
        Fault(status=500),
        Fault(status=502),
        Fault(status=504),
        Fault(reset=True),
        Fault(unanswered=True),
    ],
    ids=["423", "429", "500", "502", "504", "reset", LOST],
)
@pytest.mark.parametrize("method", ["MKCOL", "PROPFIND", "GET", "DELETE"])
def test_wrong_answers_to_any_request_pass(
    method: str, wrong: Fault, fault: FaultServer, patience: Patience, tmp_path: Path
) -> None:
    """After five in a row the old and the new are there; a later save makes up for failed removals."""
    run = run_on(fault, patience, tmp_path)
    check_passes(run, tmp_path, lambda: fault.script("*", *[wrong] * IN_A_ROW, method=method))


@pytest.mark.parametrize("wrong", [BROKEN_XML, Fault(cut_after_bytes=50)], ids=["no XML", "cut"])
def test_listing_that_makes_no_sense_removes_nothing(
    wrong: Fault, fault: FaultServer, patience: Patience, tmp_path: Path
) -> None:
    """It never looks like an empty run, or one with another newest checkpoint."""
    run = run_on(fault, patience, tmp_path)
    check_passes(run, tmp_path, lambda: fault.script("*", *[wrong] * IN_A_ROW, method="PROPFIND"))


@pytest.mark.parametrize("wrong", [Fault(cut_after_bytes=100), Fault(body=b"another")], ids=["cut", "another"])
def test_read_back_that_comes_wrong_is_tried_again(
    wrong: Fault, fault: FaultServer, patience: Patience, tmp_path: Path
) -> None:
    """Only bytes that came back as they were sent confirm a checkpoint."""
    run = run_on(fault, patience, tmp_path)
    check_passes(run, tmp_path, lambda: fault.script("*", *[wrong] * IN_A_ROW, method="GET"))


ODD_DATES = [f"Mon, {'9' * 30} Jan 1 00:00:00 GMT", "yesterday", ""]


@pytest.mark.parametrize("date", ODD_DATES)
def test_dates_that_no_clock_reads_are_none(date: str) -> None:
    """They give neither the time of a removal nor that of a file."""
    assert _span(DavAnswer(204, {"date": date}, b""), 0.0) is None
    name = CheckpointName.new(AttemptName.new(1), 1)
    assert _stored_at(Seen(name, {"state": Entry("state", 1, None, date)})) is None


@pytest.fixture
def cloud(nextcloud: NextcloudServer, small_chunks: None) -> Iterator[NextcloudServer]:  # noqa: ARG001
    """The double of Nextcloud, to which states go in chunks; it is healthy again afterwards."""
    nextcloud.forget()
    yield nextcloud
    nextcloud.clear_faults()


ANSWERS = [
    (method, wrong)
    for method in ("PUT", "MKCOL", "PROPFIND", "PATCH", "MOVE", "DELETE")
    for wrong in (423, 429, 500, 502, 504, LOST)
]


@pytest.mark.parametrize(("method", "wrong"), ANSWERS)
def test_wrong_answers_of_a_nextcloud_pass(
    method: str, wrong: int | str, cloud: NextcloudServer, patience: Patience, tmp_path: Path
) -> None:
    """Requests for chunks, for joining them and for the hash are answered wrongly too."""

    def go_wrong() -> None:
        if isinstance(wrong, int):
            cloud.answer_next(IN_A_ROW, wrong, method=method)
        else:
            cloud.lose_next_answers(IN_A_ROW, method=method)

    check_passes(run_on(cloud, patience, tmp_path), tmp_path, go_wrong)


@pytest.mark.parametrize("completes_after_s", [0.0, 0.3, None], ids=["done", "done later", "never"])
@pytest.mark.parametrize("status", [423, 504])
def test_final_move_that_is_not_answered_in_time_is_looked_at(
    status: int, completes_after_s: float | None, cloud: NextcloudServer, patience: Patience, tmp_path: Path
) -> None:
    """No chunk of the checkpoint is sent twice."""

    def go_wrong() -> None:
        cloud.forget()
        cloud.fail_next_final_move(status, completes_after_s=completes_after_s)

    run = run_on(cloud, patience, tmp_path)
    check_passes(run, tmp_path, go_wrong)
    chunks = [request.path for request in cloud.requests() if request.method == "PUT" and "/uploads/" in request.path]
    assert len(chunks) == len(set(chunks))


def test_bits_that_a_nextcloud_flips_are_sent_again(cloud: NextcloudServer, patience: Patience, tmp_path: Path) -> None:
    """A flipped bit in the joined file shows in its hash."""
    check_passes(run_on(cloud, patience, tmp_path), tmp_path, lambda: cloud.corrupt_next_put(count=2))


def test_credentials_that_are_revoked_are_told_by_the_next_save(
    nextcloud: NextcloudServer, patience: Patience, tmp_path: Path
) -> None:
    """Training may continue, nothing is lost, and the next start sends the newest."""
    run = run_on(nextcloud, patience, tmp_path)
    save_steps(run, 1)
    nextcloud.credentials_expire()
    try:
        with pytest.raises(errors.AuthenticationError):
            run.save(state_of(2), 2).wait(timeout_s=20)
        with pytest.raises(errors.AuthenticationError):
            run.save(state_of(3), 3)
        assert run.save(state_of(3), 3).wait("local", timeout_s=20) == "local"
        with pytest.raises(errors.AuthenticationError):
            run.close()
    finally:
        nextcloud.change_password(PASSWORD)
        nextcloud.open_again()
    store = type(run.saver.store)(run.saver.store.remote, run.saver.store.address.path, patience=patience)  # type: ignore[attr-defined, call-arg]
    with open_run(store, tmp_path, "elsewhere") as elsewhere:
        assert restored_step(elsewhere) == 1
    with open_run(store, tmp_path) as again:
        assert restored_step(again) == 3
    with open_run(store, tmp_path, "after") as after:
        assert restored_step(after) == 3
