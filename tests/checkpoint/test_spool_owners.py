"""A spool removes, reads and sends only its own files, whatever a journal says or another user has put there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint import StorageCheckpoint, leftovers
from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.checkpoint.spool import Spool
from ai4os_data.checkpoint.spool_directory import usable_directory
from ai4os_data.machine import mounts
from tests.checkpoint.test_spool import ATTEMPT, write
from tests.support.disks import make_read_only, tmpfs
from tests.support.owners import NOBODY, as_root, public_folder
from tests.support.runs import drop_sent_of_others, open_run, save_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that everybody may write to; there is no other place for a spool."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    return public_folder(tmp_path, monkeypatch)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The attempt's folder of a closed run, with one checkpoint that has arrived and one that has not."""
    spool = Spool(tmp_path / "spool", "closed")
    spool.open_attempt(ATTEMPT)
    spool.note(write(spool, 1), "confirmed")
    write(spool, 2)
    spool.let_go()
    return spool.folder / str(ATTEMPT)


def victim_of(tmp_path: Path) -> Path:
    """A folder outside every spool, which must stay."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_bytes(b"years of work")
    return victim


FABRICATED: dict[str, Callable[[Path], object]] = {
    "absolute": lambda victim: {"checkpoint": str(victim), "level": "confirmed"},
    "upward": lambda victim: {"checkpoint": f"../../{victim.name}", "level": "confirmed"},
    "upward from a name": lambda victim: {"checkpoint": f"{ATTEMPT}/../../../{victim.name}", "level": "confirmed"},
    "empty": lambda _: {"checkpoint": "", "level": "confirmed"},
    "dot": lambda _: {"checkpoint": ".", "level": "confirmed"},
    "attempt": lambda _: {"checkpoint": str(ATTEMPT), "level": "confirmed"},
    "other attempt": lambda _: {"checkpoint": "000002-0123abcd/step-000000002-00000000", "level": "confirmed"},
    "zero byte": lambda victim: {"checkpoint": f"{victim}\0", "level": "confirmed"},
    "number": lambda _: {"checkpoint": 7, "level": "confirmed"},
    "list": lambda victim: {"checkpoint": [str(victim)], "level": ["confirmed"]},
    "no object": lambda victim: [str(victim), "confirmed"],
    "text": str,
    "digits": lambda _: {"checkpoint": f"{ATTEMPT}/step-{'9' * 5000}-00000000", "level": "confirmed"},
}


@pytest.mark.parametrize("kind", FABRICATED)
def test_journal_names_nothing_but_checkpoints_of_its_attempt(tmp_path: Path, closed: Path, kind: str) -> None:
    """Nothing outside is removed, and unsent checkpoints stay."""
    victim = victim_of(tmp_path)
    with (closed / "journal").open("a") as file:
        file.write(json.dumps(FABRICATED[kind](victim)) + "\n")
    mine = Spool(tmp_path / "spool", "mine")
    drop_sent_of_others(mine)
    leftovers.sweep(mine.directory, mine.folder)
    assert (victim / "thesis.txt").exists()
    assert [spooled.name.step for spooled in Spool(tmp_path / "spool", "closed").adopt()] == [2]


@pytest.mark.parametrize("data", [b"\xff\xfe\0" * 1000, b"[" * 500_000 + b"\n", b"{" * 2**20, b"\n" * 1000])
def test_journal_of_anything_is_no_error(tmp_path: Path, closed: Path, data: bytes) -> None:
    """Binary, huge and deeply nested lines are ignored; lines before and after them count."""
    journal = closed / "journal"
    journal.write_bytes(data + b"\n" + journal.read_bytes() + data)
    drop_sent_of_others(Spool(tmp_path / "spool", "mine"))
    assert [spooled.name.step for spooled in Spool(tmp_path / "spool", "closed").adopt()] == [2]


def replaced_by_link(path: Path, tmp_path: Path) -> Path:
    """Move a folder away, and put a link to it in its place; the new path."""
    moved = tmp_path / f"moved {path.name}"
    path.rename(moved)
    path.symlink_to(moved)
    return moved


@pytest.mark.parametrize("part", ["attempt", "checkpoint", "journal", "manifest", "state"])
def test_what_lies_behind_a_link_is_neither_taken_over_nor_removed(tmp_path: Path, closed: Path, part: str) -> None:
    """A link to an attempt, a checkpoint or a file is not followed."""
    (checkpoint,) = closed.glob("step-000000001-*")
    (state,) = checkpoint.glob("state-*")
    parts = {"checkpoint": checkpoint, "journal": closed / "journal", "manifest": checkpoint / "MANIFEST.json"}
    moved = replaced_by_link({"attempt": closed, "state": state, **parts}[part], tmp_path)
    drop_sent_of_others(Spool(tmp_path / "spool", "mine"))
    assert moved.exists()
    left = Spool(tmp_path / "spool", "closed").adopt()
    assert moved.exists()
    assert [spooled.name.step for spooled in left] == ({"attempt": [], "journal": [1, 2]}.get(part, [2]))


def test_folder_of_a_run_that_is_a_link_is_refused(tmp_path: Path, closed: Path) -> None:
    """Nothing is written through it, and a sweep does not look into it."""
    moved = replaced_by_link(closed.parent, tmp_path)
    with pytest.raises(errors.CheckpointError, match="it is a symbolic link of user"):
        Spool(tmp_path / "spool", "closed")
    drop_sent_of_others(Spool(tmp_path / "spool", "mine"))
    assert len([*moved.glob("*/step-*")]) == 2


def test_link_that_is_put_in_the_place_of_a_folder_later_is_refused(tmp_path: Path) -> None:
    """The next save of the running process raises, and nothing appears behind the link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = open_run(tmp_path / "run", tmp_path)
    save_steps(run, 1)
    folder = run.saver.spool.folder
    folder.rename(tmp_path / "moved")
    folder.symlink_to(elsewhere)
    handle = run.save({"a": 2}, 2)
    with pytest.raises(errors.CheckpointError, match="symbolic link"):
        handle.wait(timeout_s=20)
    assert [*elsewhere.iterdir()] == []
    with pytest.raises(errors.CheckpointError, match="symbolic link"):
        run.close()


