"""A local copy has each file of the location, and leaves alone what it did not write."""

from __future__ import annotations

import filecmp
import os
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, local_copy
from ai4os_data.errors import OverwriteError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some files in folders."""
    root = tmp_path / "source"
    for number in range(20):
        path = root / f"class-{number % 3}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(100 * number))
    return root


def test_a_copy_is_what_the_source_is(source: Path, tmp_path: Path) -> None:
    """Names, bytes and dates are those of the source, and a dataset reads the copy."""
    copy = local_copy(source, tmp_path / "copy", progress=False)
    assert not filecmp.dircmp(source, copy).diff_files
    assert sorted(copy.files) == sorted(str(path.relative_to(source)) for path in source.rglob("*.bin"))
    for key in copy.files:
        assert (copy.path / key).read_bytes() == (source / key).read_bytes()
        assert (copy.path / key).stat().st_mtime_ns // 1000 == (source / key).stat().st_mtime_ns // 1000
    assert StorageDataset(copy)[0] == (source / copy.files[0]).read_bytes()


def test_a_second_call_fetches_nothing(source: Path, tmp_path: Path) -> None:
    """What is there already is not fetched again."""
    local_copy(source, tmp_path / "copy", progress=False)
    assert local_copy(source, tmp_path / "copy", progress=False).stats()["fetched"] == 0


def test_a_file_of_somebody_else_stays(source: Path, tmp_path: Path) -> None:
    """A file that was changed here is named, and not written over unless that is asked for."""
    copy = local_copy(source, tmp_path / "copy", progress=False)
    mine = copy.path / "class-0" / "3.bin"
    mine.write_bytes(b"mine")
    with pytest.raises(OverwriteError, match=r"3\.bin"):
        copy.refresh()
    assert mine.read_bytes() == b"mine"
    local_copy(source, copy, overwrite=True, progress=False)
    assert mine.read_bytes() == (source / "class-0" / "3.bin").read_bytes()
