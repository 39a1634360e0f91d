"""The examples of Lightning and DDP do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*command: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with its temporary files in ``scratch``."""
    environ = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, env=environ)


@pytest.mark.parametrize("where", ["server", "directory"])
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("lightning_training.py",), ["ended at step 40,", "begun at step 40, ended at step 128"]),
        (
            (*TORCHRUN, "ddp.py"),
            [
                "epoch 0: 256 of 256 samples came to exactly one rank",
                "epoch 1: 256 of 256 samples came to exactly one rank",
                "256 files were fetched by both together; each took 16 steps an epoch",
            ],
        ),
    ],
    ids=["lightning", "ddp"],
)
def test_example_does_what_it_says_and_leaves_nothing(
    command: tuple[str, ...], told: list[str], where: str, tmp_path: Path
) -> None:
    """On a server of its own, and on a storage of the user."""
    scratch, place = tmp_path / "scratch", tmp_path / "storage"
    scratch.mkdir()
    place.mkdir()
    arguments = [str(place)] if where == "directory" else []
    *python, name = command
    answer = run(*python, str(EXAMPLES / name), *arguments, scratch=scratch)
    assert answer.returncode == 0, answer.stderr
    for line in told:
        assert line in answer.stdout
    left = [path.name for path in scratch.iterdir()]
    assert [name for name in left if not name.startswith("torch")] == []  # torch and its inductor make those
    assert list(place.iterdir()) == []


def test_ddp_tells_how_it_is_started(tmp_path: Path) -> None:
    """Where nobody has started ranks."""
    answer = run(str(EXAMPLES / "ddp.py"), scratch=tmp_path)
    assert answer.returncode == 1
    assert "torchrun --nproc-per-node 2" in answer.stderr
