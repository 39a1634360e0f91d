"""A script that ends without `close` has its last checkpoint on the server, or the log says where it is."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import Remote, errors
from ai4os_data.checkpoint import delivery
from ai4os_data.stores.directory import DirectoryStore
from tests.support.crowd import wait_for
from tests.support.runs import open_run, restored_step, state_of
from tests.support.servers import ShapedProxy
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.stores import Entry, Level
    from tests.support.servers import WsgidavServer

RTT_S = 0.1  # so that an upload of some requests outlives its script by far

BEGIN = """
import logging, multiprocessing, os, sys, threading, time
import torch
from ai4os_data import Remote, StorageCheckpoint

torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO)


def opened(name="run"):
    place = os.environ["PLACE"] + "/" + name
    return StorageCheckpoint(place, remote=Remote(os.environ["URL"], "alice", os.environ["SECRET"]), spool="spool")


def state(step):
    return {"weights": torch.full((1000,), float(step)), "more": [step, {"name": f"step {step}"}]}
"""

SAVE = """
run = opened()
run.save(state(1), 1)
run.save(state(2), 2)
"""

ENDS = {
    "end of the script": (SAVE, 0),
    "sys.exit": (SAVE + "sys.exit(3)", 3),
    "an error": (SAVE + "raise ValueError('of the user')", 1),
    "dropped": (SAVE + "del run", 0),
    "in a function": ("def main():\n    run = opened()\n    run.save(state(2), 2)\nmain()", 0),
    "two runs": (SAVE + "other = opened('other')\nother.save(state(5), 5)", 0),
    "a thread that trains on": (
        """
def train():
    run = opened()
    run.save(state(1), 1)
    time.sleep(1.0)
    run.save(state(2), 2)

thread = threading.Thread(target=train)
thread.start()
time.sleep(0.5)
""",
        0,
    ),
    "a child": (
        """
def train():
    run = opened()
    run.save(state(2), 2)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=train).start()
""",
        0,
    ),
    "a child that is spawned": (
        """
def train():
    run = opened()
    run.save(state(2), 2)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=train).start()
""",
        0,
    ),
    "atexit": (SAVE + "import atexit\natexit.register(run.close)", 0),
    "a save in atexit": (
        """
import atexit
run = opened()
run.save(state(1), 1)
atexit.register(lambda: run.save(state(2), 2))
""",
        0,
    ),
    "a guard": (SAVE + "guard = run.preemption_guard()", 0),
    "closed": (SAVE + "run.close()", 0),
}


class Scripts:
    """Scripts that save to a server behind a line with some latency, each in a process of its own."""

    def __init__(self, server: WsgidavServer, proxy: ShapedProxy, tmp_path: Path) -> None:
        self._share = Share(server)
        self.proxy = proxy
        self._tmp_path = tmp_path
        near, far = f":{server.port}/", f":{proxy.port}/"
        self._environ = {
            **os.environ,
            "PLACE": self._share.location.replace(near, far),
            "URL": server.url.replace(near, far),
            "SECRET": server.password or "",
        }

    def start(self, script: str, first: str = "") -> subprocess.Popen[str]:
        """Start a script, with some code before its imports. It reads a line when it waits for the test."""
        (self._tmp_path / "script.py").write_text(first + BEGIN + script)
        return subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=self._tmp_path,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, first: str = "") -> tuple[int, str]:
        """Run a script; its exit code, and what it has logged."""
        process = self.start(script, first)
        _, logged = process.communicate(timeout=120)
        return process.returncode, logged

    def step(self, spool: str = "another machine", name: str = "run") -> int | None:
        """Return the step that a machine restores."""
        remote = Remote(self._environ["URL"], "alice", self._environ["SECRET"])
        with open_run(f"{self._environ['PLACE']}/{name}", self._tmp_path, spool, remote=remote) as run:
            return restored_step(run)


@pytest.fixture
def scripts(wsgidav: WsgidavServer, tmp_path: Path) -> Iterator[Scripts]:
    """Scripts, and a server behind 0.1 s of latency."""
    with ShapedProxy("127.0.0.1", wsgidav.port, rtt_s=RTT_S) as proxy:
        yield Scripts(wsgidav, proxy, tmp_path)


@pytest.mark.parametrize("how", ENDS)
def test_last_checkpoint_is_there_however_a_script_ends(how: str, scripts: Scripts) -> None:
    """The exit code stays the script's own, and nothing is logged about checkpoints that have arrived."""
    script, code = ENDS[how]
    found, logged = scripts.run(script)
    assert found == code, logged
    assert scripts.step() == 2, logged
    if how == "two runs":
        assert scripts.step("a third machine", "other") == 5
    assert not re.search(r"not on the (server|storage)|in the spool|Traceback(?!.*of the user)", logged, re.DOTALL)
    assert ("waiting up to 60 s" in logged) == (how != "closed")


