"""A server that says 404 to every path says nothing about a run: no run begins anew, and nothing is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint.tries import REFUSED_TRIES
from ai4os_data.stores import open_store
from tests.support.crowd import wait_for
from tests.support.runs import open_run, restored_step, save_steps, state_of
from tests.support.servers import Fault
from tests.support.shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.support.servers import FaultServer

NOT_FOUND = Fault(status=404)


@pytest.mark.parametrize("spool", ["spool", "elsewhere"])
def test_server_that_says_404_to_all_begins_no_run_anew(spool: str, fault: FaultServer, tmp_path: Path) -> None:
    """With a copy in the spool or without one, the run resumes when the server is back."""
    share = Share(fault)
    place = f"{share.location}/runs/0"
    with open_run(place, tmp_path, remote=share.remote) as run:
        save_steps(run, 1)
    fault.always("*", NOT_FOUND, method="*")
    with pytest.raises(errors.ServerUnavailableError, match="404 to this folder and to each above it"):
        open_run(place, tmp_path, spool, remote=share.remote)
    fault.heal()
    with open_run(place, tmp_path, spool, remote=share.remote) as run:
        assert restored_step(run) == 1
    assert not [line for path in tmp_path.glob("spool/*/*/journal") for line in [path.read_text()] if "deleted" in line]


def test_server_that_says_404_to_all_later_begins_no_run_anew(fault: FaultServer, tmp_path: Path) -> None:
    """The same holds if the run was opened while there was no checkpoint."""
    share = Share(fault)
    place = f"{share.location}/runs/0"
    run = open_run(place, tmp_path, remote=share.remote)
    with open_run(place, tmp_path, "elsewhere", remote=share.remote) as other:
        save_steps(other, 1)
    fault.always("*", NOT_FOUND, method="*")
    with pytest.raises(errors.ServerUnavailableError):
        run.restore()
    fault.heal()
    assert restored_step(run) == 1
    run.close()


@pytest.mark.parametrize("kind", ["fault", "nextcloud"])
def test_training_goes_on_through_404_to_all(
    kind: str, patience: Patience, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is an outage like any other: no save raises, and all arrive when the server is back."""
    server = request.getfixturevalue(kind)
    store = open_store(f"{Share(server).location}/run", Share(server).remote, patience=patience, create=True)
    run = open_run(store, tmp_path)
    run.saver.sender.tries.patience = patience
    save_steps(run, 1)
    if kind == "fault":
        server.always("*", NOT_FOUND, method="*")
    else:
        server.answer_next(100_000, 404)
    run.save(state_of(2), 2)
    wait_for(lambda: run.saver.sender.tries.failures >= 2 * REFUSED_TRIES)
    run.save(state_of(3), 3)
    server.heal() if kind == "fault" else server.clear_faults()
    run.close()
    with open_run(store, tmp_path, "elsewhere") as elsewhere:
        assert restored_step(elsewhere) == 3


def test_new_run_below_folders_that_are_missing_or_closed_begins(fault: FaultServer, tmp_path: Path) -> None:
    """One folder above that answers, even with 403, is enough."""
    share = Share(fault)
    with open_run(f"{share.location}/a/b/c", tmp_path, remote=share.remote) as run:
        assert restored_step(run) is None
    above = f"{share.location}/closed".partition("://")[2].partition("/")[2]
    fault.always(above, Fault(status=403), method="PROPFIND")
    with open_run(f"{share.location}/closed/0", tmp_path, remote=share.remote) as run:
        assert restored_step(run) is None
