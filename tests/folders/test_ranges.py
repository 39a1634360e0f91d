"""A copy that was killed in a large file goes on from there: whole ranges stay, of one version by its strong ETag."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ai4os_data import local_copy
from ai4os_data.cache import digest
from ai4os_data.errors import OverwriteError
from ai4os_data.folders import parts
from ai4os_data.stores import Entry
from ai4os_data.stores.ranges import RANGE_BYTES
from tests.support.crowd import Worker, wait_for
from tests.support.servers.fault import Fault
from tests.support.shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer

RANGES = 8
DATA = random.Random(1).randbytes((RANGES - 1) * RANGE_BYTES + 12345)
NEWER = random.Random(2).randbytes(len(DATA))


@pytest.fixture
def share(fault: FaultServer) -> Share:
    """A large file and a small one on a server with strong ETags."""
    share = Share(fault)
    share.put({"large.bin": DATA, "small.bin": b"small"})
    return share


def copy(share: Share, directory: Path) -> dict[str, float]:
    """Copy, and return the figures."""
    return local_copy(share.location, directory, remote=share.remote, progress=False).stats()


def killed(share: Share, directory: Path, ranges: int = 3, *, number: int = signal.SIGKILL) -> None:
    """Let a process copy until some ranges have come, and end it."""
    share.server.change(latency_s=0.15)  # type: ignore[attr-defined]
    worker = Worker(partial(copy, share, directory))
    wait_for(lambda: recorded(directory) >= ranges)
    assert worker.process.pid is not None
    os.kill(worker.process.pid, number)
    wait_for(lambda: worker.process.exitcode is not None)
    share.server.change(latency_s=0.0)  # type: ignore[attr-defined]
    share.server.forget()


def recorded(directory: Path) -> int:
    """Return how many ranges are recorded."""
    records = directory.glob(".ai4os-data-*/part-*.ranges")
    return sum(max(0, path.stat().st_size - len(parts._boot())) // 16 for path in records)


def asked(share: Share) -> set[int]:
    """Return where the ranges begin that were asked for, by a killed process too, whose answers were under way."""
    ranges = [request.headers["range"] for request in share.requests("GET") if "range" in request.headers]
    return {int(text.removeprefix("bytes=").partition("-")[0]) for text in ranges}


def is_right(directory: Path, data: bytes = DATA) -> bool:
    """Return whether the files are there, and nothing else."""
    return (
        sorted(os.listdir(directory)) == ["large.bin", "small.bin"] and (directory / "large.bin").read_bytes() == data
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_copy_goes_on_inside_a_file(share: Share, tmp_path: Path, number: int) -> None:
    """Ranges that are recorded do not come again, whatever ended the process."""
    killed(share, tmp_path / "copy", number=number)
    there = recorded(tmp_path / "copy")
    assert there >= 3
    copy(share, tmp_path / "copy")
    assert len(asked(share)) == RANGES - there
    assert is_right(tmp_path / "copy")


def test_another_version_starts_over(share: Share, tmp_path: Path) -> None:
    """What has come of an old version is swept, and no byte of it is used."""
    killed(share, tmp_path / "copy")
    share.put({"large.bin": NEWER})
    copy(share, tmp_path / "copy")
    assert len(asked(share)) == RANGES
    assert is_right(tmp_path / "copy", NEWER)


def test_a_file_that_changes_under_way_comes_in_one_version(share: Share, fault: FaultServer, tmp_path: Path) -> None:
    """The part of the old version is dropped, and the new one is recorded as what it is."""
    killed(share, tmp_path / "copy")
    fault.script(f"{share.name}/large.bin", *[Fault(rewrite=NEWER)] * 4)
    copy(share, tmp_path / "copy")
    assert is_right(tmp_path / "copy", NEWER)
    share.server.forget()
    copy(share, tmp_path / "copy")
    assert share.requests("GET") == []


def test_without_a_strong_etag_it_starts_over(share: Share, fault: FaultServer, tmp_path: Path) -> None:
    """No version can be told from another one then."""
    killed(share, tmp_path / "copy")
    fault.change(etags="none")
    copy(share, tmp_path / "copy")
    assert is_right(tmp_path / "copy")


def test_a_server_that_fails_leaves_what_has_come(share: Share, fault: FaultServer, tmp_path: Path) -> None:
    """The error names the file, what has come stays, and the next call fetches the rest."""
    fault.script(f"{share.name}/large.bin", *[Fault()] * 3, *[Fault(status=403)] * 99)
    with pytest.raises(Exception, match=r"large\.bin"):
        copy(share, tmp_path / "copy")
    there = recorded(tmp_path / "copy")
    assert there >= 1
    assert (tmp_path / "copy" / "small.bin").read_bytes() == b"small"
    fault.heal()
    fault.forget()
    copy(share, tmp_path / "copy")
    assert len(asked(share)) == RANGES - there
    assert is_right(tmp_path / "copy")


def test_the_record_does_not_outlive_the_machine(share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a new start of the machine the bytes may be missing, though they were recorded."""
    killed(share, tmp_path / "copy")
    other = tmp_path / "boot"
    other.write_text("11111111-2222-3333-4444-555555555555\n")
    monkeypatch.setattr(parts, "_BOOT", str(other))
    copy(share, tmp_path / "copy")
    assert len(asked(share)) == RANGES
    assert is_right(tmp_path / "copy")


