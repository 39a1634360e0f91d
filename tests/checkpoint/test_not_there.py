"""A server that says 404 to every path says nothing about a run: nothing begins anew for it, and nothing goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.remotes import Remote
from checkpoint.runs import open_run, restored_step, save_steps
from servers import Fault
from shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from servers import FaultServer

NOT_FOUND = Fault(status=404)


@pytest.mark.parametrize("spool", ["spool", "elsewhere"])
def test_server_that_says_404_to_all_begins_no_run_anew(spool: str, fault: FaultServer, tmp_path: Path) -> None:
    """Neither where the spool has a copy, nor on a machine that has none; when it is back, the run goes on."""
    share = Share(fault)
    place = f"{share.location}/runs/0"
    with open_run(place, tmp_path, remote=share.remote) as run:
        save_steps(run, 1)
    fault.always("*", NOT_FOUND, method="*")
    with pytest.raises(errors.LocationError, match="404 to this folder and to each above it"):
        open_run(place, tmp_path, spool, remote=share.remote)
    fault.heal()
    with open_run(place, tmp_path, spool, remote=share.remote) as run:
        assert restored_step(run) == 1
    assert not [line for path in tmp_path.glob("spool/*/*/journal") for line in [path.read_text()] if "deleted" in line]


def test_server_that_says_404_to_all_later_begins_no_run_anew(fault: FaultServer, tmp_path: Path) -> None:
    """When a restore asks, after the run was opened while there was nothing."""
    share = Share(fault)
    place = f"{share.location}/runs/0"
    run = open_run(place, tmp_path, remote=share.remote)
    with open_run(place, tmp_path, "elsewhere", remote=share.remote) as other:
        save_steps(other, 1)
    fault.always("*", NOT_FOUND, method="*")
    with pytest.raises(errors.LocationError):
        run.restore()
    fault.heal()
    assert restored_step(run) == 1
    run.close()


def test_new_run_below_folders_that_are_missing_or_closed_begins(fault: FaultServer, tmp_path: Path) -> None:
    """One folder above that answers is enough, be it with 403."""
    share = Share(fault)
    with open_run(f"{share.location}/a/b/c", tmp_path, remote=share.remote) as run:
        assert restored_step(run) is None
    above = f"{share.location}/closed".partition("://")[2].partition("/")[2]
    fault.always(above, Fault(status=403), method="PROPFIND")
    assert isinstance(share.remote, Remote)
    with open_run(f"{share.location}/closed/0", tmp_path, remote=share.remote) as run:
        assert restored_step(run) is None
