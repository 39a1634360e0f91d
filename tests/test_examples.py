"""The examples do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(name: str, *arguments: str, scratch: Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with its temporary files in ``scratch``."""
    return subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
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
        ("quickstart.py", ["epoch 2: loss"], "server"),
        ("pandas_zarr.py", ["is half a table there? False"], "server"),
        ("pandas_zarr.py", ["is half a table there? False"], "directory"),
        ("yolo_folder.py", ["24 images, 36 boxes, 36 of them on something bright"], "directory"),
        ("segmentation_masks.py", ["overlap with the masks"], "server"),
        ("lightning_training.py", ["ended at step 40,", "begun at step 40, ended at step 128"], "server"),
        ("lightning_training.py", ["ended at step 40,", "begun at step 40, ended at step 128"], "directory"),
    ],
)
def test_example_does_what_it_says_and_leaves_nothing(name: str, told: list[str], where: str, tmp_path: Path) -> None:
    """On a server of its own, and on a storage of the user."""
    check(name, told, where, tmp_path)


@pytest.mark.parametrize("where", ["server", "directory"])
def test_two_processes_do_what_the_example_says_and_leave_nothing(where: str, tmp_path: Path) -> None:
    """Started by torchrun."""
    told = [
        "epoch 0: 256 of 256 samples came to exactly one rank",
        "epoch 1: 256 of 256 samples came to exactly one rank",
        "256 files were fetched by both together; each took 16 steps an epoch",
    ]
    check("ddp.py", told, where, tmp_path, launcher=TORCHRUN)


def test_ddp_tells_how_it_is_started(tmp_path: Path) -> None:
    """Where nobody has started ranks."""
    answer = run("ddp.py", scratch=tmp_path)
    assert answer.returncode == 1
    assert "torchrun --nproc-per-node 2" in answer.stderr


def check(name: str, told: list[str], where: str, tmp_path: Path, launcher: tuple[str, ...] = ()) -> None:
    """Run an example on a server of its own, or in a directory; both are left as they were."""
    scratch, place = tmp_path / "scratch", tmp_path / "storage"
    scratch.mkdir()
    place.mkdir()
    arguments = [str(place)] if where == "directory" else []
    answer = run(name, *arguments, scratch=scratch, launcher=launcher)
    assert answer.returncode == 0, answer.stderr
    for line in told:
        assert line in answer.stdout
    left = [path.name for path in scratch.iterdir()]
    # torch makes those: its inductor, and torchrun its logs
    assert [name for name in left if not name.startswith(("torchinductor_", "torchelastic_"))] == []
    assert list(place.iterdir()) == []
