"""After a kill at any point, a file is ours if a line describes it, in whatever order lines and renames came."""

from __future__ import annotations

import errno
import json
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import OutOfSpaceError
from ai4os_data.folders.journal import Journal, Written
from ai4os_data.stores import Entry
from tests.support.crowd import Warnings

if TYPE_CHECKING:
    from pathlib import Path


def placed(path: Path, content: bytes) -> Written:
    """Return what a line says of a file that is staged now; the caller renames it."""
    staged = path.with_name(f"{path.name}.{content.decode()}")
    staged.write_bytes(content)
    found = staged.stat()
    return Written(len(content), content.decode(), None, "", found.st_ino, found.st_size, found.st_mtime_ns)


def settled(journal: Journal, path: Path) -> str | None:
    """Return the version that a file is found to be of; None if it is not ours."""
    written = journal.settle(path.name, os.lstat(path))
    return None if written is None else written.etag


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_the_file_before_stays_ours(tmp_path: Path, kills: int) -> None:
    """However often a kill comes between a line and its rename, the file that is there is known."""
    path = tmp_path / "a"
    journal = Journal(f"{tmp_path}/written")
    journal.add("a", placed(path, b"1"))
    os.rename(f"{path}.1", path)
    for number in range(kills):
        journal.add("a", placed(path, b"%d" % (number + 2)))  # and the kill
        journal.close()
        journal = Journal(f"{tmp_path}/written")
        assert settled(journal, path) == "1"
        assert settled(Journal(f"{tmp_path}/written"), path) == "1"


def test_a_rename_makes_the_newest_line_hold(tmp_path: Path) -> None:
    """Once a replacement is there, it is the one that counts."""
    path = tmp_path / "a"
    journal = Journal(f"{tmp_path}/written")
    for content in (b"1", b"22", b"333"):
        journal.add("a", placed(path, content))
        os.rename(f"{path}.{content.decode()}", path)
        journal.close()
        journal = Journal(f"{tmp_path}/written")
        assert settled(journal, path) == content.decode()


def test_a_journal_that_is_written_anew_keeps_lines_that_may_hold(tmp_path: Path) -> None:
    """What nobody has looked at is kept in each version that it may be of."""
    path = tmp_path / "a"
    journal = Journal(f"{tmp_path}/written")
    journal.add("a", placed(path, b"1"))
    os.rename(f"{path}.1", path)
    journal.add("a", placed(path, b"2"))  # killed before its rename
    other = placed(tmp_path / "b", b"1")
    for _ in range(1100):
        journal.add("b", other)
        journal.remove("b")
    journal.tidy()
    assert (tmp_path / "written").read_bytes().count(b"\n") == 2
    assert settled(Journal(f"{tmp_path}/written"), path) == "1"
    journal.add_folder("c")
    journal.close()
    assert Journal(f"{tmp_path}/written").folders == {"c"}


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """A kill in the midst of a line spoils no other one."""
    written = placed(tmp_path / "a", b"1")
    journal = Journal(f"{tmp_path}/written")
    journal.add("a", written)
    journal.close()
    whole = (tmp_path / "written").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "written").write_bytes(whole + whole[:length])
        again = Journal(f"{tmp_path}/written")
        again.add("b", written)
        again.close()
        assert list(Journal(f"{tmp_path}/written").files) == ["a", "b"]


def test_a_damaged_line_costs_only_its_file(tmp_path: Path) -> None:
    """Lines that a power cut has spoilt are left out, and counted in the log."""
    written = placed(tmp_path / "a", b"1")
    lines = [json.dumps([key, *written]) for key in "abc"]
    (tmp_path / "written").write_text(f'{lines[0]}\n{lines[1][:9]}\0\0\n{lines[2]}\n["d", 2, 3]\n')
    with Warnings() as warnings:
        assert list(Journal(f"{tmp_path}/written").files) == ["a", "c"]
    assert len(warnings) == 1
    assert "2 lines are damaged" in warnings[0]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is taken back, so that the next one is whole; the error names the disk of the record."""
    written = placed(tmp_path / "a", b"1")
    journal = Journal(f"{tmp_path}/written")
    journal.add("a", written)
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 9:
            return write(descriptor, data[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        with pytest.raises(OutOfSpaceError, match=r"AI4OS_DATA_COPIES"):
            journal.add("b", written)
    journal.add("c", written)
    journal.close()
    assert list(Journal(f"{tmp_path}/written").files) == ["a", "c"]


def test_less_of_a_file_is_ours_too(tmp_path: Path) -> None:
    """A power cut leaves less of a file, with the date that was set; what is longer, or newer, was changed."""
    path = tmp_path / "a"
    journal = Journal(f"{tmp_path}/written")
    journal.add("a", placed(path, b"12345"))
    os.rename(f"{path}.12345", path)
    date_ns = path.stat().st_mtime_ns
    for content, ours in ((b"", True), (b"123", True), (b"123456", False)):
        with path.open("r+b") as file:
            file.truncate()
            file.write(content)
        os.utime(path, ns=(date_ns, date_ns))
        assert (settled(journal, path) is not None) == ours
    path.write_bytes(b"12345")
    assert settled(journal, path) is None


def test_versions_are_compared_as_listings_do() -> None:
    """A line is of an entry if their versions are the same, and what was made of it too."""
    written = Written(3, "e", None, "shrink", 1, 2, 3)
    entries = [Entry("a", 3, "e"), Entry("a", 3, "f"), Entry("a", 4, "e")]
    assert [written.is_of(entry, "shrink") for entry in entries] == [True, False, False]
    assert not written.is_of(entries[0], "")
    assert all(one != other for one, other in pairwise(entries))