def test_directory_that_becomes_a_link_later_is_refused(tmp_path: Path) -> None:
    """A link is followed at the start of the run, and a later one is not."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    spool = Spool(tmp_path / "spool", "run")
    spool.open_attempt(ATTEMPT)
    spool.directory.rename(tmp_path / "moved")
    (tmp_path / "spool").symlink_to(elsewhere)
    with pytest.raises(errors.CheckpointError, match="it is a symbolic link of user"):
        write(spool, 1)
    assert [*elsewhere.iterdir()] == []


def test_removed_directory_is_private_again(tmp_path: Path) -> None:
    """A directory that is made again has the same mode."""
    spool = Spool(tmp_path / "spool", "run")
    spool.open_attempt(ATTEMPT)
    shutil.rmtree(spool.directory)
    write(spool, 1)
    assert {path.stat().st_mode & 0o777 for path in [spool.directory, *spool.directory.rglob("*")]} == {0o700, 0o600}


@as_root
def test_directory_that_another_user_makes_after_a_removal_is_refused(tmp_path: Path) -> None:
    """It is refused during the run as at its start."""
    spool = Spool(tmp_path / "spool", "run")
    spool.open_attempt(ATTEMPT)
    shutil.rmtree(spool.directory)
    spool.directory.mkdir()
    os.chown(spool.directory, NOBODY, NOBODY)
    with pytest.raises(errors.CheckpointError, match="belongs to another user"):
        write(spool, 1)
    assert [*spool.directory.iterdir()] == []


def test_pipe_in_the_place_of_a_journal_is_not_waited_for(tmp_path: Path, closed: Path) -> None:
    """It counts as empty, and writing to it logs a warning."""
    (closed / "journal").unlink()
    os.mkfifo(closed / "journal")
    spool = Spool(tmp_path / "spool", "closed")
    first, _ = spool.adopt()
    assert first.level == "local"
    spool.note(first, "confirmed")


def test_link_of_the_user_to_a_larger_disk_is_followed(tmp_path: Path) -> None:
    """A named directory may be the user's own link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "spool").symlink_to(tmp_path / "disk")
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
        assert run.saver.spool.folder.parent == tmp_path / "disk"


@as_root
def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """The error names the owner and what to give; a folder that this process makes in it is accepted."""
    (tmp_path / "spool").mkdir()
    os.chown(tmp_path / "spool", NOBODY, NOBODY)
    with pytest.raises(errors.CheckpointError, match=rf"another user \(user {NOBODY} .*AI4OS_DATA_SPOOL"):
        open_run(tmp_path / "run", tmp_path)
    with open_run(tmp_path / "run", tmp_path, "spool/mine") as run:
        save_steps(run, 1)


@as_root
@pytest.mark.parametrize("part", ["run", "attempt", "checkpoint"])
def test_what_another_user_has_put_into_a_spool_is_not_taken_over(tmp_path: Path, closed: Path, part: str) -> None:
    """A run's folder is refused; an attempt or a checkpoint is left alone."""
    (checkpoint,) = closed.glob("step-000000001-*")
    os.chown({"run": closed.parent, "attempt": closed, "checkpoint": checkpoint}[part], NOBODY, NOBODY)
    drop_sent_of_others(Spool(tmp_path / "spool", "mine"))
    assert checkpoint.exists()
    if part == "run":
        with pytest.raises(errors.CheckpointError, match=f"a folder of user {NOBODY}"):
            Spool(tmp_path / "spool", "closed")
    else:
        steps = [spooled.name.step for spooled in Spool(tmp_path / "spool", "closed").adopt()]
        assert steps == ([] if part == "attempt" else [2])


