"""A training that is killed at random moments ends with the losses and the samples of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ai4os_data import DiskCache, Remote, StorageCheckpoint, StorageDataset
from tests.support.crowd import wait_for
from tests.support.servers import ShapedProxy
from tests.support.shares import Folder, Share
from tests.support.sources import new_seed, tell
from tests.support.training import features, files, number_of, train

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ai4os_data.stores import Level
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import Server, WsgidavServer

STEP_S = 0.01
STEPS_A_LIFE = 30
DATA, BETWEEN = "in the data", "between data and manifest"


def noted(path: Path) -> dict[int, str]:
    """Return the last line of each step; a line that was cut off does not count."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {int(line.split()[0]): line for line in lines if len(line.split()) == 3}


@dataclass(frozen=True)
class Life:
    """A training in a fork of this process, which has imported torch already, until it is killed or done."""

    location: str
    remote: Remote | None
    notes: Path
    steps: int
    step_s: float = STEP_S
    workers: int = 0

    def start(self, machine: Path) -> int:
        """Start it, with spool and cache in a folder that stands for the machine; its pid."""
        child = os.fork()
        if child:
            return child
        try:
            dataset = StorageDataset(
                f"{self.location}/data",
                remote=self.remote,
                decode=features,
                target=number_of,
                cache=DiskCache(machine / "cache", "64MiB"),
            )
            where = f"{self.location}/run"
            with StorageCheckpoint(where, remote=self.remote, spool=machine / "spool", keep_last=1) as run:
                tell_phases(run, machine)
                train(run, dataset, self.notes, self.steps, step_s=self.step_s, workers=self.workers)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  the parent sees the code, and whoever looks sees the words
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(1)


def tell_phases(run: StorageCheckpoint, machine: Path) -> None:
    """Let an upload write down its phase."""
    plain = run.saver.store.write_confirmed

    def telling(key: str, *arguments: Any, **options: Any) -> Level:
        is_data = key.endswith(".pt")
        tell_phase(machine, DATA if is_data else BETWEEN if key.endswith("MANIFEST.json") else "elsewhere")
        level = plain(key, *arguments, **options)
        tell_phase(machine, BETWEEN if is_data else "elsewhere")
        return level

    run.saver.store.write_confirmed = telling  # type: ignore[method-assign]


def tell_phase(machine: Path, phase: str) -> None:
    """Write the phase at once, so that a kill leaves all of it or nothing."""
    (machine / "phase.new").write_text(phase)
    (machine / "phase.new").replace(machine / "phase")


def phase_of(machine: Path) -> str:
    """The phase of an upload, or the phase in which it died."""
    return (machine / "phase").read_text() if (machine / "phase").exists() else "elsewhere"


def check_kills(
    server: Server,
    kills: int,
    tmp_path: Path,
    *,
    rtt_s: float,
    in_phases: Mapping[str, int] = MappingProxyType({}),
    machine_is_lost: bool = False,
    workers: int = 0,
) -> Counter[str]:
    """Kill a training so often, let it end, and compare with one that was left alone; at what moments it died.

    The moments are random; so many of them are random ones of a phase, since a short phase would be met seldom.
    """
    steps = kills * STEPS_A_LIFE
    torch.optim.Adam([torch.zeros(1)])  # imports what each life would import anew, for two seconds
    reference, notes, machine = tmp_path / "reference", tmp_path / "notes", tmp_path / "machine"
    alone, share = Folder(tmp_path / "alone"), Share(server)
    for place in (alone, share):
        place.put({f"data/{name}": data for name, data in files().items()})
    life = Life(alone.location, None, reference, steps, step_s=0.0)
    assert os.waitpid(life.start(tmp_path / "another machine"), 0)[1] == 0
    chance = random.Random(new_seed())
    wanted = [phase for phase, count in in_phases.items() for _ in range(count)]
    wanted += [""] * (kills - len(wanted))
    chance.shuffle(wanted)
    phases: Counter[str] = Counter()
    with ShapedProxy("127.0.0.1", server.port, rtt_s=rtt_s) as proxy:
        near, far = f":{server.port}/", f":{proxy.port}/"
        remote = Remote(server.url.replace(near, far), server.user, server.password)
        life = Life(share.location.replace(near, far), remote, notes, steps, workers=workers)
        for number, phase in enumerate(wanted):
            machine = tmp_path / f"machine-{number}" if machine_is_lost else machine
            before = len(notes.read_bytes()) if notes.exists() else 0
            child = life.start(machine)
            wait_for(lambda before=before: notes.exists() and len(notes.read_bytes()) > before)  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 1.5 * STEPS_A_LIFE * STEP_S))
            if phase:
                wait_for(lambda machine=machine, phase=phase: phase_of(machine) == phase)  # type: ignore[misc]
                time.sleep(chance.uniform(0.0, rtt_s / 2))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            phases[phase_of(machine)] += 1
        last = replace(life, step_s=0.0)
        assert os.waitpid(last.start(machine), 0)[1] == 0
    expected, found = noted(reference), noted(notes)
    assert sorted(expected) == list(range(1, steps + 1))
    assert {step: found[step] for step in expected} == expected
    tell(f"{kills} kills: {dict(phases)}")
    return phases


@pytest.mark.parametrize(("machine_is_lost", "workers"), [(False, 0), (True, 2)], ids=["same machine", "new machine"])
def test_killed_training_ends_as_if_it_had_been_left_alone(
    machine_is_lost: bool,  # noqa: FBT001
    workers: int,
    wsgidav: WsgidavServer,
    tmp_path: Path,
) -> None:
    """After five kills the losses and samples are the same bit for bit."""
    check_kills(wsgidav, 5, tmp_path, rtt_s=0.002, machine_is_lost=machine_is_lost, workers=workers)


@pytest.mark.usefixtures("small_chunks")
def test_training_killed_in_uploads_in_chunks(nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """Each upload goes in several chunks, and resumes with those that have arrived."""
    nextcloud.forget()
    phases = check_kills(nextcloud, 6, tmp_path, rtt_s=0.005, in_phases={DATA: 4})
    assert phases[DATA] >= 3, "one may have just ended when it was killed"
    assert any(request.method == "MOVE" for request in nextcloud.requests())


@pytest.mark.long
def test_training_killed_at_fifty_random_moments(nextcloud: NextcloudServer, tmp_path: Path) -> None:
    """Many of the kills are in an upload, and some between data and manifest."""
    phases = check_kills(nextcloud, 50, tmp_path, rtt_s=0.02, in_phases={DATA: 14, BETWEEN: 9})
    assert phases.total() == 50
    assert phases[DATA] >= 10
    assert phases[BETWEEN] >= 5