def test_daemon_that_saves_for_ever_does_not_hold_up_the_end(scripts: Scripts) -> None:
    """The end waits for the saves that had begun, and not for later ones."""
    found, logged = scripts.run("""
run = opened()

def train():
    for step in range(1, 10**6):
        run.save({"weights": [1.0, 2.0], "more": step}, step)
        time.sleep(0.02)

threading.Thread(target=train, daemon=True).start()
time.sleep(2.0)
""")
    assert found == 0, logged
    assert "Traceback" not in logged
    assert "not on the storage" not in logged
    assert logged.count("waiting up to") == 1


POOL = """
import threading

stop = threading.Event()


def work():
    stop.wait()


def tell():
    stop.set()


threading._register_atexit(tell)  # as joblib and concurrent.futures do
threading.Thread(target=work).start()
"""


def test_pool_that_ends_with_the_interpreter_does_not_hold_up_the_end(scripts: Scripts) -> None:
    """A pool whose module ends its threads after the runs, as joblib's may, is not waited for."""
    begun = time.monotonic()
    found, logged = scripts.run(SAVE, POOL)
    assert found == 0, logged
    assert scripts.step() == 2
    assert time.monotonic() - begun < 45.0


def test_thread_that_waits_for_the_end_does_not_hold_it_up(scripts: Scripts) -> None:
    """A thread that joins the main thread, and then closes the run, is not waited for."""
    begun = time.monotonic()
    found, logged = scripts.run(f"""{SAVE}
def clean_up():
    threading.main_thread().join()
    run.close()
    print("cleaned up", file=sys.stderr)

threading.Thread(target=clean_up).start()
""")
    assert found == 0, logged
    assert "cleaned up" in logged
    assert scripts.step() == 2
    assert time.monotonic() - begun < 45.0


def test_daemon_that_is_joined_at_the_end_gets_an_error(scripts: Scripts) -> None:
    """A save of a daemon thread after the last wait raises, if a function of atexit waits for that thread."""
    found, logged = scripts.run(f"""{SAVE}
import atexit
is_over = threading.Event()

def train():
    is_over.wait()
    run.save(state(3), 3)

thread = threading.Thread(target=train, daemon=True)
thread.start()
atexit.register(lambda: (is_over.set(), thread.join()))
""")
    assert found == 0, logged
    assert "save in a thread that is no daemon" in logged
    assert scripts.step() == 2


LATE = """
run = opened()
run.save(state(1), 1).wait()
run.saver.uploads.closing_s = {closing_s}
print("ready", flush=True)
input()
run.save(state(2), 2).wait("local")
print("saved", flush=True)
"""


@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses", "silent"])
def test_server_that_is_away_does_not_hold_up_the_end(is_silent: bool, scripts: Scripts, tmp_path: Path) -> None:  # noqa: FBT001
    """One message names the step and its path, and the next start on that machine sends it."""
    process = scripts.start(LATE.format(closing_s=2.0))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert scripts.proxy._child is not None
    if is_silent:
        os.kill(scripts.proxy._child.pid, signal.SIGSTOP)
    else:
        scripts.proxy.stop()
    try:
        _, logged = process.communicate("\n", timeout=30)
    finally:
        if is_silent:
            os.kill(scripts.proxy._child.pid, signal.SIGCONT)
        else:
            scripts.proxy.start()
    assert process.returncode == 0, logged
    (message,) = (line for line in logged.splitlines() if "in the spool" in line or "from the spool" in line)
    assert "step 2 is not on the storage" in message
    (folder,) = tmp_path.glob("spool/*/*/step-000000002-*")
    assert str(folder) in message
    assert scripts.step() == 1
    assert scripts.step("spool") == 2


def test_interrupt_ends_the_wait(scripts: Scripts) -> None:
    """Ctrl-C ends the wait with the one message, and the exit code is the script's."""
    process = scripts.start("guard = opened('other').preemption_guard()\n" + LATE.format(closing_s=600.0))
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    scripts.proxy.stop()
    process.stdin.write("\n")
    process.stdin.flush()
    logged = ""
    while "waiting up to" not in logged:
        logged += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, more = process.communicate(timeout=30)
    assert process.returncode == 0, logged + more
    assert (logged + more).count("not on the storage") == 1
    assert "Traceback" not in more


