"""The examples do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with its temporary files in ``scratch``."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """On a server of its own; nothing stays behind."""
    answer = run("train_and_survive.py", "--kills", "1", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "killed with SIGKILL" in answer.stdout
    assert answer.stdout.endswith("The weights are the same, bit for bit.\n")
    assert list(tmp_path.iterdir()) == []


def test_example_runs_on_a_storage_of_the_user(tmp_path: Path) -> None:
    """Whatever location is typed."""
    answer = run("train_and_survive.py", str(tmp_path / "runs"), "--kills", "1", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "told", "where"),
    [
        ("quickstart.py", "epoch 2: loss", "server"),
        ("pandas_zarr.py", "is half a table there? False", "server"),
        ("pandas_zarr.py", "is half a table there? False", "directory"),
        ("yolo_folder.py", "24 images, 36 boxes, 36 of them on something bright", "directory"),
        ("segmentation_masks.py", "overlap with the masks", "server"),
    ],
)
def test_example_does_what_it_says_and_leaves_nothing(name: str, told: str, where: str, tmp_path: Path) -> None:
    """On a server of its own, and on a storage of the user."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "storage").mkdir()
    arguments = [str(tmp_path / "storage")] if where == "directory" else []
    answer = run(name, *arguments, scratch=tmp_path / "scratch")
    assert answer.returncode == 0, answer.stderr
    assert told in answer.stdout
    left = [path.name for path in (tmp_path / "scratch").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor_")] == []  # torch makes that one
    assert list((tmp_path / "storage").iterdir()) == []
