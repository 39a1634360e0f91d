"""A spooled checkpoint survives its process, is found by the next start, and is never taken from a living process."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from ai4os_data import errors
from ai4os_data.cache import spool_candidates
from ai4os_data.checkpoint.manifest import Manifest
from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName
from ai4os_data.checkpoint.space import parse_limit
from ai4os_data.checkpoint.spool import Spool, Spooled, _manifest_in
from tests.support.disks import tmpfs
from tests.support.runs import drop_sent_of_others

ATTEMPT = AttemptName(1, "0123abcd")


def write(spool: Spool, step: int, attempt: AttemptName = ATTEMPT) -> Spooled:
    """Write a small checkpoint."""
    return spool.write(Manifest(CheckpointName.new(attempt, step), {}), {"step": step})


def test_next_start_finds_what_the_dead_have_left(tmp_path: Path) -> None:
    """Complete checkpoints are found with their levels; unfinished ones are removed."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    first, second = write(spool, 1), write(spool, 2)
    spool.note(first, "confirmed")
    begun = first.folder.with_name("step-000000003-00000000.new")
    half = first.folder.with_name("step-000000004-00000000")
    for path in (begun, half):
        path.mkdir()
        (path / "half").write_bytes(b"x")
    again = Spool(tmp_path, "run")
    assert again.adopt() == []
    assert again.attempts() == [ATTEMPT]
    spool.let_go()
    left = Spool(tmp_path, "run").adopt()
    assert [(spooled.name, spooled.level) for spooled in left] == [(first.name, "confirmed"), (second.name, "local")]
    assert all(spooled.is_intact() for spooled in left)
    assert not begun.exists()
    assert not half.exists(), "it has no manifest any more"


@pytest.mark.parametrize("damage", ["another version", "unreadable", "foreign file"])
def test_what_cannot_be_used_is_left_alone(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint of another version, a damaged manifest and somebody's notes stay."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    folder = write(spool, 1).folder
    spool.let_go()
    if damage == "another version":
        (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    elif damage == "unreadable":
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).mkdir()
    else:
        Spool(tmp_path, "run").adopt()
        folder = folder.rename(folder.with_name("kept by hand"))
    again = Spool(tmp_path, "run")
    assert again.adopt() == []
    again.let_go()
    assert list(folder.glob("state-*"))
    assert (str(folder) in caplog.text) == (damage != "foreign file")


def test_start_that_can_open_no_file_does_not_pass_a_checkpoint_over(tmp_path: Path) -> None:
    """Otherwise an older checkpoint would be restored in silence."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    spooled = write(spool, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(errors.OpenFilesError, match="ulimit"):
            _manifest_in(spooled.folder, spooled.name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_journal_that_was_cut_off_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    """A torn line is ignored; then its checkpoint is sent again, which does no harm."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    spooled = [write(spool, step) for step in (1, 2)]
    for one in spooled:
        spool.note(one, "confirmed")
    journal = spooled[0].folder.parent / "journal"
    journal.write_bytes(journal.read_bytes()[:-5])
    spool.let_go()
    assert [one.level for one in Spool(tmp_path, "run").adopt()] == ["confirmed", "local"]


def test_runs_do_not_see_each_other(tmp_path: Path) -> None:
    """Two runs in one directory are separate."""
    one, other = Spool(tmp_path, "one"), Spool(tmp_path, "other")
    one.open_attempt(ATTEMPT)
    write(one, 1)
    one.let_go()
    assert other.adopt() == []
    assert one.space.used_bytes() == other.space.used_bytes() > 0


def test_removed_checkpoint_is_gone_with_its_attempt(tmp_path: Path) -> None:
    """Nothing is left of a run that was sent."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    spooled = write(spool, 1)
    assert spool.entries()[0] is spooled
    spool.remove(spooled)
    spool.remove(spooled)
    assert spool.entries() == []
    spool.let_go()
    assert not spool.folder.exists()


def test_damaged_copy_is_not_intact(tmp_path: Path) -> None:
    """A cut, flipped or missing file is noticed."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    spooled = write(spool, 1)
    (path,) = spooled.folder.glob("state-*")
    data = path.read_bytes()
    for damaged in (data[:-1], bytes([data[0] ^ 1]) + data[1:]):
        path.write_bytes(damaged)
        assert not spooled.is_intact()
    path.unlink()
    assert not spooled.is_intact()


def test_download_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    """The download of a living process stays."""
    spool = Spool(tmp_path, "run")
    living = spool.scratch()
    child = os.fork()
    if child == 0:
        spool.scratch()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(spool.folder.glob("restore-*"))) == 2
    Spool(tmp_path, "run").adopt()
    assert list(spool.folder.glob("restore-*")) == [living]


def test_room_is_that_of_the_disk_and_the_limit(tmp_path: Path) -> None:
    """A reserve is left for everything else."""
    with tmpfs(tmp_path / "disk", 10 * 1024 * 1024):
        Spool(tmp_path / "disk", "run").space.check(8_000_000)
        with pytest.raises(errors.OutOfSpaceError, match="bytes are free on its disk"):
            Spool(tmp_path / "disk", "run").space.check(10_200_000)
        with pytest.raises(errors.OutOfSpaceError, match="0 bytes of 1,000,000 are taken"):
            Spool(tmp_path / "disk", "run", 1_000_000).space.check(1_000_001)


def test_default_directory_is_beside_that_of_the_cache() -> None:
    """The environment may name another one; it is never in main memory."""

    def default(environ: dict[str, str]) -> Path:
        return Path(next(spool_candidates(environ)))

    assert default({"AI4OS_DATA_SPOOL": "/scratch/spool"}) == Path("/scratch/spool")
    assert default({"XDG_CACHE_HOME": "/scratch"}) == Path("/scratch/ai4os-data-spool")
    assert default({"HOME": "/root"}) == Path("/root/.cache/ai4os-data-spool")
    assert default({"HOME": "/dev/shm"}).name == f"ai4os-data-spool-{os.getuid()}"
    assert (parse_limit("2GiB"), parse_limit("auto"), parse_limit(None)) == (2 << 30, None, None)


def test_spool_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    """The error says what to do."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.CheckpointError, match="give StorageCheckpoint another"):
        Spool(tmp_path / "file", "run")


def test_what_other_runs_have_sent_gives_way(tmp_path: Path) -> None:
    """Living runs keep their checkpoints, and so do those whose store lacks them."""
    other, living, mine = Spool(tmp_path, "other"), Spool(tmp_path, "living"), Spool(tmp_path, "mine")
    for spool in (other, living):
        spool.open_attempt(ATTEMPT)
        sent, unsent = write(spool, 1), write(spool, 2)
        spool.note(sent, "confirmed")
        assert unsent.level == "local"
    other.let_go()
    drop_sent_of_others(mine)
    assert [spooled.name.step for spooled in Spool(tmp_path, "other").adopt()] == [2]
    living.let_go()
    assert [spooled.name.step for spooled in Spool(tmp_path, "living").adopt()] == [1, 2]


def test_limit_counts_what_a_state_takes_without_its_tensors(tmp_path: Path) -> None:
    """A state that turns out to be too large leaves nothing."""
    spool = Spool(tmp_path, "run", 2**20)
    spool.open_attempt(ATTEMPT)
    name = CheckpointName.new(ATTEMPT, 1)
    with pytest.raises(errors.OutOfSpaceError, match=r"of 1,048,576 are taken"):
        spool.write(Manifest(name, {}), {"text": "x" * 2**21})
    assert spool.space.used_bytes() < 2**20
    spool.space.check_disk(2**21)  # a download does not stay, and the limit does not bind it
