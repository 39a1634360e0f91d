"""A restore beside a process that saves and prunes looks again; only what stays and is damaged is called damaged."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.stores import DirectoryStore
from tests.support.runs import open_run, restored_step, save_steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.stores import Entry


class Busy(DirectoryStore):
    """A storage on which something happens before a file is read, a limited number of times."""

    def __init__(self, root: Path, happens: Callable[[], object], before: str, times: int = 1) -> None:
        super().__init__(str(root))
        self.happens, self.before, self.times = happens, before, times
        self.listed = 0

    def list_below(self, key: str) -> list[Entry]:
        """Count the looks."""
        self.listed += 1
        return super().list_below(key)

    def read(self, key: str) -> bytes:
        """Read a manifest."""
        self._let_happen(key)
        return super().read(key)

    def read_into(self, entry: Entry, path: Path, sha256: str | None = None) -> str:
        """Read a state."""
        self._let_happen(entry.key)
        return super().read_into(entry, path, sha256)

    def _let_happen(self, key: str) -> None:
        if self.times and key.endswith(self.before):
            self.times -= 1
            self.happens()


@pytest.mark.parametrize("before", ["MANIFEST.json", ".pt"])
@pytest.mark.parametrize("times", [1, 3])
def test_what_is_pruned_while_it_is_read_is_looked_for_again(tmp_path: Path, before: str, times: int) -> None:
    """The newest one at that time is restored, and none is called damaged."""
    with open_run(tmp_path / "run", tmp_path, "writer", keep_last=1) as writer:
        save_steps(writer, 1)
        store = Busy(tmp_path / "run", lambda: save_steps(writer, writer.list()[0].step + 1), before, times)
        with open_run(store, tmp_path, "reader") as reader:
            restored = reader.restore()
            assert restored is not None
            assert restored.step == 1 + times
            assert restored.skipped == {}


def test_older_one_is_not_taken_while_a_newer_one_is_there(tmp_path: Path) -> None:
    """A kept older one is intact, but a newer one was saved after the pruned one."""
    with open_run(tmp_path / "run", tmp_path, "writer", keep_last=1, keep_every=10) as writer:
        save_steps(writer, 10, 11)
        store = Busy(tmp_path / "run", lambda: save_steps(writer, 12), ".pt")
        with open_run(store, tmp_path, "reader") as reader:
            assert restored_step(reader) == 12


def test_what_stays_and_is_damaged_is_called_damaged_after_a_second_look(tmp_path: Path) -> None:
    """The log names it. An intact one costs one look."""
    with open_run(tmp_path / "run", tmp_path) as writer:
        save_steps(writer, 1)
    (state,) = (tmp_path / "run").glob("*/*/state-*")
    store = Busy(tmp_path / "run", lambda: None, "-")
    with open_run(store, tmp_path, "reader") as reader:
        store.listed = 0
        assert restored_step(reader) == 1
        assert store.listed == 1
        state.write_bytes(state.read_bytes()[:-1])
        with pytest.raises(errors.DamagedError, match=r"none is intact.*step-000000001.*bytes"):
            reader.restore()
        assert store.listed == 3


def test_writer_that_never_rests_does_not_hold_a_restore_up_for_ever(tmp_path: Path) -> None:
    """After some looks restore answers even so."""
    with open_run(tmp_path / "run", tmp_path, "writer", keep_last=1) as writer:
        save_steps(writer, 1)
        store = Busy(tmp_path / "run", lambda: save_steps(writer, writer.list()[0].step + 1), ".pt", times=10**9)
        with open_run(store, tmp_path, "reader") as reader, pytest.raises(errors.DamagedError, match="none is intact"):
            reader.restore()
        assert store.listed < 20


def test_step_that_is_pruned_while_it_is_read_is_no_damage(tmp_path: Path) -> None:
    """The error says that the step is not there, and which ones are."""
    with open_run(tmp_path / "run", tmp_path, "writer", keep_last=1) as writer:
        save_steps(writer, 1)
        store = Busy(tmp_path / "run", lambda: save_steps(writer, 2), ".pt")
        with (
            open_run(store, tmp_path, "reader") as reader,
            pytest.raises(errors.CheckpointError, match=r"no checkpoint of step 1, but of \[2\]") as caught,
        ):
            reader.restore(step=1)
        assert not isinstance(caught.value, errors.DamagedError)


READER = """
import sys, time, pathlib
from tests.support.runs import open_run
place, spool, seconds = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3])
restores, end = 0, time.time() + seconds
while time.time() < end:
    with open_run(place, spool, "reader") as run:
        restored = run.restore()
        restores += 1
        assert restored is not None and bool((restored["weights"] == restored.step).all())
print(restores)
"""


def test_many_restores_beside_a_process_that_prunes(tmp_path: Path) -> None:
    """Each restore gives a whole state."""
    place = tmp_path / "run"
    with open_run(place, tmp_path, "writer", keep_last=1) as writer:
        save_steps(writer, 1)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(place), str(tmp_path), "5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        )
        step = 1
        while reader.poll() is None:
            step += 1
            save_steps(writer, step)
            time.sleep(0.001)
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        assert int(out) > 0
