"""Several processes write to one run, or are killed there: the confirmed checkpoint is always there."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ai4os_data import Remote, errors
from ai4os_data.checkpoint.manifest import Manifest
from ai4os_data.checkpoint.names import CheckpointName
from tests.support.crowd import wait_for
from tests.support.runs import open_run, remove_before_sending, restored_step, save_steps, state_of
from tests.support.servers import ShapedProxy
from tests.support.shares import Share
from tests.support.sources import new_seed, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from tests.support.servers import ApacheServer

RTT_S = 0.01


def in_a_child(work: Callable[[], None]) -> int:
    """Do some work in a new process; its pid."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  the parent sees the code, and whoever looks sees the words
        sys.stderr.write(f"{error!r}\n")
    finally:
        os._exit(1)


def check_two_writers(place: str, remote: Remote | None, rounds: int, tmp_path: Path) -> None:
    """Let two processes save to one run at once, and hold that the newest of both are intact."""

    def write(spool: str) -> None:
        with open_run(place, tmp_path, spool, remote=remote, keep_last=1) as run:
            save_steps(run, *range(rounds))

    writers = [in_a_child(lambda number=number: write(f"spool-{number}")) for number in range(2)]  # type: ignore[misc]
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0, 0]
    with open_run(place, tmp_path, "other", remote=remote) as run:
        assert run.verify() == {}
        found = run.list()
        assert [checkpoint.step for checkpoint in found] == [rounds - 1] * 2
        assert len({checkpoint.name.attempt.nonce for checkpoint in found}) == 2
        assert restored_step(run) == rounds - 1


def test_two_processes_share_no_path_in_a_directory(tmp_path: Path) -> None:
    """Two processes save twenty times each."""
    check_two_writers(str(tmp_path / "run"), None, 20, tmp_path)


def test_two_processes_share_no_path_on_a_server(apache: ApacheServer, tmp_path: Path) -> None:
    """Two processes save eight times each."""
    share = Share(apache)
    check_two_writers(f"{share.location}/run", share.remote, 8, tmp_path)


@pytest.mark.long
def test_two_processes_share_no_path_in_a_hundred_rounds(apache: ApacheServer, tmp_path: Path) -> None:
    """Two processes save a hundred times each, on a server."""
    share = Share(apache)
    check_two_writers(f"{share.location}/run", share.remote, 100, tmp_path)


class Watch:
    """Looks from outside, all the time, whether what has been confirmed, or something newer, is there and intact.

    Args:
        folder: of the run, as the server has it.
        said: the file where the run writes each step that has been confirmed.
    """

    def __init__(self, folder: Path, said: Path) -> None:
        self._folder = folder
        self._said = said
        self.looks = 0
        self.gaps: list[int] = []  # the confirmed steps that were not there

    @contextmanager
    def running(self) -> Iterator[None]:
        """Observe until the block ends."""
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                step = self.confirmed()
                # A look takes time, in which the old may go that had been looked past, since the new is there.
                if not any(self._is_there(step) for _ in range(3)):
                    self.gaps.append(step)
                self.looks += 1

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def say(self, step: int) -> None:
        """Write down that a step was confirmed, as a whole or not at all."""
        beside = self._said.with_name("said.new")
        beside.write_text(f"{step}")
        beside.replace(self._said)

    def confirmed(self) -> int:
        """The last step that was confirmed."""
        return int(self._said.read_text())

    def _is_there(self, step: int) -> bool:
        paths = sorted(self._folder.glob("*/step-*/MANIFEST.json"), reverse=True)
        return any(_step_if_intact(path) >= step for path in paths)


def _step_if_intact(path: Path) -> int:
    """The step of a checkpoint, or -1 if it is not whole."""
    name = CheckpointName.parse(f"{path.parent.parent.name}/{path.parent.name}")
    assert name is not None
    try:
        for file, facts in Manifest.from_json(path.read_bytes(), name).files.items():
            if hashlib.sha256(path.with_name(file).read_bytes()).hexdigest() != facts.sha256:
                return -1
    except (OSError, errors.IntegrityError):
        return -1
    return name.step


def kill_at_each_save(
    kills: int, server: ApacheServer, tmp_path: Path, spoil: Callable[[StorageCheckpoint], None] = lambda _: None
) -> Watch:
    """Kill a run in its first, second, third or fourth save, again and again, each time on another machine.

    keep_last=1, and uploads are slow. What is restored is never older than what was confirmed.
    """
    share = Share(server)
    watch = Watch(share.root / "run", tmp_path / "said")
    chance = random.Random(new_seed())
    with ShapedProxy("127.0.0.1", server.port, rtt_s=RTT_S) as proxy:
        near, far = f":{server.port}/", f":{proxy.port}/"
        remote = Remote(server.url.replace(near, far), server.user, server.password)
        place = f"{share.location}/run".replace(near, far)

        def train(spool: str, begun: Path) -> None:
            run = open_run(place, tmp_path, spool, remote=remote, keep_last=1)
            spoil(run)
            step = restored_step(run)
            assert step is not None
            for later in range(step + 1, step + 100):
                with begun.open("a") as lines:
                    lines.write(f"{later}\n")
                run.save(state_of(later), later).wait("confirmed", timeout_s=60)
                watch.say(later)

        with open_run(place, tmp_path, "first", remote=remote, keep_last=1) as run:
            save_steps(run, 0)
        watch.say(0)
        with watch.running():
            for number in range(kills):
                begun = tmp_path / f"begun-{number}"
                child = in_a_child(lambda number=number, begun=begun: train(f"spool-{number}", begun))  # type: ignore[misc]
                fatal = 1 + number % 4
                wait_for(lambda: begun.exists() and len(begun.read_text().split()) >= fatal)  # noqa: B023
                time.sleep(chance.uniform(0.0, 20 * RTT_S))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                with open_run(place, tmp_path, f"look-{number}", remote=remote) as run:
                    assert run.verify() == {}
                    if (restored_step(run) or 0) < watch.confirmed():
                        watch.gaps.append(watch.confirmed())
    tell(f"{kills} kills, {watch.confirmed()} saves confirmed, {watch.looks} looks")
    assert watch.looks > kills
    return watch


def test_killed_at_each_save_what_was_confirmed_is_always_there(apache: ApacheServer, tmp_path: Path) -> None:
    """Six kills, while an observer looks all the time."""
    assert kill_at_each_save(6, apache, tmp_path).gaps == []


@pytest.mark.long
def test_killed_at_many_saves_what_was_confirmed_is_always_there(apache: ApacheServer, tmp_path: Path) -> None:
    """The same with more kills."""
    assert kill_at_each_save(24, apache, tmp_path).gaps == []


def test_who_looks_from_outside_sees_what_goes_too_early(apache: ApacheServer, tmp_path: Path) -> None:
    """The proof itself works: a run that removes the last confirmed checkpoint first is found out."""
    assert kill_at_each_save(4, apache, tmp_path, remove_before_sending).gaps != []