def take_by_folder(path: Path) -> None:
    """Occupy a name as another user would, with a folder."""
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)


def take_by_link(path: Path) -> None:
    """Occupy it with a link to a folder of ours."""
    target = path.parent.parent / "target"
    target.mkdir()
    path.symlink_to(target)


def take_by_mode(path: Path) -> None:
    """Occupy it with a folder that everybody may write to."""
    path.mkdir()
    path.chmod(0o777)


@pytest.mark.parametrize(
    ("take", "message"),
    [
        pytest.param(take_by_folder, "belongs to another user", marks=as_root),
        (take_by_link, "is a symbolic link"),
        (take_by_mode, r"can be written by others \(mode 0777\)"),
        (lambda path: path.write_bytes(b""), "File exists"),
    ],
)
def test_spool_among_temporary_files_has_to_be_ours_alone(
    temporary: Path, take: Callable[[Path], Any], message: str
) -> None:
    """Its name can be guessed, so another user's folder is refused before anything is written."""
    path = temporary / f"ai4os-data-spool-{os.getuid()}"
    take(path)
    with pytest.raises(errors.CheckpointError, match=f"{message}.*AI4OS_DATA_SPOOL"):
        usable_directory(os.environ)
    assert path.is_file() or [*path.iterdir()] == []


def test_spool_among_temporary_files_is_private(temporary: Path, tmp_path: Path) -> None:
    """It is used, and logged, if the user's own directory cannot be; the next start finds it again."""
    spool = tmp_path / "xdg-cache"
    spool.write_bytes(b"")
    path = usable_directory(os.environ)
    assert path == temporary / f"ai4os-data-spool-{os.getuid()}"
    assert path.stat().st_mode & 0o777 == 0o700
    assert usable_directory(os.environ) == path


@pytest.mark.parametrize("told", [{}, {"HOME": ""}, {"HOME": "relative"}, {"XDG_CACHE_HOME": "relative", "HOME": "~"}])
def test_user_without_a_home_has_a_spool_among_temporary_files(told: dict[str, str], public: Path) -> None:
    """A container may run under a number without a name; nothing is made in the current directory."""
    child = os.fork()
    if child == 0:
        outcome = 1
        try:
            if os.geteuid() == 0:
                os.setgid(54321)
                os.setuid(54321)
            os.chdir(public)
            tempfile.tempdir = str(public)
            for name in ("HOME", "XDG_CACHE_HOME", "AI4OS_DATA_SPOOL"):
                os.environ.pop(name, None)
            os.environ.update(told)
            with open_run(public / "run", public) as run:
                run.saver.spool = Spool(usable_directory(os.environ), "other")
                assert run.saver.spool.directory == public / f"ai4os-data-spool-{os.getuid()}" or os.geteuid() != 54321
            assert not (public / "~").exists()
            outcome = 0
        finally:
            os._exit(outcome)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that a user who is not root can work in too."""
    directory = Path(tempfile.mkdtemp(prefix="ai4os-data-test-"))
    directory.chmod(0o1777)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "text",
    [
        "0000001-0123abcd",
        "\u0660\u0660\u0660\u0660\u0660\u0661-0123abcd",
        "00001-0123abcd",
        "000001-0123ABCD",
        "1" * 300,
    ],
)
def test_another_spelling_of_a_name_is_no_name(text: str) -> None:
    """It would mean another folder than the one that was seen."""
    assert AttemptName.parse(text) is None
    assert CheckpointName.parse(f"{ATTEMPT}/step-{text}") is None
    assert CheckpointName.parse(f"{ATTEMPT}/step-0{10**9}-00000000") is None
    assert CheckpointName.parse(f"{ATTEMPT}/step-{10**9}-00000000") is not None


def test_spool_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument and the variable may hold a tilde, which no shell has expanded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with StorageCheckpoint(tmp_path / "run", spool="~/mine") as run:
        assert run.saver.spool.directory == tmp_path / "mine"
    assert usable_directory({"AI4OS_DATA_SPOOL": "~/told"}) == tmp_path / "told"


def test_read_only_disk_is_passed_over(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is skipped, even if its directory exists; a named directory is an error."""
    with tmpfs(tmp_path / "disk", 2**20) as disk:
        (disk / "ai4os-data-spool").mkdir()
        make_read_only(disk)
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        monkeypatch.setattr(mounts.Mount, "is_memory", property(lambda _: False))
        assert usable_directory(os.environ).parent == temporary
        with pytest.raises(errors.CheckpointError, match=r"Read-only file system.*AI4OS_DATA_SPOOL"):
            Spool(disk / "ai4os-data-spool", "run")


def test_machine_without_a_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named spool works; without one the error says what to give."""

    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.CheckpointError, match="AI4OS_DATA_SPOOL"):
        usable_directory({"AI4OS_DATA_SPOOL": str(tmp_path / "file")})