def test_run_is_freed_when_its_last_upload_is_through(tmp_path: Path) -> None:
    """A run that nobody closed is freed with its buffers and its thread; its handle still works."""
    gc.disable()
    try:
        threads = threading.active_count()
        run = open_run(tmp_path / "run", tmp_path)
        handle = run.save({"weights": [1.0]}, 1)
        reference = weakref.ref(run.saver)
        del run
        assert handle.wait(timeout_s=20) == "confirmed"
        wait_for(lambda: reference() is None)
        wait_for(lambda: threading.active_count() == threads)
    finally:
        gc.enable()
    with open_run(tmp_path / "run", tmp_path) as again:
        assert [one.in_spool for one in again.list()] == [True], "it was taken over from the one that is gone"


class Thorough(DirectoryStore):
    """A storage that takes long to check what was sent, or never ends."""

    looks_s = 1.5

    def write_confirmed(self, key: str, *arguments: Any, **options: Any) -> Level:
        """Look for long at a state."""
        level = super().write_confirmed(key, *arguments, **options)
        if "state-" in key:
            time.sleep(self.looks_s)
        return level


@pytest.mark.parametrize(("bytes_per_s", "level"), [(1000, "confirmed"), (1_000_000_000, "local")])
def test_what_is_all_sent_is_waited_for_by_its_size(
    bytes_per_s: int, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server joins and hashes a checkpoint no byte is sent, which takes minutes for a large one."""
    monkeypatch.setattr(delivery, "_VERIFIED_BYTES_PER_S", bytes_per_s)
    run = open_run(Thorough(tmp_path / "run"), tmp_path)
    run.saver.uploads.closing_s = 0.2
    handle = run.save(state_of(1), 1)
    run.saver.ending.begin()
    run.saver.ending.wait()
    assert handle.level == level
    handle.wait(timeout_s=20)
    run.close()


class Failing(DirectoryStore):
    """A storage on which pruning after an upload fails in an unforeseen way, or takes long."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fails = self.is_slow = False
        self.gate = threading.Event()

    def list_below(self, folder: str) -> list[Entry]:
        """Fail as a pool of threads does after its end, or wait."""
        if self.fails:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self.is_slow:
            self.gate.wait(20.0)
        return super().list_below(folder)


def test_failure_after_the_arrival_is_no_failure_of_the_upload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is raised by the next save, and the checkpoint counts as arrived."""
    store = Failing(tmp_path / "run")
    with open_run(store, tmp_path) as run:
        store.fails = True
        handle = run.save(state_of(1), 1)
        assert handle.wait(timeout_s=20) == "confirmed"
        wait_for(lambda: not run.saver.uploads.unsent())
        store.fails = False
        assert "step 1 is on the storage; what was to follow has failed" in caplog.text
        assert "not on the server" not in caplog.text
        assert (handle.level, handle.error) == ("confirmed", None)
        with pytest.raises(RuntimeError, match="cannot schedule"):
            run.save(state_of(2), 2)
        assert restored_step(run) == 2


def test_close_says_of_nothing_that_it_is_missing_which_is_there(tmp_path: Path) -> None:
    """A close that times out while older checkpoints are removed names none as missing."""
    store = Failing(tmp_path / "run")
    run = open_run(store, tmp_path)
    store.is_slow = True
    run.save(state_of(1), 1).wait(timeout_s=20)
    with pytest.raises(errors.DeadlineError, match=r"all is on the storage after 0\.2 s"):
        run.close(0.2)
    store.gate.set()
    run.close()


@pytest.mark.parametrize("is_spooled", [True, False], ids=["not sent", "not spooled"])
def test_kept_error_keeps_no_run(is_spooled: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """An error that somebody keeps refers to neither the state nor the run."""
    gc.disable()
    try:
        run = open_run(Refusing(tmp_path / "run"), tmp_path)
        if not is_spooled:
            run.saver.spool.space.limit_bytes = 0
        reference = weakref.ref(run.saver)
        handle = run.save(state_of(1), 1)
        with pytest.raises(errors.StorageError, match="not allowed" if is_spooled else "no room in the spool"):
            handle.wait(timeout_s=20)
        del run
        wait_for(lambda: reference() is None)
        assert handle.error is not None
    finally:
        gc.enable()


class Refusing(DirectoryStore):
    """A storage that refuses every file."""

    def write_confirmed(self, *_: object, **__: object) -> Level:
        """Refuse."""
        raise errors.PermissionDeniedError("not allowed")
