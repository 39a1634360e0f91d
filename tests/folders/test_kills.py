"""A copier that is killed at random moments leaves whole files alone, and the next call fetches just the rest."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ai4os_data import Remote, local_copy
from tests.support.copies import MIB, differences, keys_of, left_over, missing, put, remove
from tests.support.crowd import Worker, wait_for
from tests.support.servers import WsgidavServer
from tests.support.shares import Share
from tests.support.sources import content, new_seed, spread, tell

if TYPE_CHECKING:
    from pathlib import Path

LARGE = "large/in ranges.bin"


@dataclass(frozen=True)
class Copier:
    """A process that copies once."""

    location: str
    remote: Remote | None
    directory: Path

    def __call__(self) -> float:
        """Do it; how many files came."""
        return local_copy(self.location, self.directory, remote=self.remote, progress=False).stats()["fetched"]


@dataclass
class Source:
    """A folder on a server that changes all the time: small files and middling ones, and one that comes in ranges."""

    share: Share
    chance: random.Random
    files: dict[str, bytes] = field(default_factory=dict)
    version: int = 0

    def change(self, part: float, large: float) -> None:
        """Let some files change, vanish and appear.

        Args:
            part: how many of them.
            large: how often the large one does.
        """
        self.version += 1
        sizes = spread(120, 10, 300_000, seed=self.version)
        new = {
            f"class-{number % 5}/{number:03d}.bin": content(f"{number} {self.version}", size_bytes)
            for number, size_bytes in enumerate(sizes)
            if self.chance.random() < part
        }
        if self.chance.random() < large or not self.files:
            new[LARGE] = content(f"large {self.version}", 17 * MIB + self.version)
        gone = [key for key in self.files if key not in new and self.chance.random() < part / 5]
        put(self.share.root, new, later_s=1000 * self.version)
        remove(self.share.root, gone)
        self.files = {key: data for key, data in {**self.files, **new}.items() if key not in gone}


def kill_often(share: Share, target: Path, kills: int) -> None:
    """Change the source, kill a copier of it at a random moment, and let the next call do the rest; again and again.

    The moments are so early that most of the copiers die, however fast the machine is. What lies under a name after a
    kill is one whole version, the old or the new; the next call fetches exactly the files that are not the new one, and
    then `diff -r` is empty.
    """
    chance = random.Random(new_seed())
    source = Source(share, chance)
    copier = Copier(share.location, share.remote, target)
    came, died, longest_s = [], 0, 0.3
    for number in range(kills):
        before = {key: (target / key).read_bytes() for key in keys_of(target)}
        if number % 10 == 9:  # the directory is gone, and what is known of it is not
            shutil.rmtree(target)
        source.change(1.0 if number == 0 else 0.3, 0.3)
        victim = Worker(copier)
        time.sleep(chance.uniform(0.0, longest_s))
        is_alive = victim.process.is_alive()
        died += is_alive
        longest_s *= 1.1 if is_alive else 0.7
        victim.kill()
        for key in keys_of(target):
            assert (target / key).read_bytes() in {before.get(key), source.files.get(key)}, f"{key} is torn"
        left = missing(share.root, target)
        fetched = local_copy(share.location, target, remote=share.remote, progress=False).stats()["fetched"]
        assert fetched == len(left)
        assert differences(share.root, target) == ""
        came.append(len(left))
    tell(f"{died} of {kills} died on their way, {sum(came)} files were left for the next call")
    assert died > kills // 2
    assert sum(came) > kills


def test_killed_some_times(cloud_share: Share, tmp_path: Path) -> None:
    """Archives of a Nextcloud, single files, and ranges: the next call fetches just what is missing."""
    kill_often(cloud_share, tmp_path / "copy", 8)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_fifty_times_over_nextcloud(cloud_share: Share, tmp_path: Path) -> None:
    """The same, fifty times, with the costs of a server that works for its answers."""
    server = cloud_share.server
    server.set_costs(request_cost_s=0.005, member_cost_s=0.0005)  # type: ignore[attr-defined]
    try:
        kill_often(cloud_share, tmp_path / "copy", 50)
    finally:
        server.set_costs(request_cost_s=0.0, member_cost_s=0.0)  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_fifty_times_over_webdav(share: Share, tmp_path: Path) -> None:
    """Parallel GETs of single files."""
    kill_often(share, tmp_path / "copy", 50)


def test_interrupted_by_a_user(tmp_path: Path) -> None:
    """Ctrl-C ends it at once, and leaves whole files and nothing else; the next call fetches the rest."""
    chance = random.Random(new_seed())
    with WsgidavServer(tmp_path / "server", latency_s=0.02) as server:
        share = Share(server)
        put(share.root, {f"{number}.bin": content(f"{number}", 50_000) for number in range(400)})
        put(share.root, {LARGE: content("large", 17 * MIB)})
        interrupted = []
        for number in range(5):
            target = tmp_path / f"copy-{number}"
            victim = Worker(Copier(share.location, share.remote, target))
            wait_for(lambda target=target: len(keys_of(target)) > 10)  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.2))
            begun = time.monotonic()
            os.kill(victim.process.pid or 0, signal.SIGINT)
            with pytest.raises(AssertionError, match="KeyboardInterrupt"):
                victim.result()
            assert time.monotonic() - begun < 5
            left = missing(share.root, target)
            assert left_over(target) == []
            assert all((target / key).read_bytes() == (share.root / key).read_bytes() for key in keys_of(target))
            copy = local_copy(share.location, target, remote=share.remote, progress=False)
            assert copy.stats()["fetched"] == len(left)
            assert differences(share.root, target) == ""
            interrupted.append(len(left))
        tell(f"{interrupted} of 401 files were left")
        assert any(interrupted)