def test_only_parts_are_spared(share: Share, tmp_path: Path) -> None:
    """What else a killed run has left is swept, parts that nobody wants included."""
    killed(share, tmp_path / "copy")
    (staging,) = (tmp_path / "copy").glob(".ai4os-data-*")
    for name in ("1234", f"part-{'0' * 32}", f"part-{'0' * 32}.ranges", "folder"):
        (staging / name).mkdir() if name == "folder" else (staging / name).write_bytes(b"?")
    there = recorded(tmp_path / "copy")
    copy(share, tmp_path / "copy")
    assert len(asked(share)) == RANGES - there
    assert is_right(tmp_path / "copy")


def test_a_part_that_came_to_its_place_is_not_gone_on_with(share: Share, tmp_path: Path) -> None:
    """A kill between the two names of a file leaves one inode: what was changed there since is not taken for ours."""
    killed(share, tmp_path / "copy", RANGES - 4)
    (part,) = (path for path in (tmp_path / "copy").glob(".ai4os-data-*/part-*") if path.suffix != ".ranges")
    os.link(part, tmp_path / "copy" / "large.bin")
    with pytest.raises(OverwriteError, match=r"large\.bin"):
        copy(share, tmp_path / "copy")
    local_copy(share.location, tmp_path / "copy", remote=share.remote, overwrite=True, progress=False)
    assert len(asked(share)) == RANGES
    assert is_right(tmp_path / "copy")


def test_progress_counts_what_came_before(share: Share, tmp_path: Path) -> None:
    """The bytes that are there already are part of those that are to come."""
    from ai4os_data.folders import Progress, copied_to

    killed(share, tmp_path / "copy")
    seen: list[Progress] = []
    copied_to(share.location, tmp_path / "copy", seen.append, remote=share.remote)
    total = len(DATA) + len(b"small")
    assert seen[-1] == Progress(total, total, 2, 2)
    assert all(one.came_bytes <= other.came_bytes for one, other in pairwise(seen))


def test_names_of_parts() -> None:
    """Another version has another part; a record belongs to its part."""
    names = {parts.name_of(Entry("a", 3, etag)) for etag in ("1", "2")} | {parts.name_of(Entry("b", 3, "1"))}
    assert len(names) == 3
    name = f"part-{digest('x')}"
    assert parts.is_part(f"{name}.ranges", {name})
    assert not parts.is_part(name, set())
    assert not parts.is_part("1234")
